// Specs for the tests, named by policy and token shape, and the naive reference searches that several tests share.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <ostream>
#include <random>
#include <string>
#include <vector>

#include "layout.h"
#include "spec.h"

namespace maxcrops {

inline void PrintTo(const Size& size, std::ostream* out) { *out << size.height << "x" << size.width << " px"; }
inline void PrintTo(const Grid& grid, std::ostream* out) { *out << grid.rows << "x" << grid.cols << " crops"; }

}  // namespace maxcrops

namespace maxcrops_test {

using namespace maxcrops;

__extension__ typedef __int128 Int128;

// Windows of 224 px (16 patches) with margins of 4 patches, 112 px together; pooled crop by crop.
inline Spec overlapping_stitched(int64_t max_crops = 12) {
    Spec spec;
    spec.name = "overlapping-stitched";
    spec.grid.policy = GridPolicy::kScaleFit;
    spec.grid.max_crops = max_crops;
    spec.crop.crop_size = 336;
    spec.crop.patch_size = 14;
    spec.crop.pooling_rows = spec.crop.pooling_cols = 2;
    spec.crop.left_margin = spec.crop.right_margin = 4;
    spec.crop.global_crop = GlobalCrop::kAlways;
    spec.crop.fit = spec.crop.global_fit = Fit::kLetterboxTrunc;
    spec.tokens.shape = TokenShape::kStitched;
    spec.tokens.global_extra = 2;
    spec.tokens.map_extra = 2;
    spec.tokens.col_tokens = spec.tokens.low_res_col_tokens = 1;
    return spec;
}

// 27 patches a crop, windows of 266 px, pooled over the stitched map.
inline Spec overlapping_pooled_across(int64_t max_crops = 8) {
    Spec spec = overlapping_stitched(max_crops);
    spec.name = "overlapping-pooled-across";
    spec.crop.crop_size = 378;
    spec.crop.fit = spec.crop.global_fit = Fit::kStretch;
    spec.tokens.pool_across_crops = true;
    spec.tokens.low_res_col_tokens = 0;
    return spec;
}

inline Spec tiled_scale_fit(int64_t crop_size = 512, int64_t max_crops = 12) {
    Spec spec;
    spec.name = "tiled-scale-fit";
    spec.grid.policy = GridPolicy::kScaleFit;
    spec.grid.max_crops = max_crops;
    spec.crop.crop_size = crop_size;
    spec.crop.patch_size = 1;
    spec.crop.global_crop = GlobalCrop::kWhenSplit;
    spec.crop.global_first = false;
    spec.tokens.tokens_per_crop = spec.tokens.global_tokens = 256;
    spec.tokens.image_extra = 2;
    spec.tokens.crop_extra = spec.tokens.global_extra = 1;
    return spec;
}

inline Spec tiled_closest_ratio(int64_t max_crops = 12, int64_t min_crops = 1, int64_t crop_size = 448) {
    Spec spec = tiled_scale_fit(crop_size, max_crops);
    spec.name = "tiled-closest-ratio";
    spec.grid.policy = GridPolicy::kClosestRatio;
    spec.grid.min_crops = min_crops;
    spec.crop.patch_size = crop_size >= 14 ? 14 : 1;
    spec.tokens.crop_extra = spec.tokens.global_extra = 0;
    return spec;
}

inline Spec stitched_best_resolution() {
    Spec spec;
    spec.name = "stitched-best-resolution";
    spec.grid.policy = GridPolicy::kBestResolution;
    spec.grid.resolutions = {{336, 672}, {672, 336}, {672, 672}, {1008, 336}, {336, 1008}};
    spec.crop.crop_size = 336;
    spec.crop.patch_size = 14;
    spec.crop.global_crop = GlobalCrop::kAlways;
    spec.crop.fit = Fit::kLetterboxCeil;
    spec.tokens.shape = TokenShape::kStitched;
    spec.tokens.col_tokens = 1;
    spec.tokens.unpad = Unpad::kByRatio;
    return spec;
}

inline Spec tiled_ceil_grid(int64_t crop_size = 364, int64_t longest_edge = 1456, int64_t limit = 4096) {
    Spec spec;
    spec.name = "tiled-ceil-grid";
    spec.grid.policy = GridPolicy::kCeilGrid;
    spec.grid.longest_edge = longest_edge;
    spec.grid.longest_edge_limit = limit;
    spec.crop.crop_size = crop_size;
    spec.crop.patch_size = crop_size >= 14 ? 14 : 1;
    spec.crop.global_crop = GlobalCrop::kAlways;
    spec.crop.global_first = false;
    spec.tokens.tokens_per_crop = spec.tokens.global_tokens = 169;
    spec.tokens.crop_extra = 2;
    spec.tokens.row_end = 1;
    spec.tokens.global_extra = 3;
    return spec;
}

inline Spec tiled_fixed(Grid grid) {
    Spec spec = tiled_scale_fit();
    spec.name = "tiled-fixed";
    spec.grid.policy = GridPolicy::kFixed;
    spec.grid.fixed_grid = grid;
    spec.crop.global_crop = GlobalCrop::kAlways;
    spec.tokens.row_separator = 3;
    spec.tokens.split_extra = 5;
    return spec;
}

// Crops of 448 px, at most nine of them, by any policy.
inline Spec tiled_search(GridPolicy policy, int64_t max_crops = 9) {
    Spec spec = tiled_scale_fit(448, max_crops);
    spec.name = "tiled-search-" + std::to_string(static_cast<int>(policy));
    spec.grid.policy = policy;
    spec.grid.covering_threshold = 0.9;
    spec.grid.min_slice_size = 256;
    spec.grid.min_ratio = 1.2;
    spec.grid.max_image_size = 3 * 448;
    spec.crop.patch_size = 14;
    spec.crop.pooling_rows = spec.crop.pooling_cols = 4;
    spec.crop.global_crop = GlobalCrop::kAlways;
    return spec;
}

// Crops that keep the image's ratio and cost what their size makes.
inline Spec sized_by_area() {
    Spec spec = tiled_search(GridPolicy::kLogRatio);
    spec.name = "sized-by-area";
    spec.crop.sizing = spec.crop.global_sizing = Sizing::kArea;
    spec.tokens.tokens_per_crop = spec.tokens.global_tokens = 0;
    spec.tokens.counts_features = spec.tokens.counts_global_features = true;
    return spec;
}

inline Spec sized_by_features() {
    Spec spec = tiled_closest_ratio(10, 2, 512);
    spec.name = "sized-by-features";
    spec.grid.split = SplitGate::kAboveArea;
    spec.grid.split_tolerance = 2.0;
    spec.crop.patch_size = 16;
    spec.crop.pooling_rows = spec.crop.pooling_cols = 2;
    spec.crop.global_crop = GlobalCrop::kWhenSplit;
    spec.crop.global_sizing = Sizing::kFeatures;
    spec.crop.min_features = 64;
    spec.crop.max_features = 256;
    spec.tokens.global_tokens = 0;
    spec.tokens.counts_global_features = true;
    return spec;
}

// One of each policy and shape, with the variants that take another path through batch counting.
inline std::vector<Spec> all_specs() {
    Spec clamped = overlapping_pooled_across();
    clamped.grid.clamp_reduced_sides = true;
    Spec unpadded = tiled_scale_fit(112, 9);
    unpadded.crop.patch_size = 14;
    unpadded.crop.fit = Fit::kLetterboxCeil;
    unpadded.tokens = stitched_best_resolution().tokens;
    return {overlapping_stitched(), overlapping_pooled_across(), clamped, unpadded, tiled_scale_fit(),
            tiled_closest_ratio(), tiled_closest_ratio(10, 2), stitched_best_resolution(), tiled_ceil_grid(),
            tiled_fixed({2, 3}), tiled_fixed({0, 0}), tiled_search(GridPolicy::kLogRatio),
            tiled_search(GridPolicy::kCoveringArea), tiled_search(GridPolicy::kLargestCanvas),
            tiled_search(GridPolicy::kPanAndScan), tiled_search(GridPolicy::kWindowSnap), sized_by_area(),
            sized_by_features()};
}

inline Knob knob_of(const Spec& spec) { return resolve_knob(spec, std::nullopt); }

inline int64_t count_in(const Layout& layout, Count what) {
    switch (what) {
        case Count::kSequenceTokens: return layout.sequence_tokens;
        case Count::kConnectorOutputs: return layout.connector_outputs;
        case Count::kVitPatches: return layout.vit_patches;
        case Count::kCrops: return layout.num_crops;
        case Count::kCrossAttentionKeys: return layout.cross_attention_keys;
    }
    return -1;
}

constexpr Count kAllCounts[] = {Count::kSequenceTokens, Count::kConnectorOutputs, Count::kVitPatches, Count::kCrops,
                                Count::kCrossAttentionKeys};

class Random {
public:
    explicit Random(uint64_t seed) : engine_(seed) {}
    int64_t operator()(int64_t low, int64_t high) {  // the same numbers with every standard library
        return low + static_cast<int64_t>(engine_() % static_cast<uint64_t>(high - low + 1));
    }
    bool coin() { return (*this)(0, 1) == 1; }

private:
    std::mt19937_64 engine_;
};

// A scale as a fraction: den > 0, or 1 / 0 for a division by a side of 0.
struct Scale {
    Int128 num, den;
};

inline Scale scale_of(int64_t length, int64_t side) {
    if (side == 0) return {1, 0};
    return side < 0 ? Scale{-Int128{length}, -Int128{side}} : Scale{length, side};
}

inline bool operator<(const Scale& a, const Scale& b) { return a.num * b.den < b.num * a.den; }

// scale_fit word for word, in rational numbers: every grid of at most max_crops by number of crops, then rows.
inline Grid naive_scale_fit(const std::vector<Grid>& grids, const CropRule& crop, bool clamp, Size image) {
    const int64_t least_side = clamp ? 1 : -kMaxSide;
    const int64_t h = std::max(image.height - crop.margin_size(), least_side);
    const int64_t w = std::max(image.width - crop.margin_size(), least_side);
    const Scale one{1, 1};
    Grid up, down;
    Scale least{0, 1}, most{0, 1};
    for (const Grid& grid : grids) {
        const Scale s = std::min(scale_of(grid.rows * crop.window_size(), h),
                                 scale_of(grid.cols * crop.window_size(), w));
        if (!(s < one) && (up.rows == 0 || s < least)) {
            up = grid;
            least = s;
        }
        if (down.rows == 0 || most < s) {
            down = grid;
            most = s;
        }
    }
    return up.rows > 0 ? up : down;
}

// All grids of min..max crops, by number of crops and then rows (or then columns).
inline std::vector<Grid> grids_up_to(int64_t max_crops, int64_t min_crops = 1, bool columns_first = false) {
    std::vector<Grid> grids;
    for (int64_t count = min_crops; count <= max_crops; ++count) {
        for (int64_t first = 1; first <= count; ++first) {
            if (count % first != 0) continue;
            grids.push_back(columns_first ? Grid{count / first, first} : Grid{first, count / first});
        }
    }
    return grids;
}

}  // namespace maxcrops_test
