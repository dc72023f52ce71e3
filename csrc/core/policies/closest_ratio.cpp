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

    Grid best{1, 1};
    double best_difference = std::numeric_limits<double>::infinity();
    const auto before = [](Grid a, Grid b) {
        return a.count() != b.count() ? a.count() < b.count() : a.cols < b.cols;
    };
    const auto offer = [&](Grid candidate) {
        const double difference =
            std::fabs(ratio - static_cast<double>(candidate.cols) / static_cast<double>(candidate.rows));
        const auto large = [&](Grid g) { return area > half_crop_area * static_cast<double>(g.count()); };
        if (difference < best_difference) {
            best = candidate;
            best_difference = difference;
        } else if (difference == best_difference) {
            // The later of the two in list order wins if the image is large enough for it.
            const Grid later = before(best, candidate) ? candidate : best;
            const Grid earlier = before(best, candidate) ? best : candidate;
            best = large(later) ? later : earlier;
        }
    };
    // Each line holds the grids of one number of crops along the image's short side, by the number along its long side.
    // Their ratios rise or fall steadily, so that only the two around the image's can be nearest; a rounded quotient
    // that is whole is nearest itself. On a line that ends before the image's ratio the last grid is nearest, and no
    // grid of a later line comes as near: such a line ends earlier, and has more along the short side. Neighbours on a
    // line and ends of lines differ by 2^-21 or more, relatively, and stay apart when their differences are rounded.
    const bool is_landscape = image.width >= image.height;
    for (int64_t along_short = 1; along_short <= std::min(max_crops, longest); ++along_short) {
        const int64_t most = std::min(max_crops / along_short, longest);
        const int64_t least = ceil_div(spec.grid.min_crops, along_short);
        if (least > most) continue;
        const double line = static_cast<double>(along_short);
        const double exact = is_landscape ? line * ratio : line / ratio;
        const bool ends_before = exact >= static_cast<double>(most);
        const int64_t below = ends_before ? most : std::max(least, static_cast<int64_t>(exact));
        const int64_t above = ends_before ? most : std::max(least, static_cast<int64_t>(exact) + 1);
        for (int64_t along_long = below; along_long <= above; ++along_long) {
            offer(is_landscape ? Grid{along_short, along_long} : Grid{along_long, along_short});
        }
        if (ends_before) break;
    }
    return best;
}

}  // namespace maxcrops
