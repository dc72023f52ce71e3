#include "index_tensors.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "counts.h"

namespace maxcrops {
namespace {

// One axis of the stitched map of patches: the crop that a patch of the canvas is taken from, and where it lies in it.
// A patch that two crops see belongs to the one whose margin it is not in.
struct Owner {
    int64_t crop;
    int64_t patch;
};

Owner owner_of(const CropRule& crop, int64_t num_crops, int64_t patch) {
    const int64_t index = std::clamp<int64_t>((patch - crop.left_margin) / crop.window_patches(), 0, num_crops - 1);
    const int64_t owner = patch < crop.left_margin ? 0 : index;
    return {owner, patch - owner * crop.window_patches()};
}

// One axis of a map of patches, padded to `length` on both sides, the larger part behind: what a row or a column adds to
// the index of a patch, and -1 beyond the map.
template <typename Share>
std::vector<int64_t> axis_of_patches(int64_t length, int64_t patches, const Share& share) {
    const int64_t before = (length - patches) / 2;
    std::vector<int64_t> result;
    for (int64_t i = -before; i < length - before; ++i) result.push_back(i >= 0 && i < patches ? share(i) : -1);
    return result;
}

// One axis of pooled crops: the features [begin, end) of a crop that are its own, and where the first one stands.
struct OwnFeatures {
    int64_t begin, end, position;
};

std::vector<OwnFeatures> own_features(const CropRule& crop, int64_t num_crops, int64_t pooling) {
    std::vector<OwnFeatures> result;
    int64_t position = 0;
    for (int64_t i = 0; i < num_crops; ++i) {
        const bool first = i == 0, last = i == num_crops - 1;
        const int64_t patches = crop.window_patches() + (first ? crop.left_margin : 0) + (last ? crop.right_margin : 0);
        const int64_t begin = first ? 0 : crop.left_margin / pooling;
        const int64_t count = ceil_div(patches, pooling);
        result.push_back({begin, begin + count, position});
        position += count;
    }
    return result;
}

// Callers own memory for the tokens that the layout counts: a spec that counts others would be written past its end.
void require_counted_tokens(const Spec& spec, const Layout& layout) {
    const FeatureGrids features = feature_grids(spec, layout);
    const auto tokens = [](bool exists, Grid grid, int64_t col_tokens) {
        return exists ? 2 + grid.rows * (grid.cols + col_tokens) : 0;
    };
    const int64_t written = tokens(layout.has_global, features.global, spec.tokens.low_res_col_tokens) +
                            tokens(layout.grid.count() > 0, features.local, spec.tokens.col_tokens);
    if (written == layout.sequence_tokens) return;
    throw std::invalid_argument("[preprocess] spec " + spec.name + " counts " + std::to_string(layout.sequence_tokens) +
                                " tokens for an image; whole maps of features between a start and an end token are " +
                                std::to_string(written) + ": start_end_tokens and low_res_start_end_tokens must be 2, and "
                                "no other tokens may be added or dropped");
}

}  // namespace

FeatureGrids feature_grids(const Spec& spec, const Layout& layout) {
    FeatureGrids grids;
    if (layout.has_global) {
        const Grid pooling = spec.crop.global_pooling();
        grids.global = {ceil_div(spec.crop.global_patches(), pooling.rows),
                        ceil_div(spec.crop.global_patches(), pooling.cols)};
    }
    if (layout.grid.count() > 0) grids.local = feature_map(count_formula(spec, {}, Count::kSequenceTokens), layout.grid);
    return grids;
}

void token_pooling(const Spec& spec, const Layout& layout, int32_t first_patch, int32_t* out) {
    const CropRule& crop = spec.crop;
    const Grid grid = layout.grid;
    const int64_t side = crop.crop_patches(), patches_a_crop = side * side;
    const FeatureGrids features = feature_grids(spec, layout);
    const auto pool = [&](Grid of, int64_t first, const std::vector<int64_t>& rows, const std::vector<int64_t>& cols) {
        for (int64_t r = 0; r < of.rows; ++r) {
            for (int64_t c = 0; c < of.cols; ++c) {
                for (int64_t y = r * crop.pooling_rows; y < (r + 1) * crop.pooling_rows; ++y) {
                    for (int64_t x = c * crop.pooling_cols; x < (c + 1) * crop.pooling_cols; ++x) {
                        const int64_t row = rows[static_cast<size_t>(y)], col = cols[static_cast<size_t>(x)];
                        *out++ = row < 0 || col < 0 ? -1 : static_cast<int32_t>(first + row + col);
                    }
                }
            }
        }
    };
    const auto pool_global = [&](int64_t first) {
        pool(features.global, first_patch + first,
             axis_of_patches(features.global.rows * crop.pooling_rows, side, [&](int64_t y) { return y * side; }),
             axis_of_patches(features.global.cols * crop.pooling_cols, side, [](int64_t x) { return x; }));
    };
    if (layout.has_global && crop.global_first) pool_global(0);
    if (grid.count() > 0) {
        const auto patches = [&](int64_t crops) { return crops * crop.window_patches() + crop.margin_patches(); };
        const auto row_share = [&](int64_t y) {
            const Owner owner = owner_of(crop, grid.rows, y);
            return owner.crop * grid.cols * patches_a_crop + owner.patch * side;
        };
        const auto col_share = [&](int64_t x) {
            const Owner owner = owner_of(crop, grid.cols, x);
            return owner.crop * patches_a_crop + owner.patch;
        };
        pool(features.local, first_patch + (layout.has_global && crop.global_first ? patches_a_crop : 0),
             axis_of_patches(features.local.rows * crop.pooling_rows, patches(grid.rows), row_share),
             axis_of_patches(features.local.cols * crop.pooling_cols, patches(grid.cols), col_share));
    }
    if (layout.has_global && !crop.global_first) pool_global(grid.count() * patches_a_crop);
}

void feature_positions(const Spec& spec, const Layout& layout, int32_t first_token, int32_t unused, int32_t* out) {
    require_counted_tokens(spec, layout);
    const CropRule& crop = spec.crop;
    if (layout.has_global && layout.grid.count() > 0 && !crop.global_first) {
        throw std::invalid_argument("[preprocess] spec " + spec.name + " has its global crop last; places of features are "
                                    "defined for one that stands first");
    }
    const FeatureGrids features = feature_grids(spec, layout);
    int64_t token = first_token;
    if (layout.has_global) {
        ++token;  // its start token
        for (int64_t r = 0; r < features.global.rows; ++r, token += spec.tokens.low_res_col_tokens) {
            for (int64_t c = 0; c < features.global.cols; ++c) *out++ = static_cast<int32_t>(token++);
        }
        ++token;  // its end token
    }
    if (layout.grid.count() == 0) return;
    ++token;
    const std::vector<OwnFeatures> rows = own_features(crop, layout.grid.rows, crop.pooling_rows);
    const std::vector<OwnFeatures> cols = own_features(crop, layout.grid.cols, crop.pooling_cols);
    const Grid one_crop{ceil_div(crop.crop_patches(), crop.pooling_rows), ceil_div(crop.crop_patches(), crop.pooling_cols)};
    const int64_t row_tokens = features.local.cols + spec.tokens.col_tokens;
    for (const OwnFeatures& row : rows) {
        for (const OwnFeatures& col : cols) {
            for (int64_t r = 0; r < one_crop.rows; ++r) {
                for (int64_t c = 0; c < one_crop.cols; ++c) {
                    const bool own = r >= row.begin && r < row.end && c >= col.begin && c < col.end;
                    const int64_t position = token + (row.position + r - row.begin) * row_tokens + col.position + c - col.begin;
                    *out++ = own ? static_cast<int32_t>(position) : unused;
                }
            }
        }
    }
}

void patch_masks(const Layout& layout, float* out) {
    const int64_t patch = layout.crop.patch_size, side = layout.crop.crop_patches();
    const auto area = static_cast<float>(patch * patch);
    const std::vector<View> views = layout.views();
    for (const View& view : views) {
        if (view.is_global && layout.grid.count() > 0) continue;
        const Box& content = view.content;
        const auto overlap = [&](int64_t from, int64_t begin, int64_t length) {
            return std::max<int64_t>(0, std::min(from + patch, begin + length) - std::max(from, begin));
        };
        for (const Box& crop : view.crops) {
            for (int64_t r = 0; r < side; ++r) {
                const int64_t height = overlap(crop.top + r * patch, content.top, content.height);
                for (int64_t c = 0; c < side; ++c) {
                    const int64_t width = overlap(crop.left + c * patch, content.left, content.width);
                    *out++ = static_cast<float>(height * width) / area;
                }
            }
        }
    }
    if (layout.has_global && layout.grid.count() > 0) std::fill(out, out + side * side, -1.0F);
}

void image_tokens(const Spec& spec, const Layout& layout, const int32_t ids[4], int32_t* out) {
    require_counted_tokens(spec, layout);
    const auto id = [&](TokenKind kind) { return ids[static_cast<size_t>(kind)]; };
    const auto write = [&](Grid features, int64_t col_tokens) {
        *out++ = id(TokenKind::kStart);
        for (int64_t r = 0; r < features.rows; ++r) {
            out = std::fill_n(out, features.cols, id(TokenKind::kPatch));
            out = std::fill_n(out, col_tokens, id(TokenKind::kCol));
        }
        *out++ = id(TokenKind::kEnd);
    };
    const FeatureGrids features = feature_grids(spec, layout);
    if (layout.has_global) write(features.global, spec.tokens.low_res_col_tokens);
    if (layout.grid.count() > 0) write(features.local, spec.tokens.col_tokens);
}

}  // namespace maxcrops
