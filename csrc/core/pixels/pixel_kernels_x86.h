// What the AVX2 and AVX-512 loops share. Everything is static: each is compiled with its own flags.
#pragma once

#include <emmintrin.h>

#include <algorithm>

#include "pixel_kernels.h"

namespace maxcrops {

// 16 rows of 16 bytes become 16 columns, in every 16-byte lane of a vector.
template <typename Vector, typename Low, typename High>
static inline void transpose_squares(Vector (&rows)[16], const Low& unpack_low, const High& unpack_high) {
    // Each round interleaves row i with row i + 8: after four of them the byte at (row, column) is at (column, row).
    for (int round = 0; round < 4; ++round) {
        Vector next[16];
        for (int i = 0; i < 8; ++i) {
            next[2 * i] = unpack_low(rows[i], rows[i + 8]);
            next[2 * i + 1] = unpack_high(rows[i], rows[i + 8]);
        }
        for (int i = 0; i < 16; ++i) rows[i] = next[i];
    }
}

static inline void transpose_bytes(__m128i (&rows)[16]) {
    transpose_squares(rows, [](__m128i a, __m128i b) { return _mm_unpacklo_epi8(a, b); },
                      [](__m128i a, __m128i b) { return _mm_unpackhi_epi8(a, b); });
}

// Elements before the first one at the start of a cache line; all of them if no element is.
static inline int64_t before_line(const void* out, int64_t element_bytes, int64_t count) {
    const auto missing = static_cast<int64_t>(-reinterpret_cast<uintptr_t>(out) & 63U);
    const int64_t elements = element_bytes == 4 ? missing / 4 : missing / 2;
    return elements * element_bytes == missing ? std::min(count, elements) : count;
}

}  // namespace maxcrops
