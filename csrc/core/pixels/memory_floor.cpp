#include "memory_floor.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "thread_pool.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace maxcrops {
namespace {

constexpr int64_t kChunk = int64_t{1} << 18;

void fill(uint8_t* out, int64_t bytes) {
#if defined(__SSE2__)
    const int64_t head = std::min(bytes, static_cast<int64_t>(-reinterpret_cast<uintptr_t>(out) & 15U));
    std::memset(out, 1, static_cast<size_t>(head));
    const __m128i ones = _mm_set1_epi8(1);
    int64_t i = head;
    for (; i + 64 <= bytes; i += 64) {
        for (int64_t k = 0; k < 64; k += 16) _mm_stream_si128(reinterpret_cast<__m128i*>(out + i + k), ones);
    }
    std::memset(out + i, 1, static_cast<size_t>(bytes - i));
    _mm_sfence();
#else
    std::memset(out, 1, static_cast<size_t>(bytes));
#endif
}

uint64_t read(const uint8_t* source, int64_t bytes) {
    uint64_t sums[4] = {};
    int64_t i = 0;
    for (; i + 64 <= bytes; i += 64) {
        uint64_t words[8];
        std::memcpy(words, source + i, 64);
        for (int k = 0; k < 8; ++k) sums[k % 4] += words[k];
    }
    for (; i < bytes; ++i) sums[0] += source[i];
    return sums[0] + sums[1] + sums[2] + sums[3];
}

}  // namespace

uint64_t memory_floor(void* out, int64_t out_bytes, const void* source, int64_t source_bytes, int num_threads) {
    std::atomic<uint64_t> sum{0};
    const int64_t fills = (out_bytes + kChunk - 1) / kChunk, reads = (source_bytes + kChunk - 1) / kChunk;
    parallel_for(fills + reads, num_threads, [&](int64_t i) {
        if (i < fills) {
            fill(static_cast<uint8_t*>(out) + i * kChunk, std::min(kChunk, out_bytes - i * kChunk));
        } else {
            const int64_t at = (i - fills) * kChunk;
            sum += read(static_cast<const uint8_t*>(source) + at, std::min(kChunk, source_bytes - at));
        }
    });
    return sum;
}

}  // namespace maxcrops
