// AVX-512 as Ice Lake and Zen 4 have it: byte permutations (VBMI) make both taps of a piece of pixels contiguous, 16
// float lanes do the arithmetic. Contracts are in pixel_kernels.h.
#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "patch_row.h"
#include "pixel_kernels.h"
#include "pixel_kernels_x86.h"
#include "row_pairs.h"
#include "rows_ahead.h"

namespace maxcrops {
namespace {

constexpr __mmask64 kLowestBytes = 0x1111111111111111ULL;  // of each 32-bit lane
constexpr __mmask64 kLowerHalves = 0x3333333333333333ULL;

constexpr float kTwoTo23 = 8388608.0F;  // 16 bits in the lower half of this float make it that much larger

// The bytes that 16 values of a piece read of a source row, in as many vectors as they take: 1, 2 or 4; 0 if they lie
// too far apart for that, and eight bytes of each pixel are gathered.
template <int kLoads>
struct Window {
    __m512i bytes[kLoads > 0 ? kLoads : 1];

    // `index`, whose lanes hold two places in their lower halves, with the bytes there instead.
    __m512i operator[](__m512i index) const {
        if constexpr (kLoads <= 1) return _mm512_mask_permutexvar_epi8(index, kLowerHalves, index, bytes[0]);
        if constexpr (kLoads == 2) return _mm512_mask2_permutex2var_epi8(bytes[0], index, kLowerHalves, bytes[1]);
        if constexpr (kLoads == 4) {
            return _mm512_mask_blend_epi8(_mm512_movepi8_mask(index),
                                          _mm512_mask2_permutex2var_epi8(bytes[0], index, kLowerHalves, bytes[1]),
                                          _mm512_mask2_permutex2var_epi8(bytes[2], index, kLowerHalves, bytes[3]));
        }
    }
};

// Two taps of sixteen values. The second one is 256 times as large, and its weight a 256th.
struct Taps {
    __m512 first, second;
};

// Sixteen values of a piece: where their taps are in a source row, and their weights.
//
// Both taps of a value come with one permutation, into a lane that is 2^23 + 256 * second + first as a float. Without
// its lowest byte it is 2^23 + 256 * second, and what it lost is the first tap: no byte is converted.
template <int kLoads>
class Vector {
public:
    Vector(const RowPlan& plan, size_t piece, int vector) : base_(plan.pieces[piece].base[vector]) {
        const size_t lanes = piece * RowPlan::kPieceLanes + RowPlan::kVectorValues * static_cast<size_t>(vector);
        const int32_t* offsets = &plan.offset[static_cast<size_t>(plan.pieces[piece].first[vector])];
        pixels_ = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(offsets));
        const __m512i places = _mm512_or_si512(indices(&plan.first_byte[lanes]),
                                               _mm512_slli_epi32(indices(&plan.second_byte[lanes]), 8));
        places_ = _mm512_or_si512(places, _mm512_castps_si512(_mm512_set1_ps(kTwoTo23)));
        const __m512 second_weight = _mm512_load_ps(&plan.weights[lanes]);
        first_weight_ = _mm512_sub_ps(_mm512_set1_ps(1.0F), second_weight);
        second_weight_ = _mm512_mul_ps(second_weight, _mm512_set1_ps(1.0F / 256.0F));
        lowering_ = _mm512_mul_ps(_mm512_set1_ps(-kTwoTo23), second_weight_);
    }

    Window<kLoads> window(const uint8_t* row) const {
        Window<kLoads> result;
        if constexpr (kLoads == 0) result.bytes[0] = _mm512_i32gather_epi64(pixels_, row, 1);
        for (int i = 0; i < kLoads; ++i) result.bytes[i] = _mm512_loadu_si512(row + base_ + 64 * i);
        return result;
    }

    // The differences, here and in raised_taps, are of integers below 2^24, and exact.
    Taps taps(const Window<kLoads>& window) const {
        const Taps raised = raised_taps(window);
        return {raised.first, _mm512_sub_ps(raised.second, _mm512_set1_ps(kTwoTo23))};
    }

    // second * weight = (2^23 + 256 * second) * weight / 256 - 2^15 * weight, which a fused step rounds once, at the end.
    __m512 resized(const Window<kLoads>& window) const {
        const Taps raised = raised_taps(window);
        return _mm512_fmadd_ps(raised.first, first_weight_, _mm512_fmadd_ps(raised.second, second_weight_, lowering_));
    }

    // The chain of four products.
    __m512 chained(const Taps& top, const Taps& bottom, const RowPair& pair) const {
        const __m512 v0 = _mm512_set1_ps(pair.top_weight), v1 = _mm512_set1_ps(pair.bottom_weight);
        const __m512 u0 = first_weight_, u1 = second_weight_;
        const __m512 upper =
            _mm512_fmadd_ps(_mm512_mul_ps(v0, u0), top.first, _mm512_mul_ps(_mm512_mul_ps(v0, u1), top.second));
        return _mm512_fmadd_ps(_mm512_mul_ps(v1, u1), bottom.second,
                               _mm512_fmadd_ps(_mm512_mul_ps(v1, u0), bottom.first, upper));
    }

private:
    static __m512i indices(const uint8_t* bytes) {
        return _mm512_cvtepu8_epi32(_mm_load_si128(reinterpret_cast<const __m128i*>(bytes)));
    }

    // The second tap is larger by 2^23 yet.
    Taps raised_taps(const Window<kLoads>& window) const {
        const __m512i both = window[places_];
        const __m512 second = _mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32(~0xFF)));
        return {_mm512_sub_ps(_mm512_castsi512_ps(both), second), second};
    }

    int64_t base_;
    __m256i pixels_;
    __m512i places_;
    __m512 first_weight_, second_weight_, lowering_;
};

__m512 blend(__m512 top, __m512 bottom, const RowPair& pair) {
    return _mm512_fmadd_ps(top, _mm512_set1_ps(pair.top_weight), _mm512_mul_ps(bottom, _mm512_set1_ps(pair.bottom_weight)));
}

// Rounds half to even, in the mode that floating point starts in: adding 1.5 * 2^23 leaves a value's integer in the
// lowest bits. Sums of weights are 1 within a rounding and never negative, so that it is at most 255.
__m512i rounded(__m512 value) { return _mm512_castps_si512(_mm512_add_ps(value, _mm512_set1_ps(12582912.0F))); }

// The lowest byte of each lane of two vectors.
alignas(64) constexpr uint8_t kLowestOfTwo[64] = {0,  4,  8,  12, 16, 20, 24, 28,  32,  36,  40,  44,  48,  52,  56,  60,
                                                  64, 68, 72, 76, 80, 84, 88, 92,  96,  100, 104, 108, 112, 116, 120, 124};

void store_piece(int64_t num_values, __m512 v0, __m512 v1, __m512 v2, uint8_t* to) {
    const auto store = [&](int64_t at, __m512 v) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to + at), _mm512_cvtepi32_epi8(rounded(v)));
    };
    if (num_values >= 32) {
        const __m512i bytes = _mm512_permutex2var_epi8(rounded(v0), _mm512_load_si512(kLowestOfTwo), rounded(v1));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_castsi512_si256(bytes));
    } else {
        store(0, v0);
        store(std::min<int64_t>(16, num_values - 16), v1);
    }
    store(std::min<int64_t>(32, num_values - 16), v2);
}

// A column of at most 16 pixels through the rows of a patch. `kShared`: its vectors read the same bytes of a row.
template <int kLoads, bool kShared, bool kChained>
void blend_piece(const RowPlan& plan, size_t p, const RowPair* rows, RowsAhead& ahead, uint8_t* out) {
    const Vector<kLoads> v0(plan, p, 0), v1(plan, p, 1), v2(plan, p, 2);
    // Copies, as the compiler must assume that a byte stored changes what `plan` holds.
    const int64_t num_values = plan.pieces[p].num_values, num_rows = plan.patch_size;
    uint8_t* const first_row = out + plan.pieces[p].offset;
    const auto place = [&](int64_t dy) { return first_row + dy * 3 * num_rows; };
    // A narrow patch has few lines to ask for.
    int64_t lines_left = ceil_div(ahead.lines_a_patch, plan.pieces_a_patch);
    const int64_t lines_a_row = ceil_div(lines_left, num_rows);
    if constexpr (kShared) ask(ahead, lines_left);
    const auto ask_for_some = [&] {
        if constexpr (kShared) return;
        const int64_t lines = std::min(lines_a_row, lines_left);
        lines_left -= lines;
        ask(ahead, lines);
    };
    const auto each = [&](const uint8_t* row, const auto& use) {
        const Window<kLoads> w0 = v0.window(row);
        return use(w0, kShared ? w0 : v1.window(row), kShared ? w0 : v2.window(row));
    };
    if constexpr (kChained) {
        struct Row {
            Taps v0, v1, v2;
        };
        const auto read = [&](const uint8_t* row) {
            return each(row, [&](auto& w0, auto& w1, auto& w2) { return Row{v0.taps(w0), v1.taps(w1), v2.taps(w2)}; });
        };
        for_row_pairs<Row>(rows, num_rows, read, [&](const Row& top, const Row& bottom, const RowPair& pair, int64_t dy) {
            ask_for_some();
            store_piece(num_values, v0.chained(top.v0, bottom.v0, pair), v1.chained(top.v1, bottom.v1, pair),
                        v2.chained(top.v2, bottom.v2, pair), place(dy));
        });
    } else {
        struct Row {
            __m512 v0, v1, v2;
        };
        const auto read = [&](const uint8_t* row) {
            return each(row, [&](auto& w0, auto& w1, auto& w2) { return Row{v0.resized(w0), v1.resized(w1), v2.resized(w2)}; });
        };
        for_row_pairs<Row>(rows, num_rows, read, [&](const Row& top, const Row& bottom, const RowPair& pair, int64_t dy) {
            ask_for_some();
            store_piece(num_values, blend(top.v0, bottom.v0, pair), blend(top.v1, bottom.v1, pair),
                        blend(top.v2, bottom.v2, pair), place(dy));
        });
    }
}

// Calls one of five instances of a function template, with its loads and whether a piece's vectors share them.
template <typename Function>
void for_span(const RowPlan& plan, const Function& function) {
    if (plan.gathered) return function(std::integral_constant<int, 0>(), std::false_type());
    if (plan.shared) return function(std::integral_constant<int, 1>(), std::true_type());
    if (plan.span <= 64) return function(std::integral_constant<int, 1>(), std::false_type());
    if (plan.span <= 128) return function(std::integral_constant<int, 2>(), std::false_type());
    function(std::integral_constant<int, 4>(), std::false_type());
}

void blend_patch(const RowPlan& plan, int64_t patch, const RowPair* rows, bool chained, RowsAhead& ahead, uint8_t* out) {
    if (!plan.vectorised) return kScalarPixelKernels.blend_patch(plan, patch, rows, chained, ahead, out);
    for_span(plan, [&](auto loads, auto shared) {
        const auto blend_one = chained ? blend_piece<loads, shared, true> : blend_piece<loads, shared, false>;
        for (int64_t p = patch * plan.pieces_a_patch; p < (patch + 1) * plan.pieces_a_patch; ++p) {
            blend_one(plan, static_cast<size_t>(p), rows, ahead, out);
        }
    });
}

// One constant a channel, laid out for three vectors in a row.
struct ChannelVectors {
    __m512 v[3];

    explicit ChannelVectors(const float* lanes) {
        for (int i = 0; i < 3; ++i) v[i] = _mm512_loadu_ps(lanes + 16 * i);
    }
};

__m512i bfloat16_bits(__m512 value) {  // in the high half of each lane
    const __m512i bits = _mm512_castps_si512(value);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    return _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7FFF)), odd);
}

// Plain data: a vector constant at namespace scope would run AVX-512 when the library loads.
alignas(64) constexpr uint16_t kHighHalves[32] = {1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
                                                  33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63};

// 32 values as 16-bit floats.
__m512i halves(__m512 low, __m512 high, PixelType type) {
    if (type == PixelType::kBFloat16) {
        return _mm512_permutex2var_epi16(bfloat16_bits(low), _mm512_load_si512(kHighHalves), bfloat16_bits(high));
    }
    constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtps_ph(low, kNearest)), _mm512_cvtps_ph(high, kNearest), 1);
}

template <bool kStream>
void store_line(void* to, __m512i value) {
    if constexpr (kStream) {
        _mm512_stream_si512(static_cast<__m512i*>(to), value);
    } else {
        _mm512_storeu_si512(to, value);
    }
}

// Normalises values of interleaved channels, three vectors at a time.
class Normalizer {
public:
    Normalizer(const ByteNormalization& normalization, int64_t phase)
        : offset_(normalization.offsets.data() + phase),
          high_(normalization.highs.data() + phase),
          low_(normalization.lows.data() + phase) {}

    __m512 operator()(__m128i bytes, int vector) const {
        const __m512 x = _mm512_sub_ps(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes)), offset_.v[vector]);
        return _mm512_fmadd_ps(x, high_.v[vector], _mm512_mul_ps(x, low_.v[vector]));
    }

private:
    const ChannelVectors offset_, high_, low_;
};

template <bool kStream>
void normalize_lines(const ByteNormalization& normalization, const uint8_t* in, int64_t count, int64_t phase,
                     PixelType type, uint8_t* out) {
    const Normalizer normalizer(normalization, phase);
    const auto normalized = [&](int64_t i, int vector) {
        return normalizer(_mm_loadu_si128(reinterpret_cast<const __m128i*>(in + i)), vector);
    };
    if (type == PixelType::kFloat32) {
        for (int64_t i = 0; i < count; i += 48) {
            for (int v = 0; v < 3; ++v) {
                store_line<kStream>(out + 4 * (i + 16 * v), _mm512_castps_si512(normalized(i + 16 * v, v)));
            }
        }
        return;
    }
    for (int64_t i = 0; i < count; i += 96) {
        store_line<kStream>(out + 2 * i, halves(normalized(i, 0), normalized(i + 16, 1), type));
        store_line<kStream>(out + 2 * i + 64, halves(normalized(i + 32, 2), normalized(i + 48, 0), type));
        store_line<kStream>(out + 2 * i + 128, halves(normalized(i + 64, 1), normalized(i + 80, 2), type));
    }
}

// Values before the first whole line or behind the last, through the caches.
void normalize_rest(const ByteNormalization& normalization, const uint8_t* in, int64_t count, int64_t phase,
                    PixelType type, uint8_t* out) {
    if (count == 0) return;
    const Normalizer normalizer(normalization, phase);
    for (int64_t i = 0; i < count; i += 16) {
        const auto mask = static_cast<__mmask16>((1U << std::min<int64_t>(count - i, 16)) - 1U);
        const __m512 value = normalizer(_mm_maskz_loadu_epi8(mask, in + i), static_cast<int>(i / 16 % 3));
        if (type == PixelType::kFloat32) {
            _mm512_mask_storeu_ps(out + 4 * i, mask, value);
        } else {
            _mm256_mask_storeu_epi16(out + 2 * i, mask, _mm512_castsi512_si256(halves(value, value, type)));
        }
    }
}

// A table of 256 bytes, its first half alone or both, as the vectors that 64 bytes are looked up in.
struct ByteTable {
    __m512i part[4];

    explicit ByteTable(const std::array<uint8_t, 256>& bytes) {
        for (size_t i = 0; i < 4; ++i) part[i] = _mm512_loadu_si512(bytes.data() + 64 * i);
    }

    __m512i in_half(__m512i index) const { return _mm512_permutex2var_epi8(part[0], index, part[1]); }
    __m512i operator[](__m512i index) const {
        return _mm512_mask_blend_epi8(_mm512_movepi8_mask(index), in_half(index), _mm512_permutex2var_epi8(part[2], index, part[3]));
    }
};

// 16-bit floats where all channels share a table: no arithmetic at all. An odd one is looked up in its lower half.
template <bool kStream, bool kOdd>
void look_up_lines(const std::array<std::array<uint8_t, 256>, 2>& table, const uint8_t* in, int64_t count, uint8_t* out) {
    const ByteTable low(table[0]), high(table[1]);
    const __m512i sign = _mm512_set1_epi8(static_cast<char>(0x80)), ones = _mm512_set1_epi8(-1);
    // Interleaving works within 16 bytes: quarters 0 and 2 of the input must come first.
    const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
    for (int64_t i = 0; i < count; i += 64) {
        const __m512i bytes = _mm512_permutexvar_epi64(order, _mm512_loadu_si512(in + i));
        __m512i low_bytes, high_bytes;
        if constexpr (kOdd) {
            // GCC 12 makes of a complement an instruction that waits for the last round's: 255 - byte it is.
            const __m512i folded = _mm512_min_epu8(bytes, _mm512_subs_epu8(ones, bytes));
            low_bytes = low.in_half(folded);
            high_bytes = _mm512_xor_si512(high.in_half(folded), _mm512_and_si512(bytes, sign));
        } else {
            low_bytes = low[bytes];
            high_bytes = high[bytes];
        }
        store_line<kStream>(out + 2 * i, _mm512_unpacklo_epi8(low_bytes, high_bytes));
        store_line<kStream>(out + 2 * i + 64, _mm512_unpackhi_epi8(low_bytes, high_bytes));
    }
}

void normalize_bytes(const ByteNormalization& normalization, const uint8_t* in, int64_t count, int64_t channel,
                     PixelType type, bool stream, void* to) {
    if (!normalization.by_arithmetic) {
        return kScalarPixelKernels.normalize_bytes(normalization, in, count, channel, type, false, to);
    }
    auto* out = static_cast<uint8_t*>(to);
    const int64_t element = bytes_of(type);
    const bool looks_up = normalization.same_channels && type != PixelType::kFloat32;
    const int64_t head = stream ? before_line(out, element, count) : 0;
    const int64_t left = count - head;  // divided by constants: a division by a variable takes as long as 50 values
    const int64_t body = looks_up ? left / 64 * 64 : type == PixelType::kFloat32 ? left / 48 * 48 : left / 96 * 96;
    const int64_t rest = left - body;
    normalize_rest(normalization, in, head, channel, type, out);
    if (looks_up) {
        const auto lines = normalization.odd ? (stream ? look_up_lines<true, true> : look_up_lines<false, true>)
                                             : (stream ? look_up_lines<true, false> : look_up_lines<false, false>);
        lines(type == PixelType::kBFloat16 ? normalization.bfloat16_bytes : normalization.float16_bytes, in + head, body,
              out + head * element);
    } else {
        const auto lines = stream ? normalize_lines<true> : normalize_lines<false>;
        lines(normalization, in + head, body, (channel + head) % 3, type, out + head * element);
    }
    normalize_rest(normalization, in + count - rest, rest, (channel + head + body) % 3, type, out + (count - rest) * element);
}

// 16 of 64 bytes as floats; one permutation moves them and clears the upper bytes of each lane.
template <int kVector>
__m512 floats_of(__m512i bytes) {
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i index = _mm512_add_epi32(lane, _mm512_set1_epi32(16 * kVector));
    return _mm512_cvtepi32_ps(_mm512_maskz_permutexvar_epi8(kLowestBytes, index, bytes));
}

void transpose_units(const uint8_t* const* rows, int64_t begin, int64_t end, float* out) {
    const Reciprocal by_255 = reciprocal_of(255.0F);  // u / 255 exactly: tested for all 256 values
    const __m512 high = _mm512_set1_ps(by_255.high), low = _mm512_set1_ps(by_255.low);
    const auto store = [&](__m512 u, float* to) {
        _mm512_storeu_ps(to, _mm512_fmadd_ps(u, high, _mm512_mul_ps(u, low)));
    };
    int64_t byte = begin;
    for (; byte + 64 <= end; byte += 64) {  // four squares of 16 x 16 bytes side by side
        __m512i columns[16];
        for (int lane = 0; lane < 16; ++lane) columns[lane] = _mm512_loadu_si512(rows[lane] + byte);
        transpose_squares(columns, [](__m512i a, __m512i b) { return _mm512_unpacklo_epi8(a, b); },
                          [](__m512i a, __m512i b) { return _mm512_unpackhi_epi8(a, b); });
        float* to = out + (byte - begin) * kLanes;
        for (int64_t i = 0; i < 16; ++i) {
            store(floats_of<0>(columns[i]), to + i * kLanes);
            store(floats_of<1>(columns[i]), to + (16 + i) * kLanes);
            store(floats_of<2>(columns[i]), to + (32 + i) * kLanes);
            store(floats_of<3>(columns[i]), to + (48 + i) * kLanes);
        }
    }
    for (; byte < end; byte += 16) {
        __m128i columns[16];
        for (int lane = 0; lane < 16; ++lane) {
            columns[lane] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[lane] + byte));
        }
        transpose_bytes(columns);
        const int64_t valid = std::min<int64_t>(16, end - byte);
        float* to = out + (byte - begin) * kLanes;
        for (int64_t i = 0; i < valid; ++i) store(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(columns[i])), to + i * kLanes);
    }
}

void transpose_floats(__m512 (&r)[16]) {
    __m512 t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        for (int j = 0; j < 2; ++j) {
            const __m512d a = _mm512_castps_pd(t[i + j]), b = _mm512_castps_pd(t[i + j + 2]);
            r[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
            r[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
        }
    }
    for (int i = 0; i < 4; ++i) {
        t[i] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xDD);
        t[i + 8] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xDD);
    }
    for (int i = 0; i < 8; ++i) {
        r[i] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0xDD);
    }
}

// The sums of up to 16 pixels, from columns to rows; a row takes 48 values whatever there are.
void flush_sums(const float* sums, int64_t first, float* const* rows) {
    for (int64_t block = 0; block < 3; ++block) {
        __m512 square[16];
        for (int i = 0; i < 16; ++i) square[i] = _mm512_loadu_ps(sums + (16 * block + i) * kLanes);
        transpose_floats(square);
        for (int lane = 0; lane < 16; ++lane) _mm512_storeu_ps(rows[lane] + 3 * first + 16 * block, square[lane]);
    }
}

void sum_columns(const WindowAxis& axis, const float* columns, int64_t origin, int64_t begin, int64_t end, float* sums,
                 float* const* rows) {
    const auto width = static_cast<int64_t>(axis.first.size());
    for (int64_t x = begin; x < end; ++x) {
        const auto index = static_cast<size_t>(x);
        const float* weights = &axis.weights[index * static_cast<size_t>(axis.stride)];
        const float* column = columns + 3 * (axis.first[index] - origin) * kLanes;
        const int64_t taps = axis.size[index];
        const int64_t unfused = 1 + (taps - 1) / 4 * 4;
        __m512 weight = _mm512_set1_ps(weights[0]);
        __m512 red = _mm512_mul_ps(_mm512_loadu_ps(column), weight);
        __m512 green = _mm512_mul_ps(_mm512_loadu_ps(column + 16), weight);
        __m512 blue = _mm512_mul_ps(_mm512_loadu_ps(column + 32), weight);
        int64_t j = 1;
        for (; j < unfused; ++j) {
            column += 3 * kLanes;
            weight = _mm512_set1_ps(weights[j]);
            red = _mm512_add_ps(red, _mm512_mul_ps(_mm512_loadu_ps(column), weight));
            green = _mm512_add_ps(green, _mm512_mul_ps(_mm512_loadu_ps(column + 16), weight));
            blue = _mm512_add_ps(blue, _mm512_mul_ps(_mm512_loadu_ps(column + 32), weight));
        }
        for (; j < taps; ++j) {
            column += 3 * kLanes;
            weight = _mm512_set1_ps(weights[j]);
            red = _mm512_fmadd_ps(_mm512_loadu_ps(column), weight, red);
            green = _mm512_fmadd_ps(_mm512_loadu_ps(column + 16), weight, green);
            blue = _mm512_fmadd_ps(_mm512_loadu_ps(column + 32), weight, blue);
        }
        float* to = sums + 3 * (x % 16) * kLanes;
        _mm512_storeu_ps(to, red);
        _mm512_storeu_ps(to + 16, green);
        _mm512_storeu_ps(to + 32, blue);
        if (x % 16 == 15 || x == width - 1) flush_sums(sums, x - x % 16, rows);
    }
}

void sum_rows(const float* const* rows, const float* weights, int64_t num_rows, int64_t count,
              const UnitNormalization& normalization, int64_t first, int64_t patch_size, float* out) {
    const ChannelVectors mean(normalization.means.data()), std(normalization.stds.data());
    const __m512 zero = _mm512_setzero_ps(), one = _mm512_set1_ps(1.0F);
    const int64_t unfused = 1 + (num_rows - 1) / 4 * 4;
    const auto sum = [&](int64_t i, int64_t left, float* to) {  // 48 values or those that are left
        __mmask16 masks[3];
        __m512 sums[3];
        for (int v = 0; v < 3; ++v) {
            const int64_t lanes = std::clamp<int64_t>(left - 16 * v, 0, 16);
            masks[v] = static_cast<__mmask16>((1U << lanes) - 1U);
            sums[v] = _mm512_mul_ps(_mm512_maskz_loadu_ps(masks[v], rows[0] + i + 16 * v), _mm512_set1_ps(weights[0]));
        }
        int64_t j = 1;
        for (; j < unfused; ++j) {
            const __m512 weight = _mm512_set1_ps(weights[j]);
            for (int v = 0; v < 3; ++v) {
                const __m512 value = _mm512_maskz_loadu_ps(masks[v], rows[j] + i + 16 * v);
                sums[v] = _mm512_add_ps(sums[v], _mm512_mul_ps(value, weight));
            }
        }
        for (; j < num_rows; ++j) {
            const __m512 weight = _mm512_set1_ps(weights[j]);
            for (int v = 0; v < 3; ++v) {
                sums[v] = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(masks[v], rows[j] + i + 16 * v), weight, sums[v]);
            }
        }
        for (int v = 0; v < 3; ++v) {
            const __m512 unit = _mm512_min_ps(_mm512_max_ps(sums[v], zero), one);
            _mm512_mask_storeu_ps(to + 16 * v, masks[v], _mm512_div_ps(_mm512_sub_ps(unit, mean.v[v]), std.v[v]));
        }
    };
    for_patches(first, count, patch_size, out, [&](int64_t begin, int64_t values, float* to) {
        for (int64_t i = 0; i < values; i += 48) sum(begin + i, values - i, to + i);
    });
}

template <bool kStream>
void cast_lines(const float* in, int64_t count, PixelType type, uint8_t* out) {
    if (type == PixelType::kFloat32) {
        for (int64_t i = 0; i < count; i += 16) store_line<kStream>(out + 4 * i, _mm512_loadu_si512(in + i));
        return;
    }
    for (int64_t i = 0; i < count; i += 32) {
        store_line<kStream>(out + 2 * i, halves(_mm512_loadu_ps(in + i), _mm512_loadu_ps(in + i + 16), type));
    }
}

void cast_floats(const float* in, int64_t count, PixelType type, bool stream, void* to) {
    auto* out = static_cast<uint8_t*>(to);
    const int64_t element = bytes_of(type);
    const int64_t head = stream ? before_line(out, element, count) : 0;
    const int64_t step = 64 / element;
    const int64_t body = (count - head) / step * step;
    kScalarPixelKernels.cast_floats(in, head, type, false, out);
    const auto lines = stream ? cast_lines<true> : cast_lines<false>;
    lines(in + head, body, type, out + head * element);
    kScalarPixelKernels.cast_floats(in + head + body, count - head - body, type, false, out + (head + body) * element);
}

void finish_streams() { _mm_sfence(); }

}  // namespace

const PixelKernels kAvx512PixelKernels{blend_patch, normalize_bytes, transpose_units, sum_columns,
                                       sum_rows,    cast_floats,     finish_streams};

}  // namespace maxcrops
