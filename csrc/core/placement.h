// How an image meets a canvas, and the size of crops that keep its ratio.
#pragma once

#include "spec.h"

namespace maxcrops {

// Where the image lies on its canvas once it is resized. Requires sides of at least 1 px.
Box place(Fit fit, Size image, Size canvas, int64_t crop_size);

// Both sides a multiple of `step` near the area of a square of `side` with the image's ratio:
//   h = int(side / sqrt(w / h)), w = int(h * (w / h)), then max(round(x / step) * step, step)
// Arithmetic: float64 in this order, round half to even. Sides may be fractions of pixels.
Size size_by_area(double height, double width, int64_t side, int64_t step_rows, int64_t step_cols);

// At most the area of size_by_area over all images whose ratio w / h lies in low..high, square pixels.
double most_area_by_area(double low_ratio, double high_ratio, int64_t side, int64_t step_rows, int64_t step_cols);

// The side of a cell of the image that a crop of its ratio is sized by: to whole columns or rows of pixels, half to even.
double cell_side(int64_t side, int64_t parts);

// The canvas of the global crop of an image, or of the whole image where it is not split:
//   kSquare:   the square.
//   kFeatures: each side to the nearest whole feature (half to even), at least one; with more than max_features both
//              sides divided by sqrt(h * w / most pixels) and rounded down, with fewer than min_features multiplied by
//              sqrt(least pixels / (h * w)) and rounded up. Arithmetic: float64 in this order.
//   kArea:     size_by_area of the square.
//   kEdges:    size_by_edges.
Size global_canvas(const CropRule& crop, Size image);

// At most its area over all of the images, square pixels.
double most_global_area(const CropRule& crop, const SizeRange& images);

// A side longer than longest_crop_edge to it, the other truncated through the float64 ratio; then both at least
// shortest_edge.
Size size_by_edges(const CropRule& crop, Size image);

// The part of the image that a local crop is cut from before anything is resized, where crops are: fixed grids whose
// crops are sized by edges, and slices.
Box source_of(Grid grid, Size image, int64_t row, int64_t col);

}  // namespace maxcrops
