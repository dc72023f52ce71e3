// AVX2 with FMA and F16C: each pixel's two taps are one 8-byte load, 8 float lanes do the arithmetic on two pixels of
// four lanes each, the fourth one idle. Contracts are in pixel_kernels.h.
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "pixel_kernels.h"
#include "pixel_kernels_x86.h"
#include "row_pairs.h"

namespace maxcrops {
namespace {

// A piece is cut in groups of four pixels; the last group ends with the piece.
constexpr int64_t kGroupPixels = 4;

__m256 blend(__m256 first, __m256 second, __m256 weight) {
    return _mm256_fmadd_ps(first, _mm256_sub_ps(_mm256_set1_ps(1.0F), weight), _mm256_mul_ps(second, weight));
}

// Two pixels of a source row, in four lanes each: both taps.
struct Taps {
    __m256 first, second;
};

// Where two pixels are in a row, and the second tap's weights.
class PixelPair {
public:
    PixelPair(const RowPlan& plan, int64_t pixel) {
        const int32_t* first = &plan.axis.first[static_cast<size_t>(pixel)];
        const float* weight = &plan.axis.weight[static_cast<size_t>(pixel)];
        const auto at_end = [&](int i) { return first[i] == plan.axis.in - 1; };
        for (int i = 0; i < 2; ++i) offset_[i] = 3 * first[i];
        second_byte_ = halves_of(at_end(0) ? bytes_from(0) : bytes_from(3), at_end(1) ? bytes_from(0) : bytes_from(3));
        weight_ = _mm256_set_m128(_mm_set1_ps(weight[1]), _mm_set1_ps(weight[0]));
    }

    __m256 weight() const { return weight_; }

    // Each half of a vector reads one pixel's six bytes and spreads three of them over its lanes.
    Taps taps(const uint8_t* row) const {
        const auto pixel = [&](int i) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(row + offset_[i])); };
        const __m256i pair = halves_of(pixel(0), pixel(1));
        return {_mm256_cvtepi32_ps(_mm256_shuffle_epi8(pair, _mm256_broadcastsi128_si256(bytes_from(0)))),
                _mm256_cvtepi32_ps(_mm256_shuffle_epi8(pair, second_byte_))};
    }

private:
    static __m256i halves_of(__m128i low, __m128i high) {
        return _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
    }
    static __m128i bytes_from(char first) {  // three of them, as 32-bit integers, and a zero
        const auto next = static_cast<char>(first + 1), last = static_cast<char>(first + 2);
        return _mm_setr_epi8(first, -1, -1, -1, next, -1, -1, -1, last, -1, -1, -1, -1, -1, -1, -1);
    }

    int64_t offset_[2];
    __m256i second_byte_;
    __m256 weight_;
};

// Four pixels as 12 bytes, rounded half to even (the mode that floating point starts in) and saturated.
void store_group(__m256 low, __m256 high, bool room_for_16, uint8_t* to) {
    const __m256i words = _mm256_packus_epi32(_mm256_cvtps_epi32(low), _mm256_cvtps_epi32(high));
    const __m256i bytes = _mm256_packus_epi16(words, words);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 0, 0, 0, 0);
    const __m128i pixels = _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(bytes, order));
    const __m128i packed = _mm_shuffle_epi8(pixels, _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1));
    if (room_for_16) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to), packed);
    } else {
        _mm_storel_epi64(reinterpret_cast<__m128i*>(to), packed);
        const int32_t last = _mm_extract_epi32(packed, 2);
        std::memcpy(to + 8, &last, 4);
    }
}

__m256 blend_chained(const Taps& top, const Taps& bottom, __m256 u1, __m256 v1) {
    const __m256 one = _mm256_set1_ps(1.0F);
    const __m256 u0 = _mm256_sub_ps(one, u1), v0 = _mm256_sub_ps(one, v1);
    const __m256 upper = _mm256_fmadd_ps(_mm256_mul_ps(v0, u0), top.first, _mm256_mul_ps(_mm256_mul_ps(v0, u1), top.second));
    return _mm256_fmadd_ps(_mm256_mul_ps(v1, u1), bottom.second, _mm256_fmadd_ps(_mm256_mul_ps(v1, u0), bottom.first, upper));
}

// A column of four pixels through the rows of a patch.
template <bool kChained>
void blend_group(const RowPlan& plan, int64_t pixel, const RowPair* rows, bool room_for_16, uint8_t* to) {
    const PixelPair low(plan, pixel), high(plan, pixel + 2);
    const auto place = [&](int64_t dy) { return to + dy * 3 * plan.patch_size; };
    if constexpr (kChained) {
        struct Row {
            Taps low, high;
        };
        const auto read = [&](const uint8_t* row) { return Row{low.taps(row), high.taps(row)}; };
        for_row_pairs<Row>(rows, plan.patch_size, read, [&](const Row& top, const Row& bottom, float weight, int64_t dy) {
            const __m256 by = _mm256_set1_ps(weight);
            store_group(blend_chained(top.low, bottom.low, low.weight(), by),
                        blend_chained(top.high, bottom.high, high.weight(), by), room_for_16, place(dy));
        });
    } else {
        struct Row {
            __m256 low, high;
        };
        const auto resized = [](const PixelPair& pair, const uint8_t* row) {
            const Taps taps = pair.taps(row);
            return blend(taps.first, taps.second, pair.weight());
        };
        const auto read = [&](const uint8_t* row) { return Row{resized(low, row), resized(high, row)}; };
        for_row_pairs<Row>(rows, plan.patch_size, read, [&](const Row& top, const Row& bottom, float weight, int64_t dy) {
            const __m256 by = _mm256_set1_ps(weight);
            store_group(blend(top.low, bottom.low, by), blend(top.high, bottom.high, by), room_for_16, place(dy));
        });
    }
}

void blend_patch(const RowPlan& plan, int64_t patch, const RowPair* rows, bool chained, uint8_t* out) {
    if (!plan.vectorised) return kScalarPixelKernels.blend_patch(plan, patch, rows, chained, out);
    const auto group = chained ? blend_group<true> : blend_group<false>;
    for (int64_t p = patch * plan.pieces_a_patch; p < (patch + 1) * plan.pieces_a_patch; ++p) {
        const RowPlan::Piece& piece = plan.pieces[static_cast<size_t>(p)];
        const int64_t pixels = piece.num_values / 3;
        for (int64_t i = 0; i < pixels; i += kGroupPixels) {
            const int64_t first = std::min(i, pixels - kGroupPixels);
            group(plan, piece.pixel + first, rows, 3 * first + 16 <= piece.num_values, out + piece.offset + 3 * first);
        }
    }
}

// One constant a channel, laid out for three vectors in a row whose first lane is `phase`.
struct ChannelVectors {
    __m256 v[3];

    explicit ChannelVectors(const float* lanes) {
        for (int i = 0; i < 3; ++i) v[i] = _mm256_loadu_ps(lanes + 8 * i);
    }
    explicit ChannelVectors(const std::array<float, 3>& channels) {
        float lanes[24];
        for (size_t i = 0; i < 24; ++i) lanes[i] = channels[i % 3];
        *this = ChannelVectors(lanes);
    }
};

__m256i bfloat16_bits(__m256 value) {  // in the low half of each lane
    const __m256i bits = _mm256_castps_si256(value);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    return _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7FFF)), odd), 16);
}

// 16 values as 16-bit floats.
__m256i halves(__m256 low, __m256 high, PixelType type) {
    if (type == PixelType::kBFloat16) {
        return _mm256_permute4x64_epi64(_mm256_packus_epi32(bfloat16_bits(low), bfloat16_bits(high)), 0xD8);
    }
    constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm256_cvtps_ph(low, kNearest)), _mm256_cvtps_ph(high, kNearest), 1);
}

template <bool kStream>
void store_vector(void* to, __m256i value) {
    if constexpr (kStream) {
        _mm256_stream_si256(static_cast<__m256i*>(to), value);
    } else {
        _mm256_storeu_si256(static_cast<__m256i*>(to), value);
    }
}

template <bool kStream>
void normalize_lines(const ByteNormalization& normalization, const uint8_t* in, int64_t count, int64_t phase,
                     PixelType type, uint8_t* out) {
    const ChannelVectors offset(normalization.offsets.data() + phase);
    const ChannelVectors high(normalization.highs.data() + phase), low(normalization.lows.data() + phase);
    const auto normalized = [&](int64_t i, int vector) {
        const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(in + i));
        const __m256 x = _mm256_sub_ps(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)), offset.v[vector]);
        return _mm256_fmadd_ps(x, high.v[vector], _mm256_mul_ps(x, low.v[vector]));
    };
    if (type == PixelType::kFloat32) {
        for (int64_t i = 0; i < count; i += 24) {
            for (int v = 0; v < 3; ++v) {
                store_vector<kStream>(out + 4 * (i + 8 * v), _mm256_castps_si256(normalized(i + 8 * v, v)));
            }
        }
        return;
    }
    for (int64_t i = 0; i < count; i += 48) {
        store_vector<kStream>(out + 2 * i, halves(normalized(i, 0), normalized(i + 8, 1), type));
        store_vector<kStream>(out + 2 * i + 32, halves(normalized(i + 16, 2), normalized(i + 24, 0), type));
        store_vector<kStream>(out + 2 * i + 64, halves(normalized(i + 32, 1), normalized(i + 40, 2), type));
    }
}

void normalize_bytes(const ByteNormalization& normalization, const uint8_t* in, int64_t count, int64_t channel,
                     PixelType type, bool stream, void* to) {
    const auto scalar = kScalarPixelKernels.normalize_bytes;
    if (!normalization.by_arithmetic) return scalar(normalization, in, count, channel, type, false, to);
    auto* out = static_cast<uint8_t*>(to);
    const int64_t element = bytes_of(type);
    const int64_t head = stream ? before_line(out, element, count) : 0;
    const int64_t step = type == PixelType::kFloat32 ? 24 : 48;
    const int64_t body = (count - head) / step * step;
    const int64_t phase = (channel + head) % 3;  // a step is a multiple of three values
    scalar(normalization, in, head, channel, type, false, out);
    const auto lines = stream ? normalize_lines<true> : normalize_lines<false>;
    lines(normalization, in + head, body, phase, type, out + head * element);
    scalar(normalization, in + head + body, count - head - body, phase, type, false, out + (head + body) * element);
}

void transpose_units(const uint8_t* const* rows, int64_t begin, int64_t end, float* out) {
    const Reciprocal by_255 = reciprocal_of(255.0F);  // u / 255 exactly: tested for all 256 values
    const __m256 high = _mm256_set1_ps(by_255.high), low = _mm256_set1_ps(by_255.low);
    const auto unit = [&](__m128i bytes) {
        const __m256 u = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
        return _mm256_fmadd_ps(u, high, _mm256_mul_ps(u, low));
    };
    for (int64_t byte = begin; byte < end; byte += 16) {
        __m128i columns[16];
        for (int lane = 0; lane < 16; ++lane) {
            columns[lane] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[lane] + byte));
        }
        transpose_bytes(columns);
        const int64_t valid = std::min<int64_t>(16, end - byte);
        float* to = out + (byte - begin) * kLanes;
        for (int64_t i = 0; i < valid; ++i) {
            _mm256_storeu_ps(to + i * kLanes, unit(columns[i]));
            _mm256_storeu_ps(to + i * kLanes + 8, unit(_mm_srli_si128(columns[i], 8)));
        }
    }
}

void transpose_floats(__m256 (&r)[8]) {
    __m256 t[8];
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        for (int j = 0; j < 2; ++j) {
            const __m256d a = _mm256_castps_pd(t[i + j]), b = _mm256_castps_pd(t[i + j + 2]);
            r[i + 2 * j] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, b));
            r[i + 2 * j + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, b));
        }
    }
    for (int i = 0; i < 4; ++i) {
        t[i] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x20);
        t[i + 4] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x31);
    }
    for (int i = 0; i < 8; ++i) r[i] = t[i];
}

// The sums of up to 16 pixels, from columns to rows; a row takes 48 values whatever there are.
void flush_sums(const float* sums, int64_t first, float* const* rows) {
    for (int64_t block = 0; block < 6; ++block) {
        for (int half = 0; half < 2; ++half) {
            __m256 square[8];
            for (int i = 0; i < 8; ++i) square[i] = _mm256_loadu_ps(sums + (8 * block + i) * kLanes + 8 * half);
            transpose_floats(square);
            for (int lane = 0; lane < 8; ++lane) {
                _mm256_storeu_ps(rows[8 * half + lane] + 3 * first + 8 * block, square[lane]);
            }
        }
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
        __m256 sum[6];  // three channels of twice eight rows
        __m256 weight = _mm256_broadcast_ss(weights);
        for (int k = 0; k < 6; ++k) sum[k] = _mm256_mul_ps(_mm256_loadu_ps(column + 8 * k), weight);
        int64_t j = 1;
        for (; j < unfused; ++j) {
            column += 3 * kLanes;
            weight = _mm256_broadcast_ss(weights + j);
            for (int k = 0; k < 6; ++k) {
                sum[k] = _mm256_add_ps(sum[k], _mm256_mul_ps(_mm256_loadu_ps(column + 8 * k), weight));
            }
        }
        for (; j < taps; ++j) {
            column += 3 * kLanes;
            weight = _mm256_broadcast_ss(weights + j);
            for (int k = 0; k < 6; ++k) sum[k] = _mm256_fmadd_ps(_mm256_loadu_ps(column + 8 * k), weight, sum[k]);
        }
        for (int k = 0; k < 6; ++k) _mm256_storeu_ps(sums + 3 * (x % 16) * kLanes + 8 * k, sum[k]);
        if (x % 16 == 15 || x == width - 1) flush_sums(sums, x - x % 16, rows);
    }
}

void sum_rows(const float* const* rows, const float* weights, int64_t num_rows, int64_t count,
              const UnitNormalization& normalization, float* out) {
    const ChannelVectors mean(normalization.mean), std(normalization.std);
    const __m256 zero = _mm256_setzero_ps(), one = _mm256_set1_ps(1.0F);
    const int64_t unfused = 1 + (num_rows - 1) / 4 * 4;
    const int64_t body = count / 24 * 24;
    for (int64_t i = 0; i < body; i += 24) {
        __m256 sums[3];
        __m256 weight = _mm256_broadcast_ss(weights);
        for (int v = 0; v < 3; ++v) sums[v] = _mm256_mul_ps(_mm256_loadu_ps(rows[0] + i + 8 * v), weight);
        int64_t j = 1;
        for (; j < unfused; ++j) {
            weight = _mm256_broadcast_ss(weights + j);
            for (int v = 0; v < 3; ++v) {
                sums[v] = _mm256_add_ps(sums[v], _mm256_mul_ps(_mm256_loadu_ps(rows[j] + i + 8 * v), weight));
            }
        }
        for (; j < num_rows; ++j) {
            weight = _mm256_broadcast_ss(weights + j);
            for (int v = 0; v < 3; ++v) sums[v] = _mm256_fmadd_ps(_mm256_loadu_ps(rows[j] + i + 8 * v), weight, sums[v]);
        }
        for (int v = 0; v < 3; ++v) {
            const __m256 unit = _mm256_min_ps(_mm256_max_ps(sums[v], zero), one);
            _mm256_storeu_ps(out + i + 8 * v, _mm256_div_ps(_mm256_sub_ps(unit, mean.v[v]), std.v[v]));
        }
    }
    if (body == count) return;
    // The rest again as one ragged call of the scalar loop; 24 % 3 == 0 keeps the channel.
    const float* rest[256];
    for (int64_t j = 0; j < std::min<int64_t>(num_rows, 256); ++j) rest[j] = rows[j] + body;
    if (num_rows <= 256) {
        kScalarPixelKernels.sum_rows(rest, weights, num_rows, count - body, normalization, out + body);
    } else {
        kScalarPixelKernels.sum_rows(rows, weights, num_rows, count, normalization, out);
    }
}

template <bool kStream>
void cast_lines(const float* in, int64_t count, PixelType type, uint8_t* out) {
    if (type == PixelType::kFloat32) {
        for (int64_t i = 0; i < count; i += 8) {
            store_vector<kStream>(out + 4 * i, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in + i)));
        }
        return;
    }
    for (int64_t i = 0; i < count; i += 16) {
        store_vector<kStream>(out + 2 * i, halves(_mm256_loadu_ps(in + i), _mm256_loadu_ps(in + i + 8), type));
    }
}

void cast_floats(const float* in, int64_t count, PixelType type, bool stream, void* to) {
    auto* out = static_cast<uint8_t*>(to);
    const int64_t element = bytes_of(type);
    const int64_t head = stream ? before_line(out, element, count) : 0;
    const int64_t step = 32 / element;
    const int64_t body = (count - head) / step * step;
    kScalarPixelKernels.cast_floats(in, head, type, false, out);
    const auto lines = stream ? cast_lines<true> : cast_lines<false>;
    lines(in + head, body, type, out + head * element);
    kScalarPixelKernels.cast_floats(in + head + body, count - head - body, type, false, out + (head + body) * element);
}

void finish_streams() { _mm_sfence(); }

}  // namespace

const PixelKernels kAvx2PixelKernels{blend_patch, normalize_bytes, transpose_units, sum_columns,
                                     sum_rows,    cast_floats,     finish_streams};

}  // namespace maxcrops
