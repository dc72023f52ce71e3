#include "grid_policies.h"

#include <algorithm>
#include <cmath>

#include "placement.h"
#include "scale_fit_arithmetic.h"

namespace maxcrops {
namespace {

// A canvas of whole crops. Crops that are sized by the image share its ratio.
Cut whole_crops(const Spec& spec, Grid grid, Size image) {
    const CropRule& crop = spec.crop;
    const Size global = global_canvas(crop, image);
    if (grid.count() == 0) return {grid, global, {}, {}, global};
    Size size{crop.crop_size, crop.crop_size};
    if (crop.sizing == Sizing::kArea) {
        size = size_by_area(cell_side(image.height, grid.rows), cell_side(image.width, grid.cols), crop.crop_size,
                            crop.patch_size * crop.pooling_rows, crop.patch_size * crop.pooling_cols);
    }
    const int64_t margin = crop.margin_size();
    return {grid, {grid.rows * (size.height - margin) + margin, grid.cols * (size.width - margin) + margin}, {}, size, global};
}

}  // namespace

Grid scale_fit(const Spec& spec, int64_t max_crops, Size image) {
    const ScaleFitParams params = scale_fit_params(spec, max_crops);
    double rows = 0;
    double cols = 0;
    scale_fit_one(params, static_cast<double>(image.height), static_cast<double>(image.width), &rows, &cols);
    return {static_cast<int64_t>(rows), static_cast<int64_t>(cols)};
}

Cut cut_image(const Spec& spec, const Knob& knob, Size image) {
    const Size square{spec.crop.crop_size, spec.crop.crop_size};
    const Size global_square{spec.crop.global_size(), spec.crop.global_size()};
    switch (spec.grid.policy) {
        case GridPolicy::kFixed: return whole_crops(spec, spec.grid.fixed_grid, image);
        case GridPolicy::kScaleFit: return whole_crops(spec, scale_fit(spec, knob.max_crops, image), image);
        case GridPolicy::kClosestRatio: return whole_crops(spec, closest_ratio(spec, knob.max_crops, image), image);
        case GridPolicy::kBestResolution: {
            const Size canvas = best_resolution(knob, image);
            return {{ceil_div(canvas.height, square.height), ceil_div(canvas.width, square.width)}, canvas, {}, square,
                    global_square};
        }
        case GridPolicy::kCeilGrid: return ceil_grid(spec, knob.edge, image);
        case GridPolicy::kLogRatio: return whole_crops(spec, log_ratio(spec, knob, image), image);
        case GridPolicy::kCoveringArea: return whole_crops(spec, covering_area(spec, knob, image), image);
        case GridPolicy::kLargestCanvas: return whole_crops(spec, largest_canvas(spec, knob, image), image);
        case GridPolicy::kPanAndScan: return whole_crops(spec, pan_and_scan(spec, knob.max_crops, image), image);
        case GridPolicy::kWindowSnap: return window_snap(spec, knob.edge, image);
    }
    return {};
}

}  // namespace maxcrops
