// A row of the canvas in patch order. Everything is static: the kernels are compiled with flags of their own.
#pragma once

#include <algorithm>
#include <cstdint>

namespace maxcrops {

// Calls use(i, n, to) for each patch that values [first, first + count) of a row lie in: values [i, i + n) of them, and
// where they go. `out` is the row's place in the first patch, the other patches follow as a whole.
template <typename Use>
static inline void for_patches(int64_t first, int64_t count, int64_t patch_size, float* out, const Use& use) {
    const int64_t width = 3 * patch_size;
    int64_t at = first % width;
    float* patch = out + first / width * width * patch_size;
    for (int64_t i = 0, n; i < count; i += n, at = 0, patch += width * patch_size) {
        n = std::min(width - at, count - i);
        use(i, n, patch + at);
    }
}

}  // namespace maxcrops
