// AVX-512 as Ice Lake and Zen 4 have it: byte permutations (VBMI) make both taps of a piece of pixels contiguous, 16
// float lanes do the arithmetic. Contracts are in pixel_kernels.h.
#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "pixel_kernels.h"
#include "pixel_kernels_x86.h"

namespace maxcrops {
namespace {

constexpr int64_t kPieceLanes = 48;
constexpr int64_t kStagedPixelBytes = 8;


int64_t row_floats(const RowPlan& plan) {
    return plan.vectorised ? static_cast<int64_t>(plan.pieces.size()) * kPieceLanes : kScalarPixelKernels.row_floats(plan);
}

int64_t stage_bytes(const RowPlan& plan) {
    return plan.staged ? 2 * (plan.width() * kStagedPixelBytes + kRowSlack) : 0;
}

// The up to 256 bytes that a piece reads, in as many vectors as they take: 1, 2 or 4.
template <int kLoads>
struct Window {
    __m512i bytes[kLoads];

    explicit Window(const uint8_t* from) {
        for (int i = 0; i < kLoads; ++i) bytes[i] = _mm512_loadu_si512(from + 64 * i);
    }

    // The bytes of one tap for the 48 lanes of a piece.
    __m512i gather(const uint8_t* index_bytes) const {
        const __m512i index = _mm512_loadu_si512(index_bytes);
        if constexpr (kLoads == 1) return _mm512_permutexvar_epi8(index, bytes[0]);
        if constexpr (kLoads == 2) return _mm512_permutex2var_epi8(bytes[0], index, bytes[1]);
        if constexpr (kLoads == 4) {
            return _mm512_mask_blend_epi8(_mm512_movepi8_mask(index), _mm512_permutex2var_epi8(bytes[0], index, bytes[1]),
                                          _mm512_permutex2var_epi8(bytes[2], index, bytes[3]));
        }
    }
};

// Calls one of three instances of a function template.
template <typename Function>
void for_span(const RowPlan& plan, const Function& function) {
    if (plan.span <= 64) return function(std::integral_constant<int, 1>());
    if (plan.span <= 128) return function(std::integral_constant<int, 2>());
    function(std::integral_constant<int, 4>());
}

// 16 of 64 bytes as floats; one permutation moves them and clears the upper bytes of each lane.
template <int kVector>
__m512 floats_of(__m512i bytes) {
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i index = _mm512_add_epi32(lane, _mm512_set1_epi32(16 * kVector));
    return _mm512_cvtepi32_ps(_mm512_maskz_permutexvar_epi8(0x1111111111111111ULL, index, bytes));
}

__m512 blend(__m512 first, __m512 second, __m512 weight) {
    return _mm512_fmadd_ps(first, _mm512_sub_ps(_mm512_set1_ps(1.0F), weight), _mm512_mul_ps(second, weight));
}

// Half to even, in the mode that floating point starts in. Sums of weights are 1 within a rounding and never negative:
// saturation at 255 is the whole clamp.
__m128i rounded(__m512 value) {
    return _mm512_cvtusepi32_epi8(_mm512_cvtps_epi32(value));
}

void store_piece(const RowPlan::Piece& piece, __m512 v0, __m512 v1, __m512 v2, uint8_t* to) {
    const int64_t last = piece.num_values - 16;
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), rounded(v0));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + std::min<int64_t>(16, last)), rounded(v1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + std::min<int64_t>(32, last)), rounded(v2));
}

// Copies both taps of each pixel next to each other, so that a piece reads 128 bytes however far apart they were.
void stage_row(const RowPlan& plan, const uint8_t* row, int64_t begin, int64_t end, uint8_t* stage) {
    const int64_t first = plan.pieces[static_cast<size_t>(begin)].pixel;
    const RowPlan::Piece& last = plan.pieces[static_cast<size_t>(end - 1)];
    for (int64_t pixel = first; pixel < last.pixel + last.num_values / 3; ++pixel) {
        std::memcpy(stage + pixel * kStagedPixelBytes, row + plan.offset[static_cast<size_t>(pixel)],
                    kStagedPixelBytes);
    }
}

void resize_row(const RowPlan& plan, const uint8_t* row, int64_t begin, int64_t end, uint8_t* stage, float* out) {
    if (!plan.vectorised) return kScalarPixelKernels.resize_row(plan, row, begin, end, stage, out);
    if (plan.staged) {
        stage_row(plan, row, begin, end, stage);
        row = stage;
    }
    for_span(plan, [&](auto loads) {
        for (int64_t p = begin; p < end; ++p) {
            const Window<loads> window(row + plan.pieces[static_cast<size_t>(p)].base);
            const __m512i first = window.gather(&plan.first_byte[static_cast<size_t>(p) * 64]);
            const __m512i second = window.gather(&plan.second_byte[static_cast<size_t>(p) * 64]);
            const float* weights = &plan.weights[static_cast<size_t>(p * kPieceLanes)];
            float* to = out + p * kPieceLanes;
            _mm512_storeu_ps(to, blend(floats_of<0>(first), floats_of<0>(second), _mm512_loadu_ps(weights)));
            _mm512_storeu_ps(to + 16, blend(floats_of<1>(first), floats_of<1>(second), _mm512_loadu_ps(weights + 16)));
            _mm512_storeu_ps(to + 32, blend(floats_of<2>(first), floats_of<2>(second), _mm512_loadu_ps(weights + 32)));
        }
    });
}

void blend_floats(const RowPlan& plan, const float* top, const float* bottom, RowBlend by, int64_t begin, int64_t end,
                  uint8_t* out) {
    if (!plan.vectorised) return kScalarPixelKernels.blend_floats(plan, top, bottom, by, begin, end, out);
    const __m512 weight = _mm512_set1_ps(by.weight);
    for (int64_t p = begin; p < end; ++p) {
        const RowPlan::Piece& piece = plan.pieces[static_cast<size_t>(p)];
        const float* a = top + p * kPieceLanes;
        const float* b = bottom + p * kPieceLanes;
        store_piece(piece, blend(_mm512_loadu_ps(a), _mm512_loadu_ps(b), weight),
                    blend(_mm512_loadu_ps(a + 16), _mm512_loadu_ps(b + 16), weight),
                    blend(_mm512_loadu_ps(a + 32), _mm512_loadu_ps(b + 32), weight), patch_row(plan, piece, out));
    }
}

struct Taps {  // of a piece, in two source rows
    __m512i a, b, c, d;
};

template <bool kChained, int kVector>
__m512 blend_taps(const Taps& taps, const float* weights, __m512 v1) {
    const __m512 one = _mm512_set1_ps(1.0F);
    const __m512 u1 = _mm512_loadu_ps(weights + 16 * kVector);
    const __m512 a = floats_of<kVector>(taps.a), b = floats_of<kVector>(taps.b);
    const __m512 c = floats_of<kVector>(taps.c), d = floats_of<kVector>(taps.d);
    if constexpr (!kChained) return blend(blend(a, b, u1), blend(c, d, u1), v1);
    const __m512 u0 = _mm512_sub_ps(one, u1), v0 = _mm512_sub_ps(one, v1);
    const __m512 top = _mm512_fmadd_ps(_mm512_mul_ps(v0, u0), a, _mm512_mul_ps(_mm512_mul_ps(v0, u1), b));
    return _mm512_fmadd_ps(_mm512_mul_ps(v1, u1), d, _mm512_fmadd_ps(_mm512_mul_ps(v1, u0), c, top));
}

template <bool kChained, int kLoads>
void blend_pieces(const RowPlan& plan, const uint8_t* top, const uint8_t* bottom, float weight, int64_t begin,
                  int64_t end, uint8_t* out) {
    const __m512 v1 = _mm512_set1_ps(weight);
    for (int64_t p = begin; p < end; ++p) {
        const RowPlan::Piece& piece = plan.pieces[static_cast<size_t>(p)];
        const uint8_t* first = &plan.first_byte[static_cast<size_t>(p) * 64];
        const uint8_t* second = &plan.second_byte[static_cast<size_t>(p) * 64];
        const Window<kLoads> upper(top + piece.base), lower(bottom + piece.base);
        const Taps taps{upper.gather(first), upper.gather(second), lower.gather(first), lower.gather(second)};
        const float* weights = &plan.weights[static_cast<size_t>(p * kPieceLanes)];
        store_piece(piece, blend_taps<kChained, 0>(taps, weights, v1), blend_taps<kChained, 1>(taps, weights, v1),
                    blend_taps<kChained, 2>(taps, weights, v1), patch_row(plan, piece, out));
    }
}

void blend_bytes(const RowPlan& plan, const uint8_t* top, const uint8_t* bottom, RowBlend by, int64_t begin,
                 int64_t end, uint8_t* stage, uint8_t* out) {
    if (!plan.vectorised) return kScalarPixelKernels.blend_bytes(plan, top, bottom, by, begin, end, stage, out);
    if (plan.staged) {
        uint8_t* second = stage + plan.width() * kStagedPixelBytes + kRowSlack;
        stage_row(plan, top, begin, end, stage);
        stage_row(plan, bottom, begin, end, second);
        top = stage;
        bottom = second;
    }
    for_span(plan, [&](auto loads) {
        const auto pieces = by.chained ? blend_pieces<true, loads> : blend_pieces<false, loads>;
        pieces(plan, top, bottom, by.weight, begin, end, out);
    });
}

// One constant a channel, laid out for three vectors in a row.
struct ChannelVectors {
    __m512 v[3];

    explicit ChannelVectors(const float* lanes) {
        for (int i = 0; i < 3; ++i) v[i] = _mm512_loadu_ps(lanes + 16 * i);
    }
    explicit ChannelVectors(const std::array<float, 3>& channels) {
        float lanes[48];
        for (size_t i = 0; i < 48; ++i) lanes[i] = channels[i % 3];
        *this = ChannelVectors(lanes);
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

template <bool kStream>
void normalize_lines(const ByteNormalization& normalization, const uint8_t* in, int64_t count, int64_t phase,
                     PixelType type, uint8_t* out) {
    const ChannelVectors offset(normalization.offsets.data() + phase);
    const ChannelVectors high(normalization.highs.data() + phase), low(normalization.lows.data() + phase);
    const auto normalized = [&](int64_t i, int vector) {
        const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + i));
        const __m512 x = _mm512_sub_ps(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes)), offset.v[vector]);
        return _mm512_fmadd_ps(x, high.v[vector], _mm512_mul_ps(x, low.v[vector]));
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

// 64 bytes looked up in 256: four vectors that the index's upper two bits choose from.
struct ByteTable {
    __m512i part[4];

    explicit ByteTable(const std::array<uint8_t, 256>& bytes) {
        for (size_t i = 0; i < 4; ++i) part[i] = _mm512_loadu_si512(bytes.data() + 64 * i);
    }

    __m512i operator[](__m512i index) const {
        return _mm512_mask_blend_epi8(_mm512_movepi8_mask(index), _mm512_permutex2var_epi8(part[0], index, part[1]),
                                      _mm512_permutex2var_epi8(part[2], index, part[3]));
    }
};

// 16-bit floats where all channels share a table: no arithmetic at all.
template <bool kStream>
void look_up_lines(const std::array<std::array<uint8_t, 256>, 2>& table, const uint8_t* in, int64_t count, uint8_t* out) {
    const ByteTable low(table[0]), high(table[1]);
    // Interleaving works within 16 bytes: quarters 0 and 2 of the input must come first.
    const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
    for (int64_t i = 0; i < count; i += 64) {
        const __m512i bytes = _mm512_permutexvar_epi64(order, _mm512_loadu_si512(in + i));
        const __m512i low_bytes = low[bytes], high_bytes = high[bytes];
        store_line<kStream>(out + 2 * i, _mm512_unpacklo_epi8(low_bytes, high_bytes));
        store_line<kStream>(out + 2 * i + 64, _mm512_unpackhi_epi8(low_bytes, high_bytes));
    }
}

void normalize_bytes(const ByteNormalization& normalization, const uint8_t* in, int64_t count, int64_t channel,
                     PixelType type, bool stream, void* to) {
    const auto scalar = kScalarPixelKernels.normalize_bytes;
    if (!normalization.by_arithmetic) return scalar(normalization, in, count, channel, type, false, to);
    auto* out = static_cast<uint8_t*>(to);
    const int64_t element = bytes_of(type);
    const int64_t head = stream ? before_line(out, element, count) : 0;
    if (normalization.same_channels && type != PixelType::kFloat32) {
        const int64_t body = (count - head) / 64 * 64, rest = count - head - body;
        const auto look_up = stream ? look_up_lines<true> : look_up_lines<false>;
        scalar(normalization, in, head, 0, type, false, out);
        look_up(type == PixelType::kBFloat16 ? normalization.bfloat16_bytes : normalization.float16_bytes, in + head, body,
                out + head * element);
        return scalar(normalization, in + count - rest, rest, 0, type, false, out + (count - rest) * element);
    }
    const int64_t step = type == PixelType::kFloat32 ? 48 : 96;
    const int64_t body = (count - head) / step * step;
    const int64_t phase = (channel + head) % 3;  // a step is a multiple of three values
    scalar(normalization, in, head, channel, type, false, out);
    const auto lines = stream ? normalize_lines<true> : normalize_lines<false>;
    lines(normalization, in + head, body, phase, type, out + head * element);
    scalar(normalization, in + head + body, count - head - body, phase, type, false, out + (head + body) * element);
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
              const UnitNormalization& normalization, float* out) {
    const ChannelVectors mean(normalization.mean), std(normalization.std);
    const __m512 zero = _mm512_setzero_ps(), one = _mm512_set1_ps(1.0F);
    const int64_t unfused = 1 + (num_rows - 1) / 4 * 4;
    for (int64_t i = 0; i < count; i += 48) {
        const int64_t left = count - i;
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
            _mm512_mask_storeu_ps(out + i + 16 * v, masks[v], _mm512_div_ps(_mm512_sub_ps(unit, mean.v[v]), std.v[v]));
        }
    }
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

const PixelKernels kAvx512PixelKernels{row_floats,      stage_bytes,     resize_row,  blend_floats, blend_bytes,
                                       normalize_bytes, transpose_units, sum_columns, sum_rows,     cast_floats,
                                       finish_streams};

}  // namespace maxcrops
