// AVX-512 as Ice Lake and Zen 4 have it: byte permutations (VBMI) make both taps of a piece of pixels contiguous, 16
// float lanes do the arithmetic. Contracts are in pixel_kernels.h.
#include <immintrin.h>

#include <algorithm>
#include <cstring>

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

// The bytes of one tap for the 48 lanes of a piece.
__m512i gather(const uint8_t* from, const uint8_t* bytes, bool one_load) {
    const __m512i index = _mm512_loadu_si512(bytes);
    const __m512i low = _mm512_loadu_si512(from);
    if (one_load) return _mm512_permutexvar_epi8(index, low);
    return _mm512_permutex2var_epi8(low, index, _mm512_loadu_si512(from + 64));
}

template <int kVector>
__m512 floats_of(__m512i bytes) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm512_extracti32x4_epi32(bytes, kVector)));
}

__m512 blend(__m512 first, __m512 second, __m512 weight) {
    return _mm512_fmadd_ps(first, _mm512_sub_ps(_mm512_set1_ps(1.0F), weight), _mm512_mul_ps(second, weight));
}

// Sums of weights are 1 within a rounding and never negative: saturation at 255 is the whole clamp.
__m128i rounded(__m512 value) {
    return _mm512_cvtusepi32_epi8(_mm512_cvt_roundps_epi32(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
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
        std::memcpy(stage + pixel * kStagedPixelBytes, row + 3 * plan.axis.first[static_cast<size_t>(pixel)],
                    kStagedPixelBytes);
    }
}

void resize_row(const RowPlan& plan, const uint8_t* row, int64_t begin, int64_t end, uint8_t* stage, float* out) {
    if (!plan.vectorised) return kScalarPixelKernels.resize_row(plan, row, begin, end, stage, out);
    if (plan.staged) {
        stage_row(plan, row, begin, end, stage);
        row = stage;
    }
    for (int64_t p = begin; p < end; ++p) {
        const RowPlan::Piece& piece = plan.pieces[static_cast<size_t>(p)];
        const __m512i first = gather(row + piece.base, &plan.first_byte[static_cast<size_t>(p) * 64], plan.one_load);
        const __m512i second = gather(row + piece.base, &plan.second_byte[static_cast<size_t>(p) * 64], plan.one_load);
        const float* weights = &plan.weights[static_cast<size_t>(p * kPieceLanes)];
        float* to = out + p * kPieceLanes;
        _mm512_storeu_ps(to, blend(floats_of<0>(first), floats_of<0>(second), _mm512_loadu_ps(weights)));
        _mm512_storeu_ps(to + 16, blend(floats_of<1>(first), floats_of<1>(second), _mm512_loadu_ps(weights + 16)));
        _mm512_storeu_ps(to + 32, blend(floats_of<2>(first), floats_of<2>(second), _mm512_loadu_ps(weights + 32)));
    }
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

template <bool kChained>
void blend_pieces(const RowPlan& plan, const uint8_t* top, const uint8_t* bottom, float weight, int64_t begin,
                  int64_t end, uint8_t* out) {
    const __m512 v1 = _mm512_set1_ps(weight);
    for (int64_t p = begin; p < end; ++p) {
        const RowPlan::Piece& piece = plan.pieces[static_cast<size_t>(p)];
        const uint8_t* first = &plan.first_byte[static_cast<size_t>(p) * 64];
        const uint8_t* second = &plan.second_byte[static_cast<size_t>(p) * 64];
        const Taps taps{gather(top + piece.base, first, plan.one_load), gather(top + piece.base, second, plan.one_load),
                        gather(bottom + piece.base, first, plan.one_load),
                        gather(bottom + piece.base, second, plan.one_load)};
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
    const auto pieces = by.chained ? blend_pieces<true> : blend_pieces<false>;
    pieces(plan, top, bottom, by.weight, begin, end, out);
}

// One constant a channel, laid out for three vectors in a row whose first lane is `phase`.
struct ChannelVectors {
    __m512 v[3];

    template <typename OfChannel>
    ChannelVectors(int64_t phase, const OfChannel& of_channel) {
        float lanes[48];
        for (int64_t i = 0; i < 48; ++i) lanes[i] = of_channel(static_cast<size_t>((phase + i) % 3));
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

template <bool kStream>
void normalize_lines(const ByteNormalization& normalization, const uint8_t* in, int64_t count, int64_t phase,
                     PixelType type, uint8_t* out) {
    const ChannelVectors offset(phase, [&](size_t c) { return normalization.offset[c]; });
    const ChannelVectors high(phase, [&](size_t c) { return normalization.reciprocal[c].high; });
    const ChannelVectors low(phase, [&](size_t c) { return normalization.reciprocal[c].low; });
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

void normalize_bytes(const ByteNormalization& normalization, const uint8_t* in, int64_t count, int64_t channel,
                     PixelType type, bool stream, void* to) {
    const auto scalar = kScalarPixelKernels.normalize_bytes;
    if (!normalization.by_arithmetic) return scalar(normalization, in, count, channel, type, false, to);
    auto* out = static_cast<uint8_t*>(to);
    const int64_t element = bytes_of(type);
    const int64_t head = stream ? before_line(out, element, count) : 0;
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
    for (int64_t byte = begin; byte < end; byte += 16) {
        __m128i columns[16];
        for (int lane = 0; lane < 16; ++lane) {
            columns[lane] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[lane] + byte));
        }
        transpose_bytes(columns);
        const int64_t valid = std::min<int64_t>(16, end - byte);
        float* to = out + (byte - begin) * kLanes;
        for (int64_t i = 0; i < valid; ++i) {
            const __m512 u = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(columns[i]));
            _mm512_storeu_ps(to + i * kLanes, _mm512_fmadd_ps(u, high, _mm512_mul_ps(u, low)));
        }
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

void sum_columns(const WindowAxis& axis, const float* columns, int64_t origin, int64_t begin, int64_t end,
                 float* const* rows) {
    alignas(64) float sums[48 * kLanes] = {};
    for (int64_t group = begin; group < end; group += 16) {
        const int64_t pixels = std::min<int64_t>(16, end - group);
        for (int64_t i = 0; i < pixels; ++i) {
            const auto x = static_cast<size_t>(group + i);
            const float* weights = &axis.weights[x * static_cast<size_t>(axis.stride)];
            const float* column = columns + 3 * (axis.first[x] - origin) * kLanes;
            const int64_t taps = axis.size[x];
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
            _mm512_store_ps(sums + (3 * i) * kLanes, red);
            _mm512_store_ps(sums + (3 * i + 1) * kLanes, green);
            _mm512_store_ps(sums + (3 * i + 2) * kLanes, blue);
        }
        for (int64_t block = 0; block < 3; ++block) {
            if (16 * block >= 3 * pixels) break;
            __m512 square[16];
            for (int i = 0; i < 16; ++i) square[i] = _mm512_load_ps(sums + (16 * block + i) * kLanes);
            transpose_floats(square);
            for (int lane = 0; lane < 16; ++lane) _mm512_storeu_ps(rows[lane] + 3 * group + 16 * block, square[lane]);
        }
    }
}

void sum_rows(const float* const* rows, const float* weights, int64_t num_rows, int64_t count,
              const UnitNormalization& normalization, float* out) {
    const ChannelVectors mean(0, [&](size_t c) { return normalization.mean[c]; });
    const ChannelVectors std(0, [&](size_t c) { return normalization.std[c]; });
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
