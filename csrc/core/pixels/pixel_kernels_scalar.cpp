// The portable loops, and the definition of every other instruction set's.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "patch_row.h"
#include "pixel_kernels.h"
#include "row_pairs.h"

namespace maxcrops {
namespace {

float blend(float first, float second, float first_weight, float second_weight) {
    return std::fma(first, first_weight, second * second_weight);
}

uint8_t rounded(float value) { return static_cast<uint8_t>(std::clamp(std::nearbyint(value), 0.0F, 255.0F)); }

// Calls use(value of the piece, byte of its first tap in a source row, byte of its second, weight of the second).
template <typename Use>
void for_values(const RowPlan& plan, const RowPlan::Piece& piece, const Use& use) {
    for (int64_t i = 0; i < piece.num_values / 3; ++i) {
        const auto pixel = static_cast<size_t>(piece.pixel + i);
        const int64_t first = plan.offset[pixel];
        const int64_t second = plan.axis.first[pixel] == plan.axis.in - 1 ? first : first + 3;
        for (int64_t c = 0; c < 3; ++c) use(3 * i + c, first + c, second + c, plan.axis.weight[pixel]);
    }
}

void blend_chained(const RowPlan& plan, const RowPlan::Piece& piece, const RowPair& pair, uint8_t* to) {
    const float v0 = pair.top_weight, v1 = pair.bottom_weight;
    for_values(plan, piece, [&](int64_t i, int64_t first, int64_t second, float u1) {
        const float u0 = 1.0F - u1;
        const float a = pair.top[first], b = pair.top[second], c = pair.bottom[first], d = pair.bottom[second];
        to[i] = rounded(std::fma(v1 * u1, d, std::fma(v1 * u0, c, std::fma(v0 * u0, a, v0 * u1 * b))));
    });
}

void blend_patch(const RowPlan& plan, int64_t patch, const RowPair* rows, bool chained, RowsAhead& ahead, uint8_t* out) {
    ask(ahead, ahead.lines_a_patch);
    struct Floats {
        float values[48];
    };
    for (int64_t p = patch * plan.pieces_a_patch; p < (patch + 1) * plan.pieces_a_patch; ++p) {
        const RowPlan::Piece& piece = plan.pieces[static_cast<size_t>(p)];
        const auto place = [&](int64_t dy) { return out + dy * 3 * plan.patch_size + piece.offset; };
        if (chained) {
            for (int64_t dy = 0; dy < plan.patch_size; ++dy) blend_chained(plan, piece, rows[dy], place(dy));
            continue;
        }
        const auto resized = [&](const uint8_t* row) {
            Floats result;
            for_values(plan, piece, [&](int64_t i, int64_t first, int64_t second, float weight) {
                result.values[i] = blend(row[first], row[second], 1.0F - weight, weight);
            });
            return result;
        };
        for_row_pairs<Floats>(rows, plan.patch_size, resized,
                              [&](const Floats& top, const Floats& bottom, const RowPair& pair, int64_t dy) {
                                  uint8_t* to = place(dy);
                                  for (int64_t i = 0; i < piece.num_values; ++i) {
                                      to[i] = rounded(blend(top.values[i], bottom.values[i], pair.top_weight, pair.bottom_weight));
                                  }
                              });
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
              const UnitNormalization& normalization, int64_t first, int64_t patch_size, float* out) {
    const int64_t unfused = unfused_taps(num_rows);
    for_patches(first, count, patch_size, out, [&](int64_t begin, int64_t values, float* to) {
        for (int64_t i = begin; i < begin + values; ++i) {
            float sum = rows[0][i] * weights[0];
            for (int64_t j = 1; j < num_rows; ++j) {
                sum = j < unfused ? sum + rows[j][i] * weights[j] : std::fma(rows[j][i], weights[j], sum);
            }
            const auto channel = static_cast<size_t>(i % 3);
            *to++ = (std::clamp(sum, 0.0F, 1.0F) - normalization.means[channel]) / normalization.stds[channel];
        }
    });
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

const PixelKernels kScalarPixelKernels{blend_patch, normalize_bytes, transpose_units, sum_columns,
                                       sum_rows,    cast_floats,     finish_streams};

}  // namespace maxcrops
