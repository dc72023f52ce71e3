// AVX2 with FMA and F16C: byte shuffles bring the taps of four values to each half of a vector, 8 float lanes do the
// arithmetic. Contracts are in pixel_kernels.h.
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

// Sixteen values are two vectors, whose halves take turns: values 0 to 3 and 8 to 11, 4 to 7 and 12 to 15. What packing
// makes of them is in order.
constexpr int64_t kQuarter = 4;

// The four values of a half lie in two neighbouring pixels. Their bytes are one load, or eight of each pixel where the
// neighbours are further apart.
constexpr int64_t kPixelBytes = 8;
constexpr int64_t kMostStep = 16 - 6;  // between first taps, for both taps of the second pixel to be in a load

__m256i halves_of(__m128i low, __m128i high) { return _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1); }

struct Taps {
    __m256 first, second;
};

// Eight values, four in each half: where their taps are in a source row, and their weights.
template <bool kWide>
class Vector {
public:
    // `value`: that each half starts with, in a piece from `pixel` on; `second_step`: bytes from first taps to second ones.
    Vector(const RowPlan& plan, int64_t pixel, const int64_t (&value)[2], __m256i second_step, __m256 weight)
        : first_weight_(_mm256_sub_ps(_mm256_set1_ps(1.0F), weight)), second_weight_(weight) {
        __m128i first[2];
        for (int i = 0; i < 2; ++i) {
            const int32_t* offset = &plan.offset[static_cast<size_t>(pixel + value[i] / 3)];
            low_[i] = offset[0];
            high_[i] = offset[1];
            first[i] = first_bytes(value[i] % 3, kWide ? kPixelBytes : high_[i] - low_[i]);
        }
        first_ = halves_of(first[0], first[1]);
        second_ = _mm256_add_epi32(first_, second_step);
    }

    Taps taps(const uint8_t* row) const {
        const __m256i bytes = halves_of(half(row, 0), half(row, 1));
        return {_mm256_cvtepi32_ps(_mm256_shuffle_epi8(bytes, first_)), _mm256_cvtepi32_ps(_mm256_shuffle_epi8(bytes, second_))};
    }

    __m256 resized(const uint8_t* row) const {
        const Taps read = taps(row);
        return _mm256_fmadd_ps(read.first, first_weight_, _mm256_mul_ps(read.second, second_weight_));
    }

    // The chain of four products.
    __m256 chained(const Taps& top, const Taps& bottom, const RowPair& pair) const {
        const __m256 v0 = _mm256_set1_ps(pair.top_weight), v1 = _mm256_set1_ps(pair.bottom_weight);
        const __m256 u0 = first_weight_, u1 = second_weight_;
        const __m256 upper =
            _mm256_fmadd_ps(_mm256_mul_ps(v0, u0), top.first, _mm256_mul_ps(_mm256_mul_ps(v0, u1), top.second));
        return _mm256_fmadd_ps(_mm256_mul_ps(v1, u1), bottom.second,
                               _mm256_fmadd_ps(_mm256_mul_ps(v1, u0), bottom.first, upper));
    }

private:
    // Four values from a channel of one pixel on; the next pixel is so many bytes behind. As indices of a shuffle.
    static __m128i first_bytes(int64_t channel, int64_t step) {
        alignas(16) static constexpr uint32_t kByte[3][4] = {{0, 1, 2, 0}, {1, 2, 0, 1}, {2, 0, 1, 2}};
        alignas(16) static constexpr uint32_t kIsNext[3][4] = {{0, 0, 0, 0xFF}, {0, 0, 0xFF, 0xFF}, {0, 0xFF, 0xFF, 0xFF}};
        const auto load = [&](const uint32_t(&table)[3][4]) {
            return _mm_load_si128(reinterpret_cast<const __m128i*>(table[channel]));
        };
        const __m128i zeros = _mm_set1_epi32(static_cast<int>(0x80808000U));
        const __m128i next = _mm_and_si128(load(kIsNext), _mm_set1_epi32(static_cast<int>(step)));
        return _mm_or_si128(zeros, _mm_add_epi32(load(kByte), next));
    }

    __m128i half(const uint8_t* row, int i) const {
        if constexpr (!kWide) return _mm_loadu_si128(reinterpret_cast<const __m128i*>(row + low_[i]));
        const __m128i low = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(row + low_[i]));
        return _mm_castps_si128(_mm_loadh_pi(_mm_castsi128_ps(low), reinterpret_cast<const __m64*>(row + high_[i])));
    }

    int64_t low_[2], high_[2];
    __m256i first_, second_;
    __m256 first_weight_, second_weight_;
};

__m256 blend(__m256 top, __m256 bottom, const RowPair& pair) {
    return _mm256_fmadd_ps(top, _mm256_set1_ps(pair.top_weight), _mm256_mul_ps(bottom, _mm256_set1_ps(pair.bottom_weight)));
}

// Sixteen values as bytes, rounded half to even (the mode that floating point starts in) and saturated.
void store_values(__m256 v0, __m256 v1, uint8_t* to) {
    const __m256i words = _mm256_packus_epi32(_mm256_cvtps_epi32(v0), _mm256_cvtps_epi32(v1));
    const __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), bytes);
}

// Sixteen values through the rows of a patch; they are `lanes` and on of the plan, and `start` and on of their piece.
template <bool kWide, bool kChained>
void blend_values(const RowPlan& plan, int64_t pixel, int64_t start, size_t lanes, const RowPair* rows, uint8_t* to) {
    const auto bytes = [&](const AlignedVector<uint8_t>& of) { return _mm_load_si128(reinterpret_cast<const __m128i*>(&of[lanes])); };
    const __m128i steps = _mm_shuffle_epi32(_mm_sub_epi8(bytes(plan.second_byte), bytes(plan.first_byte)), _MM_SHUFFLE(3, 1, 2, 0));
    const auto vector = [&](int64_t i, __m128i second_steps) {
        const float* weights = &plan.weights[lanes + static_cast<size_t>(i)];
        return Vector<kWide>(plan, pixel, {start + i, start + i + 2 * kQuarter}, _mm256_cvtepu8_epi32(second_steps),
                             _mm256_set_m128(_mm_load_ps(weights + 2 * kQuarter), _mm_load_ps(weights)));
    };
    const Vector<kWide> v0 = vector(0, steps), v1 = vector(kQuarter, _mm_srli_si128(steps, 8));
    const int64_t num_rows = plan.patch_size;
    const auto place = [&](int64_t dy) { return to + dy * 3 * num_rows; };
    if constexpr (kChained) {
        struct Row {
            Taps v0, v1;
        };
        const auto read = [&](const uint8_t* row) { return Row{v0.taps(row), v1.taps(row)}; };
        for_row_pairs<Row>(rows, num_rows, read, [&](const Row& top, const Row& bottom, const RowPair& pair, int64_t dy) {
            store_values(v0.chained(top.v0, bottom.v0, pair), v1.chained(top.v1, bottom.v1, pair), place(dy));
        });
    } else {
        struct Row {
            __m256 v0, v1;
        };
        const auto read = [&](const uint8_t* row) { return Row{v0.resized(row), v1.resized(row)}; };
        for_row_pairs<Row>(rows, num_rows, read, [&](const Row& top, const Row& bottom, const RowPair& pair, int64_t dy) {
            store_values(blend(top.v0, bottom.v0, pair), blend(top.v1, bottom.v1, pair), place(dy));
        });
    }
}

template <bool kWide>
void blend_pieces(const RowPlan& plan, int64_t patch, const RowPair* rows, bool chained, RowsAhead& ahead, uint8_t* out) {
    int64_t lines_left = ahead.lines_a_patch;
    const int64_t lines_at_once = lines_left / (3 * plan.pieces_a_patch);
    const auto blend_sixteen = chained ? blend_values<kWide, true> : blend_values<kWide, false>;
    for (int64_t p = patch * plan.pieces_a_patch; p < (patch + 1) * plan.pieces_a_patch; ++p) {
        const RowPlan::Piece& piece = plan.pieces[static_cast<size_t>(p)];
        for (int64_t lane = 0; lane < piece.num_values; lane += RowPlan::kVectorValues) {
            ask(ahead, lines_at_once);
            lines_left -= lines_at_once;
            const int64_t start = std::min<int64_t>(lane, piece.num_values - RowPlan::kVectorValues);
            blend_sixteen(plan, piece.pixel, start, static_cast<size_t>(p * RowPlan::kPieceLanes + lane), rows,
                          out + piece.offset + start);
        }
    }
    ask(ahead, lines_left);
}

void blend_patch(const RowPlan& plan, int64_t patch, const RowPair* rows, bool chained, RowsAhead& ahead, uint8_t* out) {
    if (!plan.vectorised) return kScalarPixelKernels.blend_patch(plan, patch, rows, chained, ahead, out);
    (plan.most_step > kMostStep ? blend_pieces<true> : blend_pieces<false>)(plan, patch, rows, chained, ahead, out);
}

// One constant a channel, laid out for three vectors in a row whose first lane is `phase`.
struct ChannelVectors {
    __m256 v[3];

    explicit ChannelVectors(const float* lanes) {
        for (int i = 0; i < 3; ++i) v[i] = _mm256_loadu_ps(lanes + 8 * i);
    }
};

template <bool kTies>  // whether a value may lie halfway between two results
__m256i bfloat16_bits(__m256 value) {  // in the low half of each lane
    const __m256i bits = _mm256_castps_si256(value);
    if constexpr (!kTies) return _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x8000)), 16);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    return _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7FFF)), odd), 16);
}

// 16 values as 16-bit floats.
template <bool kTies>
__m256i halves(__m256 low, __m256 high, PixelType type) {
    if (type == PixelType::kBFloat16) {
        return _mm256_permute4x64_epi64(_mm256_packus_epi32(bfloat16_bits<kTies>(low), bfloat16_bits<kTies>(high)), 0xD8);
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
        store_vector<kStream>(out + 2 * i, halves<false>(normalized(i, 0), normalized(i + 8, 1), type));
        store_vector<kStream>(out + 2 * i + 32, halves<false>(normalized(i + 16, 2), normalized(i + 24, 0), type));
        store_vector<kStream>(out + 2 * i + 64, halves<false>(normalized(i + 32, 1), normalized(i + 40, 2), type));
    }
}

constexpr int64_t kStep = 48;  // values that normalize_lines makes at a time, or a multiple of it

// Values before the first whole line or behind the last, through the caches.
void normalize_rest(const ByteNormalization& normalization, const uint8_t* in, int64_t count, int64_t phase,
                    PixelType type, uint8_t* out) {
    uint8_t padded[kStep] = {};
    alignas(32) uint8_t values[kStep * sizeof(float)];
    for (; count > 0; in += kStep, count -= kStep, out += kStep * bytes_of(type)) {  // a step keeps the phase
        const auto some = static_cast<size_t>(std::min(count, kStep));
        std::memcpy(padded, in, some);
        normalize_lines<false>(normalization, padded, kStep, phase, type, values);
        std::memcpy(out, values, some * static_cast<size_t>(bytes_of(type)));
    }
}

void normalize_bytes(const ByteNormalization& normalization, const uint8_t* in, int64_t count, int64_t channel,
                     PixelType type, bool stream, void* to) {
    if (!normalization.by_arithmetic || (type == PixelType::kBFloat16 && normalization.bfloat16_ties)) {
        return kScalarPixelKernels.normalize_bytes(normalization, in, count, channel, type, false, to);
    }
    auto* out = static_cast<uint8_t*>(to);
    const int64_t element = bytes_of(type);
    const int64_t head = stream ? before_line(out, element, count) : 0;
    const int64_t body = (count - head) / kStep * kStep, rest = count - head - body;
    const int64_t phase = (channel + head) % 3;
    normalize_rest(normalization, in, head, channel, type, out);
    const auto lines = stream ? normalize_lines<true> : normalize_lines<false>;
    lines(normalization, in + head, body, phase, type, out + head * element);
    normalize_rest(normalization, in + head + body, rest, phase, type, out + (head + body) * element);
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
              const UnitNormalization& normalization, int64_t first, int64_t patch_size, float* out) {
    const ChannelVectors mean(normalization.means.data()), std(normalization.stds.data());
    const __m256 zero = _mm256_setzero_ps(), one = _mm256_set1_ps(1.0F);
    const int64_t unfused = 1 + (num_rows - 1) / 4 * 4;
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    // 24 values, or fewer, `left`.
    const auto sum = [&](auto ragged, int64_t i, int64_t left, float* to) {
        __m256i masks[3];
        for (int v = 0; v < 3; ++v) masks[v] = _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(left) - 8 * v), lane);
        const auto load = [&](int64_t j, int v) {
            const float* from = rows[j] + i + 8 * v;
            if constexpr (ragged) return _mm256_maskload_ps(from, masks[v]);
            else return _mm256_loadu_ps(from);
        };
        __m256 sums[3];
        __m256 weight = _mm256_broadcast_ss(weights);
        for (int v = 0; v < 3; ++v) sums[v] = _mm256_mul_ps(load(0, v), weight);
        int64_t j = 1;
        for (; j < unfused; ++j) {
            weight = _mm256_broadcast_ss(weights + j);
            for (int v = 0; v < 3; ++v) sums[v] = _mm256_add_ps(sums[v], _mm256_mul_ps(load(j, v), weight));
        }
        for (; j < num_rows; ++j) {
            weight = _mm256_broadcast_ss(weights + j);
            for (int v = 0; v < 3; ++v) sums[v] = _mm256_fmadd_ps(load(j, v), weight, sums[v]);
        }
        for (int v = 0; v < 3; ++v) {
            const __m256 unit = _mm256_min_ps(_mm256_max_ps(sums[v], zero), one);
            const __m256 value = _mm256_div_ps(_mm256_sub_ps(unit, mean.v[v]), std.v[v]);
            if constexpr (ragged) _mm256_maskstore_ps(to + 8 * v, masks[v], value);
            else _mm256_storeu_ps(to + 8 * v, value);
        }
    };
    for_patches(first, count, patch_size, out, [&](int64_t begin, int64_t values, float* to) {
        if (values < 24) return sum(std::true_type(), begin, values, to);
        for (int64_t i = 0; i < values; i += 24) {
            const int64_t start = std::min(i, values - 24);  // the last ones overlap; whole pixels, as all counts are
            sum(std::false_type(), begin + start, 24, to + start);
        }
    });
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
        store_vector<kStream>(out + 2 * i, halves<true>(_mm256_loadu_ps(in + i), _mm256_loadu_ps(in + i + 8), type));
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
