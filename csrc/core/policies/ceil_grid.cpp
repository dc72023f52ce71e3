#include <algorithm>

#include "grid_policies.h"

namespace maxcrops {

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
    return {grid, canvas, intermediate, {crop, crop}, {spec.crop.global_size(), spec.crop.global_size()}};
}

}  // namespace maxcrops
