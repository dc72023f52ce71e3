#include "spec.h"

#include <algorithm>
#include <stdexcept>

#include "count_arithmetic.h"
#include "counts.h"
#include "grid_policies.h"

namespace maxcrops {
namespace {

[[noreturn]] void fail(const Spec& spec, const std::string& what) {
    throw std::invalid_argument("[spec] " + spec.name + ": " + what);
}

void require_range(const Spec& spec, const char* field, int64_t value, int64_t low, int64_t high) {
    if (value < low || value > high) {
        fail(spec, std::string(field) + " must be in " + std::to_string(low) + ".." + std::to_string(high) + ", got " +
                       std::to_string(value));
    }
}

// Counts stay far below 2^51, where a double holds every integer: 2^20 crops of 2^24 tokens are 2^44, and a map of at
// most 2^31 rows (crops_limit) with 2^10 column tokens each 2^41.
constexpr int64_t kMaxTokensPerCrop = int64_t{1} << 24;
constexpr int64_t kMaxColTokens = int64_t{1} << 10;
constexpr int64_t kMaxCropSize = int64_t{1} << 14;
constexpr int64_t kMaxLongestEdge = int64_t{1} << 20;
constexpr size_t kMaxResolutions = size_t{1} << 14;
constexpr int64_t kMaxRatio = 1024;  // thresholds that some image size must be beyond, as a witness
constexpr int64_t kMaxListedCrops = 512;  // policies that try a list of all grids

bool tries_a_list(GridPolicy policy) {
    return policy == GridPolicy::kLogRatio || policy == GridPolicy::kCoveringArea || policy == GridPolicy::kLargestCanvas;
}

bool takes_max_crops(GridPolicy policy) {
    return policy == GridPolicy::kScaleFit || policy == GridPolicy::kClosestRatio || policy == GridPolicy::kPanAndScan ||
           tries_a_list(policy);
}

bool takes_an_edge(GridPolicy policy) { return policy == GridPolicy::kCeilGrid || policy == GridPolicy::kWindowSnap; }

// The largest canvas of a spec, or its longest row of slices, must be an image size itself: its bound has a witness.
int64_t crops_limit(const Spec& spec) {
    if (tries_a_list(spec.grid.policy)) return kMaxListedCrops;
    const int64_t longest = std::max(spec.crop.crop_size, spec.grid.min_slice_size);
    return std::min(kMaxCropsLimit, kMaxSide / longest);
}

void validate_crop(const Spec& spec) {
    const CropRule& crop = spec.crop;
    require_range(spec, "crop_size", crop.crop_size, 2, kMaxCropSize);
    require_range(spec, "global_crop_size", crop.global_size(), 2, kMaxCropSize);
    require_range(spec, "patch_size", crop.patch_size, 1, std::min(crop.crop_size, crop.global_size()));
    require_range(spec, "pooling", crop.pooling_rows, 1, crop.crop_patches());
    require_range(spec, "pooling", crop.pooling_cols, 1, crop.crop_patches());
    require_range(spec, "global_pooling", crop.global_pooling().rows, 1, crop.global_patches());
    require_range(spec, "global_pooling", crop.global_pooling().cols, 1, crop.global_patches());
    require_range(spec, "overlap_margins", crop.left_margin, 0, crop.crop_patches());
    require_range(spec, "overlap_margins", crop.right_margin, 0, crop.crop_patches());
    if (crop.window_patches() < 1) {
        fail(spec, "overlap_margins must leave a window: " + std::to_string(crop.margin_patches()) + " of " +
                       std::to_string(crop.crop_patches()) + " patches are margin");
    }
    if (crop.margin_patches() > 0 && crop.crop_size % crop.patch_size != 0) {
        fail(spec, "crop_size " + std::to_string(crop.crop_size) + " must be a multiple of patch_size " +
                       std::to_string(crop.patch_size) + " when crops overlap");
    }
    require_range(spec, "min_content_side", crop.min_content_side, 0, std::min(crop.crop_size, crop.global_size()));
    if (crop.sizing == Sizing::kFeatures) fail(spec, "sizing 'features' is known for the global crop only");
    const bool has_own_size = crop.sizing != Sizing::kSquare || crop.global_sizing != Sizing::kSquare;
    const GridPolicy policy = spec.grid.policy;
    if (has_own_size && (policy == GridPolicy::kBestResolution || takes_an_edge(policy))) {
        fail(spec, "crops of the image's ratio are not known to the grid policies best_resolution, ceil_grid and window_snap");
    }
    if (has_own_size && crop.margin_patches() > 0) fail(spec, "crops of the image's ratio cannot overlap");
    if (crop.global_sizing == Sizing::kFeatures) {
        require_range(spec, "min_features", crop.min_features, 1, kMaxTokensPerCrop);
        require_range(spec, "max_features", crop.max_features, crop.min_features, kMaxTokensPerCrop);
    }
    if (crop.sizing == Sizing::kEdges || crop.global_sizing == Sizing::kEdges) {
        require_range(spec, "shortest_edge", crop.shortest_edge, 1, kMaxCropSize);
        require_range(spec, "longest_crop_edge", crop.longest_crop_edge, crop.shortest_edge, kMaxCropSize);
    }
    if (crop.sizing == Sizing::kEdges && spec.grid.policy != GridPolicy::kFixed) {
        fail(spec, "sizing 'edges' is known to the grid policy fixed only");
    }
}

// Whether an image can have no local crop.
bool can_be_unsplit(const GridRule& grid) {
    switch (grid.policy) {
        case GridPolicy::kFixed: return grid.fixed_grid.count() == 0;
        case GridPolicy::kClosestRatio: return grid.split == SplitGate::kAboveCrop || grid.split == SplitGate::kAboveArea;
        case GridPolicy::kCeilGrid:
        case GridPolicy::kLogRatio:
        case GridPolicy::kPanAndScan:
        case GridPolicy::kWindowSnap: return true;
        default: return false;
    }
}

void validate_grid(const Spec& spec) {
    const GridRule& grid = spec.grid;
    switch (grid.policy) {
        case GridPolicy::kFixed:
            require_range(spec, "rows", grid.fixed_grid.rows, 0, 1024);
            require_range(spec, "cols", grid.fixed_grid.cols, 0, 1024);
            if ((grid.fixed_grid.rows == 0) != (grid.fixed_grid.cols == 0)) {
                fail(spec, "rows and cols must both be 0 or neither");
            }
            break;
        case GridPolicy::kScaleFit:
            require_range(spec, "max_crops", grid.max_crops, 1, crops_limit(spec));
            break;
        case GridPolicy::kClosestRatio:
            require_range(spec, "max_crops", grid.max_crops, 1, crops_limit(spec));
            require_range(spec, "min_crops", grid.min_crops, 1, kMaxCropsLimit);
            require_range(spec, "max_grid_side", grid.max_grid_side, 0, kMaxCropsLimit);
            if (!(grid.split_tolerance >= 0 && grid.split_tolerance <= kMaxRatio)) {
                fail(spec, "split_tolerance must be in 0.." + std::to_string(kMaxRatio));
            }
            if (grid.split == SplitGate::kAboveArea) require_range(spec, "max_features", spec.crop.max_features, 1, kMaxTokensPerCrop);
            break;
        case GridPolicy::kBestResolution:
            if (grid.resolutions.empty()) fail(spec, "resolutions must name at least one (height, width)");
            if (grid.resolutions.size() > kMaxResolutions) fail(spec, "resolutions has too many entries");
            for (const Size& entry : grid.resolutions) {
                // A stitched map spans whole crops; a tiled crop may be smaller than its encoder's input.
                const int64_t least = spec.tokens.shape == TokenShape::kStitched ? spec.crop.crop_size : 1;
                require_range(spec, "a height in resolutions", entry.height, least, kMaxLongestEdge);
                require_range(spec, "a width in resolutions", entry.width, least, kMaxLongestEdge);
                require_range(spec, "the crops of a resolution", crops_of(spec.crop, entry), 1, kMaxCropsLimit);
            }
            break;
        case GridPolicy::kCeilGrid:
            require_range(spec, "longest_edge", grid.longest_edge, 1, kMaxLongestEdge);
            require_range(spec, "longest_edge_limit", grid.longest_edge_limit, 1, kMaxLongestEdge);
            break;
        case GridPolicy::kCoveringArea:
            if (!(grid.covering_threshold >= 0 && grid.covering_threshold < 1)) {
                fail(spec, "covering_threshold must be a share in 0..1, 1 excluded");
            }
            [[fallthrough]];
        case GridPolicy::kLogRatio:
        case GridPolicy::kLargestCanvas:
            require_range(spec, "max_crops", grid.max_crops, 1, crops_limit(spec));
            break;
        case GridPolicy::kPanAndScan:
            require_range(spec, "min_slice_size", grid.min_slice_size, 1, kMaxCropSize);
            require_range(spec, "max_crops", grid.max_crops, 1, crops_limit(spec));
            if (!(grid.min_ratio >= 1 && grid.min_ratio <= kMaxRatio)) {
                fail(spec, "min_ratio must be in 1.." + std::to_string(kMaxRatio));
            }
            break;
        case GridPolicy::kWindowSnap:
            require_range(spec, "max_image_size", grid.max_image_size, 1, kMaxLongestEdge);
            break;
    }
    const bool has_margin = spec.crop.margin_patches() > 0;
    if (has_margin && grid.policy != GridPolicy::kScaleFit && grid.policy != GridPolicy::kFixed) {
        fail(spec, "overlap_margins are known to the grid policies scale_fit and fixed only");
    }
    if (can_be_unsplit(grid) && spec.crop.global_crop == GlobalCrop::kNever) {
        fail(spec, "global_crop must not be 'never' where an image can have no local crop");
    }
}

void validate_tokens(const Spec& spec) {
    const TokenRule& t = spec.tokens;
    const auto tokens = [&](const char* field, int64_t value) { require_range(spec, field, value, 0, kMaxTokensPerCrop); };
    require_range(spec, "image_extra_tokens", t.image_extra, -1, kMaxTokensPerCrop);
    tokens("global_extra_tokens", t.global_extra);
    if (t.shape == TokenShape::kTiled) {
        tokens("tokens_per_crop", t.tokens_per_crop);
        tokens("crop_extra_tokens", t.crop_extra);
        tokens("row_end_tokens", t.row_end);
        tokens("row_separator_tokens", t.row_separator);
        tokens("global_tokens", t.global_tokens);
        tokens("split_extra_tokens", t.split_extra);
        tokens("cross_attention_keys", t.cross_attention_keys);
        const auto require_units = [&](bool counts, Sizing sizing, const char* field) {
            if (counts && (sizing == Sizing::kSquare || sizing == Sizing::kEdges)) {
                fail(spec, std::string(field) + " must be a number unless the crop is sized by features or area");
            }
        };
        require_units(t.counts_features, spec.crop.sizing, "tokens_per_crop");
        require_units(t.counts_global_features, spec.crop.global_sizing, "global_tokens");
        return;
    }
    require_range(spec, "col_tokens", t.col_tokens, 0, kMaxColTokens);
    require_range(spec, "low_res_col_tokens", t.low_res_col_tokens, 0, kMaxColTokens);
    tokens("start_end_tokens", t.map_extra);
    const CropRule& crop = spec.crop;
    const auto divides = [](int64_t margin, int64_t pooling) { return margin % pooling == 0; };
    if (!t.pool_across_crops && !(divides(crop.left_margin, crop.pooling_rows) && divides(crop.right_margin, crop.pooling_rows) &&
                                  divides(crop.left_margin, crop.pooling_cols) && divides(crop.right_margin, crop.pooling_cols))) {
        fail(spec, "overlap_margins must be multiples of pooling where each crop is pooled on its own");
    }
    require_range(spec, "max_map_crops", t.max_map_crops, 0, kMaxCropsLimit);
    if (spec.grid.policy == GridPolicy::kPanAndScan || spec.grid.policy == GridPolicy::kWindowSnap ||
        crop.sizing != Sizing::kSquare || crop.global_sizing != Sizing::kSquare) {
        fail(spec, "stitched tokens need square crops of one canvas");
    }
    const GridPolicy policy = spec.grid.policy;  // whose bounds have witnesses without padding
    if (t.unpad != Unpad::kNever && policy != GridPolicy::kFixed && policy != GridPolicy::kScaleFit &&
        policy != GridPolicy::kClosestRatio && policy != GridPolicy::kBestResolution) {
        fail(spec, "unpad is known to the grid policies fixed, scale_fit, closest_ratio and best_resolution only");
    }
    if (t.unpad == Unpad::kByPatches && (crop.fit != Fit::kTopLeft || crop.margin_patches() > 0)) {
        fail(spec, "unpad 'by_patches' needs the fit 'top_left' and no overlap_margins");
    }
    if (t.unpad == Unpad::kByRatio &&
        (crop.fit == Fit::kStretch || crop.margin_patches() > 0 || crop.pooling_rows != crop.pooling_cols)) {
        fail(spec, "unpad 'by_ratio' needs a letterbox fit, no overlap_margins and square pooling: it compares two ratios");
    }
}

}  // namespace

void validate(const Spec& spec) {
    validate_crop(spec);
    validate_grid(spec);
    validate_tokens(spec);
    const CountFormula sequence = count_formula(spec, {}, Count::kSequenceTokens);
    if (count_one(sequence, 1, 1) < 0 || (can_be_unsplit(spec.grid) && count_one(sequence, 0, 0) < 0)) {
        fail(spec, "image_extra_tokens " + std::to_string(spec.tokens.image_extra) + " takes more than an image has");
    }
}

KnobRange knob_range(const Spec& spec) {
    const GridPolicy policy = spec.grid.policy;
    if (takes_max_crops(policy)) return {1, crops_limit(spec)};
    if (policy == GridPolicy::kFixed) return {default_max_crops(spec), default_max_crops(spec)};
    if (takes_an_edge(policy)) {
        // Longer edges are scaled back to the limit.
        const int64_t limit = policy == GridPolicy::kCeilGrid ? spec.grid.longest_edge_limit : kMaxLongestEdge;
        const int64_t side = ceil_div(limit, spec.crop.crop_size);
        return {1, std::min(side * side, kMaxCropsLimit)};
    }
    KnobRange range{kMaxCropsLimit, 1};
    for (const Size& entry : spec.grid.resolutions) {
        range.first = std::min(range.first, crops_of(spec.crop, entry));
        range.last = std::max(range.last, crops_of(spec.crop, entry));
    }
    return range;
}

Knob resolve_knob(const Spec& spec, std::optional<int64_t> max_crops) {
    const GridPolicy policy = spec.grid.policy;
    const int64_t own_edge = policy == GridPolicy::kWindowSnap ? spec.grid.max_image_size : spec.grid.longest_edge;
    Knob knob{policy == GridPolicy::kBestResolution ? kMaxCropsLimit : spec.grid.max_crops, own_edge};
    if (max_crops) {
        const KnobRange range = knob_range(spec);
        // A fixed grid has no knob: any number leaves it as it is.
        const int64_t least = policy == GridPolicy::kFixed ? 1 : range.first;
        const int64_t most = takes_max_crops(policy) ? range.last : kMaxCropsLimit;
        if (*max_crops < least || *max_crops > most) {
            throw std::invalid_argument("[" + spec.name + "] max_crops must be in " + std::to_string(least) + ".." +
                                        std::to_string(most) + ", got " + std::to_string(*max_crops) +
                                        (least > 1 ? " (the smallest of the model's resolutions makes " +
                                                               std::to_string(range.first) + " crops)"
                                                         : ""));
        }
        knob.max_crops = *max_crops;
        if (*max_crops != default_max_crops(spec)) {
            // An odd longest edge is rounded up on square images, into one more crop: stay even.
            const int64_t edge = floor_sqrt(std::min(*max_crops, range.last)) * spec.crop.crop_size;
            knob.edge = edge - edge % 2;
        }
    }
    if (policy == GridPolicy::kLogRatio) knob.candidates = log_ratio_candidates(knob.max_crops);
    if (policy == GridPolicy::kCoveringArea) knob.candidates = covering_area_candidates(knob.max_crops);
    if (policy == GridPolicy::kLargestCanvas) list_canvases(knob);
    if (policy == GridPolicy::kBestResolution) {
        for (const Size& entry : spec.grid.resolutions) {
            if (crops_of(spec.crop, entry) <= knob.max_crops) knob.resolutions.push_back(entry);
        }
    }
    return knob;
}

int64_t default_max_crops(const Spec& spec) {
    const GridPolicy policy = spec.grid.policy;
    if (takes_max_crops(policy)) return spec.grid.max_crops;
    if (policy == GridPolicy::kFixed) return std::max<int64_t>(1, spec.grid.fixed_grid.count());
    if (policy == GridPolicy::kBestResolution) return knob_range(spec).last;
    int64_t edge = spec.grid.max_image_size;
    if (policy == GridPolicy::kCeilGrid) {
        const int64_t even_edge = spec.grid.longest_edge + spec.grid.longest_edge % 2;
        edge = std::min(even_edge, spec.grid.longest_edge_limit);
    }
    const int64_t side = ceil_div(edge, spec.crop.crop_size);
    return side * side;
}

}  // namespace maxcrops
