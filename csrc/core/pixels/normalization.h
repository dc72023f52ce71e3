// From 8-bit values, or values in 0..1, to what the vision encoder reads.
#pragma once

#include <array>
#include <cstdint>

namespace maxcrops {

// x / s as fma(x, high, x * low) where high + low = 1 / s to 48 bits: no division. Whether that rounds as the division
// does is checked for the values at hand, not assumed.
struct Reciprocal {
    float high = 0.0F;
    float low = 0.0F;
};

Reciprocal reciprocal_of(float divisor);
float divide(float x, Reciprocal by);

// (u - 255 mean) / (255 std) of 8-bit values, in float32 and in that order.
struct ByteNormalization {
    std::array<std::array<float, 256>, 3> table;  // the definition
    std::array<float, 3> offset;
    std::array<Reciprocal, 3> reciprocal;
    // The same for interleaved channels, from red on: a vector of them may start with any channel.
    std::array<float, 64> offsets, highs, lows;
    bool by_arithmetic = false;  // whether divide(u - offset, reciprocal) equals the table everywhere
    bool same_channels = false;  // whether the three tables are one
    bool odd = false;            // whether they are, and 255 - u has the value of u with the other sign, as for a mean of 0.5
    bool bfloat16_ties = false;  // whether a value lies halfway between two of bfloat16

    // The table as 16-bit floats of the first channel: low bytes, then high bytes.
    std::array<std::array<uint8_t, 256>, 2> bfloat16_bytes;
    std::array<std::array<uint8_t, 256>, 2> float16_bytes;
};

ByteNormalization byte_normalization(const std::array<float, 3>& mean, const std::array<float, 3>& std);

// (x - mean) / std of float32 values in 0..1, for interleaved channels from red on.
struct UnitNormalization {
    std::array<float, 48> means, stds;
};

UnitNormalization unit_normalization(const std::array<float, 3>& mean, const std::array<float, 3>& std);

// 16-bit rounding to nearest, ties to even.
uint16_t to_bfloat16(float value);
uint16_t to_float16(float value);

}  // namespace maxcrops
