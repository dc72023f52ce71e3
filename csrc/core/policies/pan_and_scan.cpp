#include <algorithm>
#include <cmath>

#include "grid_policies.h"

namespace maxcrops {

Grid pan_and_scan(const Spec& spec, int64_t max_crops, Size image) {
    const bool is_landscape = image.width >= image.height;
    const int64_t long_side = std::max(image.height, image.width);
    const int64_t short_side = std::min(image.height, image.width);
    const double ratio = static_cast<double>(long_side) / static_cast<double>(short_side);
    if (ratio < spec.grid.min_ratio) return {0, 0};
    const int64_t by_ratio = static_cast<int64_t>(std::floor(ratio + 0.5));
    const int64_t wanted = std::max<int64_t>(2, std::min(long_side / spec.grid.min_slice_size, by_ratio));
    const int64_t slices = std::min(wanted, max_crops);
    if (std::min(ceil_div(long_side, slices), short_side) < spec.grid.min_slice_size) return {0, 0};
    return is_landscape ? Grid{1, slices} : Grid{slices, 1};
}

}  // namespace maxcrops
