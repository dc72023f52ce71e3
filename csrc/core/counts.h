// From a grid to the four counts. A Spec's token rule is lowered once into four formulas of one shape.
#pragma once

#include "grid_policies.h"
#include "spec.h"

namespace maxcrops {

// What a crop that is sized by the image adds to a count.
enum class Unit { kNone, kFeatures, kPatches };

// constant[min(n, 2)] + n * per_crop + rows * per_row + (R * (C + col) if n > 0), n = rows * cols, where
// R = floor((rows * step_rows + base_rows) / div_rows), C alike, are the sides of the stitched feature map.
struct CountFormula {
    double constant[3] = {0, 0, 0};  // for 0, 1 and more local crops
    double per_crop = 0;
    double per_row = 0;
    double step_rows = 0, base_rows = 0, div_rows = 1;
    double step_cols = 0, base_cols = 0, div_cols = 1;
    double col = 0;
    // Beside the above, for crops that are sized by the image.
    Unit local_unit = Unit::kNone;
    Unit global_unit = Unit::kNone;
    bool has_map() const { return step_rows != 0; }
};

// The knob matters where the encoder always gets max_crops crops.
CountFormula count_formula(const Spec& spec, const Knob& knob, Count count);

// The feature map that the formula's last term counts, in features.
Grid feature_map(const CountFormula& formula, Grid grid);

// Rows and columns of the feature map that are left when those which only hold padding are dropped:
//   if w / h > C / R:  x = int(round(h * (C / w), 7)),  R -= 2 * ((R - x) // 2);  otherwise the same for C.
// Arithmetic: float64 in this order; round is to 7 decimals, correctly rounded.
Grid unpad(Grid map, Size image);

// A map of more features than max_map_crops crops have, scaled down:
//   s = sqrt(R * C / features); if s > 1.1: R // s x C // s. Arithmetic: float64.
Grid scaled_down(Grid map, double features);

// The count of one image. Without unpadding and scaling down the feature map spans the windows that fit the canvas;
// they are fewer than the crops only where a canvas is no multiple of the crop size.
int64_t count_of(const Spec& spec, const CountFormula& formula, const Cut& cut, Size image);

// Whether the count follows from the grid alone.
bool follows_grid(const Spec& spec, const CountFormula& formula);

}  // namespace maxcrops
