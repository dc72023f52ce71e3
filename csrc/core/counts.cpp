#include "counts.h"

#include <cmath>

#include "count_arithmetic.h"

namespace maxcrops {
namespace {

int64_t global_features(const CropRule& crop, int64_t col_tokens) {
    const int64_t rows = ceil_div(crop.crop_patches(), crop.pooling_rows);
    const int64_t cols = ceil_div(crop.crop_patches(), crop.pooling_cols);
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

CountFormula tiled_sequence(const Spec& spec) {
    const TokenRule& t = spec.tokens;
    CountFormula f = per_crop_formula(spec, t.tokens_per_crop + t.crop_extra, t.global_tokens + t.global_extra);
    f.per_row = static_cast<double>(t.row_end + t.row_separator);
    for (double& constant : f.constant) constant += static_cast<double>(t.image_extra);
    f.constant[1] -= static_cast<double>(t.row_separator);
    f.constant[2] += static_cast<double>(t.split_extra - t.row_separator);
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

}  // namespace

CountFormula count_formula(const Spec& spec, Count count) {
    const TokenRule& t = spec.tokens;
    const bool tiled = t.shape == TokenShape::kTiled;
    switch (count) {
        case Count::kSequenceTokens: return tiled ? tiled_sequence(spec) : stitched_sequence(spec);
        case Count::kConnectorOutputs: {
            if (tiled) return per_crop_formula(spec, t.tokens_per_crop, t.global_tokens);
            const int64_t features = global_features(spec.crop, 0);
            if (!t.pool_across_crops) return per_crop_formula(spec, features, features);
            CountFormula f = per_crop_formula(spec, 0, features);
            set_map(f, spec, 0);
            return f;
        }
        case Count::kVitPatches: {
            const int64_t patches = spec.crop.crop_patches() * spec.crop.crop_patches();
            return per_crop_formula(spec, patches, patches);
        }
        case Count::kCrops: return per_crop_formula(spec, 1, 1);
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

int64_t count_of(const Spec& spec, const CountFormula& f, Grid grid, Size canvas, Size image) {
    const double rows = static_cast<double>(grid.rows);
    const double cols = static_cast<double>(grid.cols);
    const double count = count_one(f, rows, cols);
    const bool map_follows_grid = !spec.tokens.unpad && spec.grid.policy != GridPolicy::kBestResolution;
    if (f.step_rows == 0 || map_follows_grid) return static_cast<int64_t>(count);
    const auto map_count = [&](Grid map) { return map.rows * (map.cols + static_cast<int64_t>(f.col)); };
    Grid map = feature_map(f, {canvas.height / spec.crop.crop_size, canvas.width / spec.crop.crop_size});
    const int64_t without_map = static_cast<int64_t>(count) - map_count(feature_map(f, grid));
    if (spec.tokens.unpad) map = unpad(map, image);
    return without_map + map_count(map);
}

}  // namespace maxcrops
