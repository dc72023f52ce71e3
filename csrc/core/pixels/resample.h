// Where an output pixel of a resized axis reads its input, and with which weights.
//
// Both follow torch's CPU kernels (ATen/native/cpu/UpSampleKernel.cpp) operation by operation, since the same pixels
// are the claim: float32 unless a comment says double.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace maxcrops {

// Bilinear without antialiasing: two neighbours each. weight(first) = 1 - weight, in float32.
struct TwoTapAxis {
    int64_t in = 0;
    std::vector<int32_t> first;  // [out]; the other neighbour is the next pixel, or the same one at the end
    std::vector<float> weight;   // [out] of the other neighbour
};

TwoTapAxis two_tap_axis(int64_t in, int64_t out);

// Bilinear with antialiasing: a window each.
struct WindowAxis {
    int64_t in = 0;
    int64_t stride = 0;           // longest window
    std::vector<int32_t> first;   // [out], never decreasing
    std::vector<int32_t> size;    // [out], at least 1
    std::vector<float> weights;   // [out, stride], 0 behind a window's end

    int64_t end(int64_t i) const { return first[static_cast<size_t>(i)] + size[static_cast<size_t>(i)]; }
};

WindowAxis window_axis(int64_t in, int64_t out);

}  // namespace maxcrops
