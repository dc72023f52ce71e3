// A Spec is all that a model's cutting and counting depend on: numbers, no code. Which numbers belong to
// which model is known in Python alone; here are only policies and token shapes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "types.h"

namespace maxcrops {

enum class GridPolicy {
    kFixed,           // the same grid for every image
    kScaleFit,        // least upscaling, else least downscaling, then fewest crops
    kClosestRatio,    // aspect ratio nearest to the image's
    kBestResolution,  // largest effective resolution of a list, then least waste
    kCeilGrid,        // scale the long side, then round both sides up to whole crops
};

enum class GlobalCrop { kNever, kWhenSplit, kAlways };

// How the image meets its canvas.
enum class Fit {
    kStretch,         // both sides to the canvas, ratio not kept
    kLetterboxTrunc,  // ratio kept, int(float32(side) * float32 scale), centred
    kLetterboxCeil,   // ratio kept, the side that does not fill the canvas rounded up in float64, centred
};

enum class TokenShape {
    kTiled,     // every crop costs a constant; separators per crop, per row, per image
    kStitched,  // the local crops form one feature map with a column token behind each of its rows
};

// What is counted. The four are never mixed.
enum class Count { kSequenceTokens, kConnectorOutputs, kVitPatches, kCrops };

struct GridRule {
    GridPolicy policy = GridPolicy::kFixed;
    int64_t max_crops = 1;              // scale_fit, closest_ratio
    int64_t min_crops = 1;              // closest_ratio
    bool clamp_reduced_sides = false;   // scale_fit: a side smaller than the margins counts as 1 px
    int64_t longest_edge = 0;           // ceil_grid, pixels
    int64_t longest_edge_limit = 0;     // ceil_grid, pixels
    std::vector<Size> resolutions;      // best_resolution
    Grid fixed_grid;                    // fixed
};

struct CropRule {
    int64_t crop_size = 0;     // side of the square that the vision encoder sees, pixels
    int64_t patch_size = 0;    // pixels
    int64_t pooling_rows = 1;  // patches pooled into one feature
    int64_t pooling_cols = 1;
    int64_t left_margin = 0;   // patches shared with the neighbour before and behind
    int64_t right_margin = 0;
    GlobalCrop global_crop = GlobalCrop::kNever;
    bool global_first = true;
    Fit fit = Fit::kStretch;         // of the local view
    Fit global_fit = Fit::kStretch;

    int64_t crop_patches() const { return crop_size / patch_size; }
    int64_t margin_patches() const { return left_margin + right_margin; }
    int64_t window_patches() const { return crop_patches() - margin_patches(); }
    int64_t window_size() const { return crop_size - margin_size(); }
    int64_t margin_size() const { return margin_patches() * patch_size; }
    bool has_global(Grid grid) const {
        return global_crop == GlobalCrop::kAlways || (global_crop == GlobalCrop::kWhenSplit && grid.count() > 1);
    }
};

// Crops that a canvas is cut into where it need not be a multiple of the crop size.
inline int64_t crops_of(const CropRule& crop, Size canvas) {
    return ceil_div(canvas.height, crop.crop_size) * ceil_div(canvas.width, crop.crop_size);
}

struct TokenRule {
    TokenShape shape = TokenShape::kTiled;
    int64_t image_extra = 0;   // once an image: start and end tokens, say; -1 drops one
    int64_t global_extra = 0;  // beside the global crop's tokens

    // tiled
    int64_t tokens_per_crop = 0;
    int64_t crop_extra = 0;     // beside each local crop's tokens
    int64_t row_end = 0;        // behind each row of crops
    int64_t row_separator = 0;  // between two rows of crops
    int64_t global_tokens = 0;
    int64_t split_extra = 0;    // once, when there is more than one local crop

    // stitched
    int64_t col_tokens = 0;          // behind each row of the feature map
    int64_t map_extra = 0;           // around the feature map
    int64_t low_res_col_tokens = 0;  // behind each row of the global crop's features
    bool pool_across_crops = false;  // pooling sees the stitched map instead of one crop
    bool unpad = false;              // rows and columns that only hold padding are dropped
};

struct Spec {
    std::string name;  // for messages
    GridRule grid;
    CropRule crop;
    TokenRule tokens;
};

// Throws std::invalid_argument, naming the field, unless every rule's numbers make sense together.
void validate(const Spec& spec);

// The knob in the terms of the spec's own policy, after a caller's max_crops was applied to it.
struct Knob {
    int64_t max_crops = 0;     // scale_fit, closest_ratio; best_resolution: entries with more crops are left out
    int64_t longest_edge = 0;  // ceil_grid
};

// First and last max_crops that mean something; a larger value acts like the last.
struct KnobRange {
    int64_t first = 1;
    int64_t last = kMaxCropsLimit;
};

KnobRange knob_range(const Spec& spec);

// Without max_crops, or with the spec's own (default_max_crops), the spec's own setting. ceil_grid otherwise: the
// longest edge is the largest multiple of the crop size whose square grid holds at most max_crops. Throws
// std::invalid_argument when max_crops is out of range.
Knob resolve_knob(const Spec& spec, std::optional<int64_t> max_crops);

// best_resolution: the entries that the knob leaves in the list.
std::vector<Size> kept_resolutions(const Spec& spec, const Knob& knob);

// The spec's own setting as a number of local crops: what no image exceeds.
int64_t default_max_crops(const Spec& spec);

}  // namespace maxcrops
