#include <algorithm>
#include <cmath>
#include <limits>

#include "grid_policies.h"

namespace maxcrops {

std::vector<Candidate> log_ratio_candidates(int64_t max_crops) {
    std::vector<Candidate> candidates;
    for (int64_t crops = 1; crops <= max_crops; ++crops) {
        for (int64_t rows = 1; rows <= crops; ++rows) {
            if (crops % rows != 0) continue;
            const int64_t cols = crops / rows;
            candidates.push_back({{rows, cols}, std::log(static_cast<double>(cols) / static_cast<double>(rows))});
        }
    }
    return candidates;
}

Grid log_ratio(const Spec& spec, const Knob& knob, Size image) {
    const double height = static_cast<double>(image.height);
    const double width = static_cast<double>(image.width);
    const double square = static_cast<double>(spec.crop.crop_size * spec.crop.crop_size);
    const int64_t filled =
        static_cast<int64_t>(std::min(std::ceil(height * width / square), static_cast<double>(knob.max_crops)));
    if (filled <= 1) return {0, 0};

    const double log_of_image = std::log(width / height);
    const auto has_fewer = [](const Candidate& candidate, int64_t crops) { return candidate.grid.count() < crops; };
    auto candidate = std::lower_bound(knob.candidates.begin(), knob.candidates.end(), std::max<int64_t>(filled - 1, 2), has_fewer);
    Grid best{1, 1};
    double least = std::numeric_limits<double>::infinity();
    for (; candidate != knob.candidates.end() && candidate->grid.count() <= filled + 1; ++candidate) {
        const double error = std::fabs(log_of_image - candidate->ratio);
        if (error < least || (error == least && candidate->grid.rows > best.rows)) {
            best = candidate->grid;
            least = error;
        }
    }
    return best;
}

}  // namespace maxcrops
