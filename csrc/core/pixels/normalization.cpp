#include "normalization.h"

#include <cmath>
#include <cstring>

namespace maxcrops {
namespace {

uint32_t bits_of(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

}  // namespace

Reciprocal reciprocal_of(float divisor) {
    const double exact = 1.0 / static_cast<double>(divisor);
    const float high = static_cast<float>(exact);
    return {high, static_cast<float>(exact - static_cast<double>(high))};
}

float divide(float x, Reciprocal by) { return std::fma(x, by.high, x * by.low); }

ByteNormalization byte_normalization(const std::array<float, 3>& mean, const std::array<float, 3>& std) {
    ByteNormalization result;
    result.by_arithmetic = true;
    for (size_t channel = 0; channel < 3; ++channel) {
        const float offset = mean[channel] * 255.0F;
        const float divisor = std[channel] * 255.0F;
        result.offset[channel] = offset;
        result.reciprocal[channel] = reciprocal_of(divisor);
        for (size_t u = 0; u < 256; ++u) {
            const float difference = static_cast<float>(u) - offset;
            result.table[channel][u] = difference / divisor;
            result.by_arithmetic &= divide(difference, result.reciprocal[channel]) == result.table[channel][u];
            result.bfloat16_ties |= (bits_of(result.table[channel][u]) & 0xFFFFU) == 0x8000U;
        }
    }
    for (size_t i = 0; i < result.offsets.size(); ++i) {
        result.offsets[i] = result.offset[i % 3];
        result.highs[i] = result.reciprocal[i % 3].high;
        result.lows[i] = result.reciprocal[i % 3].low;
    }
    result.same_channels = result.table[0] == result.table[1] && result.table[1] == result.table[2];
    result.odd = result.same_channels;
    for (size_t u = 0; u < 128; ++u) {
        result.odd &= (bits_of(result.table[0][u]) ^ bits_of(result.table[0][255 - u])) == 0x80000000U;
    }
    for (size_t u = 0; u < 256; ++u) {
        const uint16_t bfloat = to_bfloat16(result.table[0][u]), half = to_float16(result.table[0][u]);
        result.bfloat16_bytes[0][u] = static_cast<uint8_t>(bfloat);
        result.bfloat16_bytes[1][u] = static_cast<uint8_t>(bfloat >> 8);
        result.float16_bytes[0][u] = static_cast<uint8_t>(half);
        result.float16_bytes[1][u] = static_cast<uint8_t>(half >> 8);
    }
    return result;
}

UnitNormalization unit_normalization(const std::array<float, 3>& mean, const std::array<float, 3>& std) {
    UnitNormalization result;
    for (size_t i = 0; i < result.means.size(); ++i) {
        result.means[i] = mean[i % 3];
        result.stds[i] = std[i % 3];
    }
    return result;
}

uint16_t to_bfloat16(float value) {
    const uint32_t bits = bits_of(value);
    return static_cast<uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16);
}

uint16_t to_float16(float value) {
    const uint32_t bits = bits_of(value);
    const uint32_t sign = (bits >> 16) & 0x8000U;
    const uint32_t magnitude = bits & 0x7FFFFFFFU;
    if (magnitude >= 0x477FF000U) return static_cast<uint16_t>(sign | 0x7C00U);  // rounds to 2^16 or more: infinity
    if (magnitude < 0x38800000U) {  // below 2^-14: steps of 2^-24, which adding 0.5 rounds to
        float absolute;
        std::memcpy(&absolute, &magnitude, sizeof absolute);
        return static_cast<uint16_t>(sign | (bits_of(absolute + 0.5F) - bits_of(0.5F)));
    }
    const uint32_t rebased = magnitude - ((127U - 15U) << 23);
    return static_cast<uint16_t>(sign | ((rebased + 0x0FFFU + ((rebased >> 13) & 1U)) >> 13));
}

}  // namespace maxcrops
