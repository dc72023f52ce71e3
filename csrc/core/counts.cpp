#include "counts.h"

#include <algorithm>
#include <cmath>

#include "count_arithmetic.h"
#include "placement.h"

namespace maxcrops {
namespace {

int64_t global_features(const CropRule& crop, int64_t col_tokens) {
    const int64_t rows = ceil_div(crop.global_patches(), crop.global_pooling().rows);
    const int64_t cols = ceil_div(crop.global_patches(), crop.global_pooling().cols);
    return rows * (cols + col_tokens);
}

void set_map(CountFormula& f, const Spec& spec, int64_t col_tokens) {
    const CropRule& crop = spec.crop;
    const auto side = [&](int64_t pooling, double* step, double* base, double* div) {
        if (spec.tokens.pool_across_crops) {  // ceil((window * r + margins) / pooling)
            *step = static_cast<double>(crop.window_patches());
            *base = static_cast<double>(crop.margin_patches() + pooling - 1);
            *div = static_cast<double>(pooling);
        } else {  // each window pooled on its own; margins are multiples of the pooling
            *step = static_cast<double>(ceil_div(crop.window_patches(), pooling));
            *base = static_cast<double>(crop.margin_patches() / pooling);
            *div = 1;
        }
    };
    side(crop.pooling_rows, &f.step_rows, &f.base_rows, &f.div_rows);
    side(crop.pooling_cols, &f.step_cols, &f.base_cols, &f.div_cols);
    f.col = static_cast<double>(col_tokens);
}

// The same amount for every crop, the global one included where there is one.
CountFormula per_crop_formula(const Spec& spec, int64_t per_local, int64_t per_global) {
    CountFormula f;
    const Grid none{0, 0}, one{1, 1}, two{1, 2};
    const double global = static_cast<double>(per_global);
    f.constant[0] = spec.crop.has_global(none) ? global : 0;
    f.constant[1] = spec.crop.has_global(one) ? global : 0;
    f.constant[2] = spec.crop.has_global(two) ? global : 0;
    f.per_crop = static_cast<double>(per_local);
    return f;
}

// What crops sized by the image add, the global one wherever it exists.
void add_units(CountFormula& f, const Spec& spec, bool of_local, bool of_global, Unit unit) {
    if (of_local && spec.crop.sizing != Sizing::kSquare) f.local_unit = unit;
    if (of_global && spec.crop.global_sizing != Sizing::kSquare) f.global_unit = unit;
}

// Of an encoder that always gets max_crops local crops.
CountFormula filled(CountFormula f, int64_t max_crops) {
    for (double& constant : f.constant) constant += f.per_crop * static_cast<double>(max_crops);
    f.per_crop = 0;
    return f;
}

CountFormula tiled_sequence(const Spec& spec) {
    const TokenRule& t = spec.tokens;
    CountFormula f = per_crop_formula(spec, t.tokens_per_crop + t.crop_extra, t.global_tokens + t.global_extra);
    f.per_row = static_cast<double>(t.row_end + t.row_separator);
    for (double& constant : f.constant) constant += static_cast<double>(t.image_extra);
    f.constant[1] -= static_cast<double>(t.row_separator);
    f.constant[2] += static_cast<double>(t.split_extra - t.row_separator);
    add_units(f, spec, t.counts_features, t.counts_global_features, Unit::kFeatures);
    return f;
}

CountFormula stitched_sequence(const Spec& spec) {
    const TokenRule& t = spec.tokens;
    CountFormula f = per_crop_formula(spec, 0, global_features(spec.crop, t.low_res_col_tokens) + t.global_extra);
    for (double& constant : f.constant) constant += static_cast<double>(t.image_extra);
    f.constant[1] += static_cast<double>(t.map_extra);
    f.constant[2] += static_cast<double>(t.map_extra);
    set_map(f, spec, t.col_tokens);
    return f;
}

int64_t units(Unit unit, const CropRule& crop, Size size, Grid pooling) {
    if (unit == Unit::kPatches) pooling = {1, 1};
    return size.height / (crop.patch_size * pooling.rows) * (size.width / (crop.patch_size * pooling.cols));
}

int64_t local_units(Unit unit, const CropRule& crop, const Cut& cut, Size image) {
    if (crop.sizing != Sizing::kEdges) {
        return cut.grid.count() * units(unit, crop, cut.crop, crop.pooling());
    }
    int64_t count = 0;
    for (int64_t row = 0; row < cut.grid.rows; ++row) {
        for (int64_t col = 0; col < cut.grid.cols; ++col) {
            const Box source = source_of(cut.grid, image, row, col);
            const Size part{std::max<int64_t>(1, source.height), std::max<int64_t>(1, source.width)};
            count += units(unit, crop, size_by_edges(crop, part), crop.pooling());
        }
    }
    return count;
}

// The map without the whole patches of padding right of and below the image.
Grid map_of_content(const Spec& spec, const Cut& cut, Size image) {
    const CropRule& crop = spec.crop;
    const Box content = place(crop.fit, image, cut.canvas, crop.crop_size);
    const auto side = [&](int64_t canvas, int64_t used, int64_t pooling) {
        return ceil_div(canvas / crop.patch_size - (canvas - used) / crop.patch_size, pooling);
    };
    return {side(cut.canvas.height, content.height, crop.pooling_rows), side(cut.canvas.width, content.width, crop.pooling_cols)};
}

// Python's x // y for positive floats: the floor of the exact quotient, which only a quotient that is rounded to a whole
// number can miss.
double floor_divide(double x, double y) {
    const double quotient = x / y;
    const double whole = std::floor(quotient);
    if (quotient != whole) return whole;
    return std::nearbyint((x - std::fmod(x, y)) / y);
}

}  // namespace

CountFormula count_formula(const Spec& spec, const Knob& knob, Count count) {
    const TokenRule& t = spec.tokens;
    const bool tiled = t.shape == TokenShape::kTiled;
    switch (count) {
        case Count::kSequenceTokens: return tiled ? tiled_sequence(spec) : stitched_sequence(spec);
        case Count::kConnectorOutputs: {
            if (tiled) {
                const int64_t local = t.tokens_per_crop + t.cross_attention_keys;
                CountFormula f = per_crop_formula(spec, local, t.global_tokens + t.cross_attention_keys);
                add_units(f, spec, t.counts_features, t.counts_global_features, Unit::kFeatures);
                return spec.crop.fills_batch ? filled(f, knob.max_crops) : f;
            }
            const int64_t global = global_features(spec.crop, 0);
            const int64_t local = ceil_div(spec.crop.crop_patches(), spec.crop.pooling_rows) *
                                  ceil_div(spec.crop.crop_patches(), spec.crop.pooling_cols);
            if (!t.pool_across_crops) return per_crop_formula(spec, local, global);
            CountFormula f = per_crop_formula(spec, 0, global);
            set_map(f, spec, 0);
            return f;
        }
        case Count::kVitPatches: {
            const auto patches = [&](Sizing sizing, int64_t side) { return sizing == Sizing::kSquare ? side * side : 0; };
            const int64_t local = patches(spec.crop.sizing, spec.crop.crop_patches());
            CountFormula f = per_crop_formula(spec, local, patches(spec.crop.global_sizing, spec.crop.global_patches()));
            add_units(f, spec, true, true, Unit::kPatches);
            return spec.crop.fills_batch ? filled(f, knob.max_crops) : f;
        }
        case Count::kCrops: return per_crop_formula(spec, 1, 1);
        case Count::kCrossAttentionKeys:
            return per_crop_formula(spec, t.cross_attention_keys, t.cross_attention_keys);
    }
    return {};
}

Grid feature_map(const CountFormula& f, Grid grid) {
    const double rows = std::floor((static_cast<double>(grid.rows) * f.step_rows + f.base_rows) / f.div_rows);
    const double cols = std::floor((static_cast<double>(grid.cols) * f.step_cols + f.base_cols) / f.div_cols);
    return {static_cast<int64_t>(rows), static_cast<int64_t>(cols)};
}

Grid unpad(Grid map, Size image) {
    const double height = static_cast<double>(image.height);
    const double width = static_cast<double>(image.width);
    const double rows = static_cast<double>(map.rows);
    const double cols = static_cast<double>(map.cols);
    // int(round(v, 7)): rounding to 7 decimals reaches the next integer exactly when less than 5e-8 is missing. The
    // gap is exact (Sterbenz), and neither it nor v can equal a decimal that ends in 5e-8, so there are no ties.
    const auto int_round_7 = [](double value) {
        const double whole = std::floor(value);
        return static_cast<int64_t>((whole + 1.0) - value < 5e-8 ? whole + 1.0 : whole);
    };
    if (width / height > cols / rows) {
        const int64_t used = int_round_7(height * (cols / width));
        map.rows -= (map.rows - used) / 2 * 2;
    } else {
        const int64_t used = int_round_7(width * (rows / height));
        map.cols -= (map.cols - used) / 2 * 2;
    }
    return map;
}

Grid scaled_down(Grid map, double features) {
    const double rows = static_cast<double>(map.rows);
    const double cols = static_cast<double>(map.cols);
    const double scale = std::sqrt(rows * cols / features);
    if (scale <= 1.1) return map;
    return {static_cast<int64_t>(floor_divide(rows, scale)), static_cast<int64_t>(floor_divide(cols, scale))};
}

bool follows_grid(const Spec& spec, const CountFormula& f) {
    if (f.local_unit != Unit::kNone || f.global_unit != Unit::kNone) return false;
    const TokenRule& t = spec.tokens;
    const bool map_follows = t.unpad == Unpad::kNever && t.max_map_crops == 0 && spec.grid.policy != GridPolicy::kBestResolution;
    return !f.has_map() || map_follows;
}

int64_t count_of(const Spec& spec, const CountFormula& f, const Cut& cut, Size image) {
    const Grid grid = cut.grid;
    const double rows = static_cast<double>(grid.rows), cols = static_cast<double>(grid.cols);
    if (follows_grid(spec, f)) return static_cast<int64_t>(count_one(f, rows, cols));
    int64_t count = static_cast<int64_t>(count_without_map(f, rows, cols));
    const CropRule& crop = spec.crop;
    if (f.global_unit != Unit::kNone && crop.has_global(grid)) {
        count += units(f.global_unit, crop, cut.global, crop.global_pooling());
    }
    if (f.local_unit != Unit::kNone) count += local_units(f.local_unit, crop, cut, image);
    if (!f.has_map() || grid.count() == 0) return count;

    Grid map = feature_map(f, {cut.canvas.height / crop.crop_size, cut.canvas.width / crop.crop_size});
    if (spec.tokens.unpad == Unpad::kByRatio) map = unpad(map, image);
    if (spec.tokens.unpad == Unpad::kByPatches) map = map_of_content(spec, cut, image);
    if (spec.tokens.max_map_crops > 0) {
        const Grid one = feature_map(f, {1, 1});
        map = scaled_down(map, static_cast<double>(spec.tokens.max_map_crops * one.rows * one.cols));
    }
    return count + map.rows * (map.cols + static_cast<int64_t>(f.col));
}

}  // namespace maxcrops
