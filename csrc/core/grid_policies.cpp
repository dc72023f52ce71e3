#include "grid_policies.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "scale_fit_arithmetic.h"

namespace maxcrops {
namespace {

Size canvas_of(const CropRule& crop, Grid grid) {
    return {grid.rows * crop.window_size() + crop.margin_size(), grid.cols * crop.window_size() + crop.margin_size()};
}

}  // namespace

Grid scale_fit(const Spec& spec, int64_t max_crops, Size image) {
    const ScaleFitParams params = scale_fit_params(spec, max_crops);
    double rows = 0;
    double cols = 0;
    scale_fit_one(params, static_cast<double>(image.height), static_cast<double>(image.width), &rows, &cols);
    return {static_cast<int64_t>(rows), static_cast<int64_t>(cols)};
}

Grid closest_ratio(const Spec& spec, int64_t max_crops, Size image) {
    const double ratio = static_cast<double>(image.width) / static_cast<double>(image.height);
    const double area = static_cast<double>(image.width) * static_cast<double>(image.height);
    const double crop = static_cast<double>(spec.crop.crop_size);
    const double half_crop_area = 0.5 * crop * crop;

    // The candidates of one row count approach the ratio from below and leave it above: only the two around
    // ratio * rows can be nearest, and equal ratios are multiples of one another. So each row count offers at most
    // three, and the order of the whole list is kept by comparing crop counts, then columns.
    Grid best{1, 1};
    double best_difference = std::numeric_limits<double>::infinity();
    bool found = false;
    const auto before = [](Grid a, Grid b) {
        return a.count() != b.count() ? a.count() < b.count() : a.cols < b.cols;
    };
    const auto offer = [&](Grid candidate) {
        const double difference =
            std::fabs(ratio - static_cast<double>(candidate.cols) / static_cast<double>(candidate.rows));
        const auto large = [&](Grid g) { return area > half_crop_area * static_cast<double>(g.count()); };
        if (!found || difference < best_difference) {
            best = candidate;
            best_difference = difference;
            found = true;
        } else if (difference == best_difference) {
            // The later of the two in list order wins if the image is large enough for it.
            const Grid later = before(best, candidate) ? candidate : best;
            const Grid earlier = before(best, candidate) ? best : candidate;
            best = large(later) ? later : earlier;
        }
    };
    for (int64_t rows = 1; rows <= max_crops; ++rows) {
        const int64_t most = max_crops / rows;
        const int64_t least = ceil_div(spec.grid.min_crops, rows);
        if (least > most) continue;
        // A difference of ratios is tied only within one unit in the last place; one column of slack on both
        // sides of the nearest two covers it.
        const double exact = ratio * static_cast<double>(rows);
        const int64_t near = exact >= static_cast<double>(most) ? most : static_cast<int64_t>(exact);
        const int64_t low = std::max(least, std::min(most, near - 1));
        const int64_t high = std::min(most, std::max(least, near + 2));
        for (int64_t cols = low; cols <= high; ++cols) offer({rows, cols});
    }
    return best;
}

Size best_resolution(const Spec& spec, int64_t max_crops, Size image) {
    const double height = static_cast<double>(image.height);
    const double width = static_cast<double>(image.width);
    const int64_t original = image.height * image.width;
    Size best;
    int64_t best_effective = -1;
    int64_t best_wasted = 0;
    for (const Size& entry : spec.grid.resolutions) {
        if (crops_of(spec.crop, entry) > max_crops) continue;
        const double scale =
            std::min(static_cast<double>(entry.width) / width, static_cast<double>(entry.height) / height);
        const int64_t scaled = static_cast<int64_t>(width * scale) * static_cast<int64_t>(height * scale);
        const int64_t effective = std::min(scaled, original);
        const int64_t wasted = entry.height * entry.width - effective;
        if (effective > best_effective || (effective == best_effective && wasted < best_wasted)) {
            best = entry;
            best_effective = effective;
            best_wasted = wasted;
        }
    }
    return best;
}

Cut ceil_grid(const Spec& spec, int64_t longest_edge, Size image) {
    const int64_t crop = spec.crop.crop_size;
    const int64_t limit = spec.grid.longest_edge_limit;
    const auto truncate = [](double value) { return static_cast<int64_t>(value); };

    double height = static_cast<double>(image.height);
    double width = static_cast<double>(image.width);
    double ratio = width / height;
    const auto even = [&](double value) { return static_cast<double>(truncate(value) + truncate(value) % 2); };
    if (width >= height) {
        width = static_cast<double>(longest_edge);
        height = even(width / ratio);
    } else {
        height = static_cast<double>(longest_edge);
        width = even(height * ratio);
    }
    height = std::max(height, 1.0);
    width = std::max(width, 1.0);

    ratio = width / height;
    if (width >= height && width > static_cast<double>(limit)) {
        width = static_cast<double>(limit);
        height = static_cast<double>(truncate(width / ratio));
    } else if (height > width && height > static_cast<double>(limit)) {
        height = static_cast<double>(limit);
        width = static_cast<double>(truncate(height * ratio));
    }
    height = std::max(height, 1.0);
    width = std::max(width, 1.0);
    const Size intermediate{truncate(height), truncate(width)};

    ratio = width / height;
    Grid grid;
    if (width >= height) {
        grid.cols = ceil_div(intermediate.width, crop);
        grid.rows = ceil_div(truncate(static_cast<double>(grid.cols * crop) / ratio), crop);
    } else {
        grid.rows = ceil_div(intermediate.height, crop);
        grid.cols = ceil_div(truncate(static_cast<double>(grid.rows * crop) * ratio), crop);
    }
    const Size canvas{grid.rows * crop, grid.cols * crop};
    if (grid.count() <= 1) grid = {0, 0};
    return {grid, canvas, intermediate};
}

Cut cut_image(const Spec& spec, const Knob& knob, Size image) {
    switch (spec.grid.policy) {
        case GridPolicy::kFixed: {
            const Grid grid = spec.grid.fixed_grid;
            return {grid, canvas_of(spec.crop, grid.count() == 0 ? Grid{1, 1} : grid), {}};
        }
        case GridPolicy::kScaleFit: {
            const Grid grid = scale_fit(spec, knob.max_crops, image);
            return {grid, canvas_of(spec.crop, grid), {}};
        }
        case GridPolicy::kClosestRatio: {
            const Grid grid = closest_ratio(spec, knob.max_crops, image);
            return {grid, canvas_of(spec.crop, grid), {}};
        }
        case GridPolicy::kBestResolution: {
            const Size canvas = best_resolution(spec, knob.max_crops, image);
            return {{ceil_div(canvas.height, spec.crop.crop_size), ceil_div(canvas.width, spec.crop.crop_size)}, canvas, {}};
        }
        case GridPolicy::kCeilGrid: return ceil_grid(spec, knob.longest_edge, image);
    }
    return {};
}

}  // namespace maxcrops
