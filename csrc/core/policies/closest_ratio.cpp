#include <algorithm>
#include <cmath>
#include <limits>

#include "grid_policies.h"

namespace maxcrops {
namespace {

bool is_split(const Spec& spec, int64_t max_crops, Size image) {
    const CropRule& crop = spec.crop;
    switch (spec.grid.split) {
        case SplitGate::kAlways: return true;
        case SplitGate::kAboveCrop: return std::max(image.height, image.width) > crop.crop_size;
        case SplitGate::kAboveArea: {
            // max(patch, round(side / feature) * feature), half to even: a side below half a feature counts as a patch.
            const Grid pooling = crop.global_pooling();
            const auto rounded = [&](int64_t side, int64_t feature) {
                const double step = static_cast<double>(feature);
                const double whole = std::nearbyint(static_cast<double>(side) / step) * step;
                return std::max(whole, static_cast<double>(crop.patch_size));
            };
            const int64_t rows = crop.patch_size * pooling.rows, cols = crop.patch_size * pooling.cols;
            const double most = static_cast<double>(crop.max_features * rows * cols) * spec.grid.split_tolerance;
            return rounded(image.height, rows) * rounded(image.width, cols) > most;
        }
        case SplitGate::kAboveGrid:
            return ceil_div(image.height, crop.crop_size) * ceil_div(image.width, crop.crop_size) > max_crops;
    }
    return true;
}

}  // namespace

Grid closest_ratio(const Spec& spec, int64_t max_crops, Size image) {
    if (!is_split(spec, max_crops, image)) {
        if (spec.grid.split != SplitGate::kAboveGrid) return {0, 0};
        return {ceil_div(image.height, spec.crop.crop_size), ceil_div(image.width, spec.crop.crop_size)};
    }
    const double ratio = static_cast<double>(image.width) / static_cast<double>(image.height);
    const double area = static_cast<double>(image.width) * static_cast<double>(image.height);
    const double crop = static_cast<double>(spec.crop.crop_size);
    const double half_crop_area = 0.5 * crop * crop;
    const int64_t longest = spec.grid.max_grid_side > 0 ? spec.grid.max_grid_side : max_crops;

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
    for (int64_t rows = 1; rows <= std::min(max_crops, longest); ++rows) {
        const int64_t most = std::min(max_crops / rows, longest);
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

}  // namespace maxcrops
