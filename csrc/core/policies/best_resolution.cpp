#include <algorithm>

#include "grid_policies.h"

namespace maxcrops {

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

}  // namespace maxcrops
