// The index tensors that come with the crops: which patches a token pools, where a feature stands in the sequence, how
// much of a patch is image. Closed forms over a Layout's grid; one image at a time, into memory that the caller owns.
#pragma once

#include <cstdint>

#include "layout.h"

namespace maxcrops {

// Features of the global crop and of the stitched map of local ones, in rows and columns.
struct FeatureGrids {
    Grid global;
    Grid local;

    int64_t count() const { return global.count() + local.count(); }
};

// Pooling over the stitched map (pool_across_crops), or within each crop.
FeatureGrids feature_grids(const Spec& spec, const Layout& layout);

// out[feature_grids.count(), pooling_rows * pooling_cols]: patches of the image's crops, in the encoder's order, that
// each feature pools; `first_patch` is added to each, -1 stands for none. A side that pooling does not divide is padded
// on both sides, the larger part behind.
void token_pooling(const Spec& spec, const Layout& layout, int32_t first_patch, int32_t* out);

// out[num_crops, features a crop]: the position of each crop's pooled features in the image's tokens, plus
// `first_token`; `unused` for features that a neighbour has. Throws std::invalid_argument, as
// image_tokens does, unless the layout's tokens are those that image_tokens writes.
void feature_positions(const Spec& spec, const Layout& layout, int32_t first_token, int32_t unused, int32_t* out);

// out[num_crops, patches a crop]: the share of each patch of the local crops that is not padding; then, for the global
// crop, a row of -1 that stands last although the crop stands first, as the original has it. Without local crops, the
// share of the only crop's patches.
void patch_masks(const Layout& layout, float* out);

enum class TokenKind : int32_t { kPatch, kCol, kStart, kEnd };

// out[sequence_tokens]: ids[kind] of each of the image's tokens: start, the global crop's features row by row, end;
// the same of the local map; column tokens behind rows where the spec has them.
void image_tokens(const Spec& spec, const Layout& layout, const int32_t ids[4], int32_t* out);

}  // namespace maxcrops
