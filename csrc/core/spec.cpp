#include "spec.h"

#include <algorithm>
#include <stdexcept>

#include "count_arithmetic.h"
#include "counts.h"

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

// The largest canvas of a spec must be an image size itself: its bound has a witness.
int64_t crops_limit(const CropRule& crop) { return std::min(kMaxCropsLimit, kMaxSide / crop.crop_size); }

void validate_crop(const Spec& spec) {
    const CropRule& crop = spec.crop;
    require_range(spec, "crop_size", crop.crop_size, 2, kMaxCropSize);
    require_range(spec, "patch_size", crop.patch_size, 1, crop.crop_size);
    require_range(spec, "pooling", crop.pooling_rows, 1, crop.crop_patches());
    require_range(spec, "pooling", crop.pooling_cols, 1, crop.crop_patches());
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
}

// Whether an image can have no local crop.
bool can_be_unsplit(const GridRule& grid) {
    return grid.policy == GridPolicy::kCeilGrid || (grid.policy == GridPolicy::kFixed && grid.fixed_grid.count() == 0);
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
            require_range(spec, "max_crops", grid.max_crops, 1, crops_limit(spec.crop));
            break;
        case GridPolicy::kClosestRatio:
            require_range(spec, "max_crops", grid.max_crops, 1, crops_limit(spec.crop));
            require_range(spec, "min_crops", grid.min_crops, 1, kMaxCropsLimit);
            break;
        case GridPolicy::kBestResolution:
            if (grid.resolutions.empty()) fail(spec, "resolutions must name at least one (height, width)");
            if (grid.resolutions.size() > kMaxResolutions) fail(spec, "resolutions has too many entries");
            for (const Size& entry : grid.resolutions) {
                require_range(spec, "a height in resolutions", entry.height, spec.crop.crop_size, kMaxLongestEdge);
                require_range(spec, "a width in resolutions", entry.width, spec.crop.crop_size, kMaxLongestEdge);
                require_range(spec, "the crops of a resolution", crops_of(spec.crop, entry), 1, kMaxCropsLimit);
            }
            break;
        case GridPolicy::kCeilGrid:
            require_range(spec, "longest_edge", grid.longest_edge, 1, kMaxLongestEdge);
            require_range(spec, "longest_edge_limit", grid.longest_edge_limit, 1, kMaxLongestEdge);
            break;
    }
    const bool has_margin = spec.crop.margin_patches() > 0;
    if (has_margin && (grid.policy == GridPolicy::kBestResolution || grid.policy == GridPolicy::kCeilGrid ||
                       grid.policy == GridPolicy::kClosestRatio)) {
        fail(spec, "overlap_margins are known to the grid policies scale_fit and fixed only");
    }
    if (can_be_unsplit(grid) && spec.crop.global_crop != GlobalCrop::kAlways) {
        fail(spec, "global_crop must be 'always' where an image can have no local crop");
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
    if (t.unpad && (crop.fit == Fit::kStretch || crop.margin_patches() > 0 || crop.pooling_rows != crop.pooling_cols)) {
        fail(spec, "unpad needs a letterbox fit, no overlap_margins and square pooling: it compares two ratios");
    }
}

}  // namespace

void validate(const Spec& spec) {
    validate_crop(spec);
    validate_grid(spec);
    validate_tokens(spec);
    const CountFormula sequence = count_formula(spec, Count::kSequenceTokens);
    if (count_one(sequence, 1, 1) < 0 || (can_be_unsplit(spec.grid) && count_one(sequence, 0, 0) < 0)) {
        fail(spec, "image_extra_tokens " + std::to_string(spec.tokens.image_extra) + " takes more than an image has");
    }
}

KnobRange knob_range(const Spec& spec) {
    switch (spec.grid.policy) {
        case GridPolicy::kScaleFit:
        case GridPolicy::kClosestRatio: return {1, crops_limit(spec.crop)};
        case GridPolicy::kFixed: return {1, 1};
        case GridPolicy::kCeilGrid: {
            // Longer edges are scaled back to the limit.
            const int64_t side = ceil_div(spec.grid.longest_edge_limit, spec.crop.crop_size);
            return {1, std::min(side * side, kMaxCropsLimit)};
        }
        case GridPolicy::kBestResolution: break;
    }
    KnobRange range{kMaxCropsLimit, 1};
    for (const Size& entry : spec.grid.resolutions) {
        range.first = std::min(range.first, crops_of(spec.crop, entry));
        range.last = std::max(range.last, crops_of(spec.crop, entry));
    }
    return range;
}

Knob resolve_knob(const Spec& spec, std::optional<int64_t> max_crops) {
    if (!max_crops) {
        const bool listed = spec.grid.policy == GridPolicy::kBestResolution;
        return {listed ? kMaxCropsLimit : spec.grid.max_crops, spec.grid.longest_edge};
    }
    const KnobRange range = knob_range(spec);
    const bool searched = spec.grid.policy == GridPolicy::kScaleFit || spec.grid.policy == GridPolicy::kClosestRatio;
    const int64_t most = searched ? range.last : kMaxCropsLimit;
    if (*max_crops < range.first || *max_crops > most) {
        throw std::invalid_argument("[" + spec.name + "] max_crops must be in " + std::to_string(range.first) + ".." +
                                    std::to_string(most) + ", got " + std::to_string(*max_crops) +
                                    (range.first > 1 ? " (the smallest of the model's resolutions makes " +
                                                           std::to_string(range.first) + " crops)"
                                                     : ""));
    }
    if (*max_crops == default_max_crops(spec)) return {*max_crops, spec.grid.longest_edge};
    // An odd longest edge is rounded up on square images, into one more crop: stay even.
    const int64_t edge = floor_sqrt(std::min(*max_crops, range.last)) * spec.crop.crop_size;
    return {*max_crops, edge - edge % 2};
}

std::vector<Size> kept_resolutions(const Spec& spec, const Knob& knob) {
    std::vector<Size> kept;
    for (const Size& entry : spec.grid.resolutions) {
        if (crops_of(spec.crop, entry) <= knob.max_crops) kept.push_back(entry);
    }
    return kept;
}

int64_t default_max_crops(const Spec& spec) {
    switch (spec.grid.policy) {
        case GridPolicy::kFixed: return std::max<int64_t>(1, spec.grid.fixed_grid.count());
        case GridPolicy::kScaleFit:
        case GridPolicy::kClosestRatio: return spec.grid.max_crops;
        case GridPolicy::kBestResolution: return knob_range(spec).last;
        case GridPolicy::kCeilGrid: {
            const int64_t even_edge = spec.grid.longest_edge + spec.grid.longest_edge % 2;
            const int64_t edge = std::min(even_edge, spec.grid.longest_edge_limit);
            const int64_t side = ceil_div(edge, spec.crop.crop_size);
            return side * side;
        }
    }
    return 1;
}

}  // namespace maxcrops
