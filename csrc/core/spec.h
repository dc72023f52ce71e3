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
    kLogRatio,        // as many crops as the area fills, nearest by the logarithm of the ratio
    kCoveringArea,    // fewest crops that keep a share of the area, else most of it
    kLargestCanvas,   // largest upscaling with the ratio kept, else the nearest ratio from inside
    kPanAndScan,      // slices along the long side
    kWindowSnap,      // a window by the image's shape, both sides rounded to whole windows
};

// closest_ratio: which images are searched for.
enum class SplitGate {
    kAlways,
    kAboveCrop,  // a side is longer than the crop
    kAboveArea,  // both sides rounded to whole features make more than split_tolerance * max_features features
    kAboveGrid,  // ceil(h / T) x ceil(w / T) has more than max_crops; the others get that grid
};

enum class GlobalCrop {
    kNever,
    kWhenSplit,    // unless there is one local crop
    kWhenUnsplit,  // where there is no local crop
    kAlways,
};

// How the image meets its canvas.
enum class Fit {
    kStretch,          // both sides to the canvas, ratio not kept
    kLetterboxTrunc,   // ratio kept, int(float32(side) * float32 scale), centred
    kLetterboxCeil,    // ratio kept, the side that does not fill the canvas rounded up in float64, centred
    kLetterboxRound,   // ratio kept, the same side rounded half to even, centred
    kTopLeft,          // ratio kept, the same side truncated, padding right and below
    kTopLeftNoUpscale, // the same, and no side beyond the larger of itself and the crop size
};

// The size of a crop that the vision encoder sees.
enum class Sizing {
    kSquare,
    kFeatures,  // the image's own size in whole features, scaled until they are min_features to max_features
    kArea,      // the image's ratio in whole features, near the area of the square
    kEdges,     // the image's ratio, long side at most longest_crop_edge, then both at least shortest_edge
};

// Which rows and columns of the stitched map are dropped, as they hold only padding.
enum class Unpad {
    kNever,
    kByRatio,    // see unpad in counts.h
    kByPatches,  // whole patches of padding right and below, before pooling
};

enum class TokenShape {
    kTiled,     // every crop costs a constant; separators per crop, per row, per image
    kStitched,  // the local crops form one feature map with a column token behind each of its rows
};

// What is counted. They are never mixed.
enum class Count { kSequenceTokens, kConnectorOutputs, kVitPatches, kCrops, kCrossAttentionKeys };

struct GridRule {
    GridPolicy policy = GridPolicy::kFixed;
    int64_t max_crops = 1;              // all that search by a number of crops
    int64_t min_crops = 1;              // closest_ratio
    int64_t max_grid_side = 0;          // closest_ratio: most rows, most columns; 0: any number
    SplitGate split = SplitGate::kAlways;  // closest_ratio
    double split_tolerance = 0;         // closest_ratio
    bool clamp_reduced_sides = false;   // scale_fit: a side smaller than the margins counts as 1 px
    bool largest_upscaling = false;     // scale_fit: the largest upscaling instead of the least
    int64_t longest_edge = 0;           // ceil_grid, pixels
    int64_t longest_edge_limit = 0;     // ceil_grid, pixels
    std::vector<Size> resolutions;      // best_resolution
    Grid fixed_grid;                    // fixed
    double covering_threshold = 0;      // covering_area
    bool compensated_sum = false;       // covering_area: the areas are summed as Python 3.12 and later do
    bool transposed = false;            // covering_area: rows and columns are exchanged at last
    int64_t min_slice_size = 0;         // pan_and_scan, pixels
    double min_ratio = 0;               // pan_and_scan
    int64_t max_image_size = 0;         // window_snap, pixels
};

struct CropRule {
    int64_t crop_size = 0;         // side of the square that the vision encoder sees, pixels
    int64_t global_crop_size = 0;  // the same for the global crop; 0: as crop_size
    int64_t patch_size = 0;        // pixels
    int64_t pooling_rows = 1;      // patches pooled into one feature
    int64_t pooling_cols = 1;
    int64_t global_pooling_rows = 0;  // 0: as pooling
    int64_t global_pooling_cols = 0;
    int64_t left_margin = 0;       // patches shared with the neighbour before and behind
    int64_t right_margin = 0;
    GlobalCrop global_crop = GlobalCrop::kNever;
    bool global_first = true;
    Fit fit = Fit::kStretch;       // of the local view
    Fit global_fit = Fit::kStretch;
    Sizing sizing = Sizing::kSquare;
    Sizing global_sizing = Sizing::kSquare;
    int64_t min_features = 0;      // of a global crop sized by features
    int64_t max_features = 0;
    int64_t shortest_edge = 0;     // of crops sized by edges, pixels
    int64_t longest_crop_edge = 0;
    bool fills_batch = false;      // the encoder always gets max_crops local crops
    int64_t min_content_side = 0;  // an image whose content on a canvas has a shorter side is refused, pixels

    int64_t crop_patches() const { return crop_size / patch_size; }
    int64_t global_size() const { return global_crop_size > 0 ? global_crop_size : crop_size; }
    int64_t global_patches() const { return global_size() / patch_size; }
    Grid pooling() const { return {pooling_rows, pooling_cols}; }
    Grid global_pooling() const {
        return {global_pooling_rows > 0 ? global_pooling_rows : pooling_rows,
                global_pooling_cols > 0 ? global_pooling_cols : pooling_cols};
    }
    int64_t margin_patches() const { return left_margin + right_margin; }
    int64_t window_patches() const { return crop_patches() - margin_patches(); }
    int64_t window_size() const { return crop_size - margin_size(); }
    int64_t margin_size() const { return margin_patches() * patch_size; }
    bool has_global(Grid grid) const {
        if (grid.count() == 0) return global_crop != GlobalCrop::kNever;
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
    bool counts_features = false;         // a token for each feature of a local crop's own size
    bool counts_global_features = false;  // the same for the global crop
    int64_t split_extra = 0;    // once, when there is more than one local crop
    int64_t cross_attention_keys = 0;  // of a crop, local or global

    // stitched
    int64_t col_tokens = 0;          // behind each row of the feature map
    int64_t map_extra = 0;           // around the feature map
    int64_t low_res_col_tokens = 0;  // behind each row of the global crop's features
    bool pool_across_crops = false;  // pooling sees the stitched map instead of one crop
    Unpad unpad = Unpad::kNever;
    int64_t max_map_crops = 0;       // a map larger than this many crops make is scaled down; 0: never
};

struct Spec {
    std::string name;  // for messages
    GridRule grid;
    CropRule crop;
    TokenRule tokens;
};

// Throws std::invalid_argument, naming the field, unless every rule's numbers make sense together.
void validate(const Spec& spec);

// A grid of a search that tries a list, and what its order or error depends on.
struct Candidate {
    Grid grid;
    double ratio = 0;  // cols / rows, or its logarithm
};

// The knob in the terms of the spec's own policy, after a caller's max_crops was applied to it.
struct Knob {
    int64_t max_crops = 0;  // local crops
    int64_t edge = 0;       // ceil_grid, window_snap: pixels
    std::vector<Candidate> candidates = {};  // log_ratio, covering_area: in the search's order; largest_canvas: the largest
                                             // grid of each ratio, by ratio
    std::vector<Size> resolutions = {};      // best_resolution: the entries of at most max_crops, in the list's order
    // largest_canvas: [rows - 1][cols - 1] is the last grid, in the search's order, of at least so many rows and columns.
    std::vector<std::vector<Grid>> last_beyond = {};
};

// First and last max_crops that mean something; a larger value acts like the last.
struct KnobRange {
    int64_t first = 1;
    int64_t last = kMaxCropsLimit;
};

KnobRange knob_range(const Spec& spec);

// Without max_crops, or with the spec's own (default_max_crops), the spec's own setting. ceil_grid and window_snap
// otherwise: the edge is the largest multiple of the crop size whose square grid holds at most max_crops. Throws
// std::invalid_argument when max_crops is out of range.
Knob resolve_knob(const Spec& spec, std::optional<int64_t> max_crops);

// The spec's own setting as a number of local crops: what no image exceeds, or, with window_snap, no square one.
int64_t default_max_crops(const Spec& spec);

}  // namespace maxcrops
