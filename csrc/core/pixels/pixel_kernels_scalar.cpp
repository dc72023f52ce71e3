// The portable loops, and the definition of every other instruction set's.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "pixel_kernels.h"

namespace maxcrops {
namespace {

struct Tap {
    const uint8_t* first;
    float weight;
};

Tap tap_of(const RowPlan& plan, const uint8_t* row, int64_t pixel) {
    const auto index = static_cast<size_t>(pixel);
    return {row + plan.offset[index], plan.axis.weight[index]};
}

float blend(float first, float second, float weight) { return std::fma(first, 1.0F - weight, second * weight); }

uint8_t rounded(float value) { return static_cast<uint8_t>(std::clamp(std::nearbyint(value), 0.0F, 255.0F)); }

uint8_t* patch_row(const RowPlan& plan, const RowPlan::Piece& piece, uint8_t* out) {
    return out + piece.patch * 3 * plan.patch_size * plan.patch_size + piece.offset;
}

int64_t row_floats(const RowPlan& plan) { return 3 * plan.width(); }

int64_t stage_bytes(const RowPlan&) { return 0; }

void resize_row(const RowPlan& plan, const uint8_t* row, int64_t begin, int64_t end, uint8_t*, float* out) {
    const int64_t first = plan.pieces[static_cast<size_t>(begin)].pixel;
    const RowPlan::Piece& last = plan.pieces[static_cast<size_t>(end - 1)];
    for (int64_t pixel = first; pixel < last.pixel + last.num_values / 3; ++pixel) {
        const Tap tap = tap_of(plan, row, pixel);
        for (int64_t c = 0; c < 3; ++c) out[3 * pixel + c] = blend(tap.first[c], tap.first[c + 3], tap.weight);
    }
}

void blend_floats(const RowPlan& plan, const float* top, const float* bottom, RowBlend by, int64_t begin, int64_t end,
                  uint8_t* out) {
    for (int64_t p = begin; p < end; ++p) {
        const RowPlan::Piece& piece = plan.pieces[static_cast<size_t>(p)];
        uint8_t* to = patch_row(plan, piece, out);
        const int64_t start = 3 * piece.pixel;
        for (int64_t i = 0; i < piece.num_values; ++i) {
            to[i] = rounded(blend(top[start + i], bottom[start + i], by.weight));
        }
    }
}

void blend_bytes(const RowPlan& plan, const uint8_t* top, const uint8_t* bottom, RowBlend by, int64_t begin,
                 int64_t end, uint8_t*, uint8_t* out) {
    for (int64_t p = begin; p < end; ++p) {
        const RowPlan::Piece& piece = plan.pieces[static_cast<size_t>(p)];
        uint8_t* to = patch_row(plan, piece, out);
        for (int64_t i = 0; i < piece.num_values / 3; ++i) {
            const Tap upper = tap_of(plan, top, piece.pixel + i);
            const Tap lower = tap_of(plan, bottom, piece.pixel + i);
            const float u1 = upper.weight, u0 = 1.0F - u1, v1 = by.weight, v0 = 1.0F - v1;
            for (int64_t c = 0; c < 3; ++c) {
                const float a = upper.first[c], b = upper.first[c + 3], d = lower.first[c], e = lower.first[c + 3];
                to[3 * i + c] = rounded(by.chained ? std::fma(v1 * u1, e, std::fma(v1 * u0, d, std::fma(v0 * u0, a, v0 * u1 * b)))
                                                   : blend(blend(a, b, u1), blend(d, e, u1), v1));
            }
        }
    }
}

void store(float value, PixelType type, int64_t index, void* out) {
    switch (type) {
        case PixelType::kFloat32: static_cast<float*>(out)[index] = value; break;
        case PixelType::kBFloat16: static_cast<uint16_t*>(out)[index] = to_bfloat16(value); break;
        case PixelType::kFloat16: static_cast<uint16_t*>(out)[index] = to_float16(value); break;
    }
}

void normalize_bytes(const ByteNormalization& normalization, const uint8_t* in, int64_t count, int64_t channel,
                     PixelType type, bool, void* out) {
    for (int64_t i = 0; i < count; ++i) {
        store(normalization.table[static_cast<size_t>((channel + i) % 3)][in[i]], type, i, out);
    }
}

void transpose_units(const uint8_t* const* rows, int64_t begin, int64_t end, float* out) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
        for (int64_t byte = begin; byte < end; ++byte) {
            out[(byte - begin) * kLanes + lane] = static_cast<float>(rows[lane][byte]) / 255.0F;
        }
    }
}

// Taps after the first whose products are added unfused.
int64_t unfused_taps(int64_t taps) { return 1 + (taps - 1) / 4 * 4; }

void sum_columns(const WindowAxis& axis, const float* columns, int64_t origin, int64_t begin, int64_t end, float*,
                 float* const* rows) {
    for (int64_t x = begin; x < end; ++x) {
        const auto index = static_cast<size_t>(x);
        const float* weights = &axis.weights[index * static_cast<size_t>(axis.stride)];
        const int64_t taps = axis.size[index];
        const int64_t unfused = unfused_taps(taps);
        for (int64_t c = 0; c < 3; ++c) {
            const float* column = columns + (3 * (axis.first[index] - origin) + c) * kLanes;
            float sums[kLanes];
            for (int64_t lane = 0; lane < kLanes; ++lane) sums[lane] = column[lane] * weights[0];
            for (int64_t j = 1; j < taps; ++j) {
                column += 3 * kLanes;
                for (int64_t lane = 0; lane < kLanes; ++lane) {
                    sums[lane] = j < unfused ? sums[lane] + column[lane] * weights[j]
                                             : std::fma(column[lane], weights[j], sums[lane]);
                }
            }
            for (int64_t lane = 0; lane < kLanes; ++lane) rows[lane][3 * x + c] = sums[lane];
        }
    }
}

void sum_rows(const float* const* rows, const float* weights, int64_t num_rows, int64_t count,
              const UnitNormalization& normalization, float* out) {
    const int64_t unfused = unfused_taps(num_rows);
    for (int64_t i = 0; i < count; ++i) {
        float sum = rows[0][i] * weights[0];
        for (int64_t j = 1; j < num_rows; ++j) {
            sum = j < unfused ? sum + rows[j][i] * weights[j] : std::fma(rows[j][i], weights[j], sum);
        }
        const auto channel = static_cast<size_t>(i % 3);
        out[i] = (std::clamp(sum, 0.0F, 1.0F) - normalization.mean[channel]) / normalization.std[channel];
    }
}

void cast_floats(const float* in, int64_t count, PixelType type, bool, void* out) {
    if (type == PixelType::kFloat32) {
        std::memcpy(out, in, static_cast<size_t>(count) * sizeof(float));
        return;
    }
    for (int64_t i = 0; i < count; ++i) store(in[i], type, i, out);
}

void finish_streams() {}

}  // namespace

const PixelKernels kScalarPixelKernels{row_floats,      stage_bytes,     resize_row, blend_floats, blend_bytes,
                                       normalize_bytes, transpose_units, sum_columns, sum_rows,    cast_floats,
                                       finish_streams};

}  // namespace maxcrops
