#include <algorithm>
#include <cmath>
#include <map>

#include "grid_policies.h"

namespace maxcrops {
namespace {

// The side of the resized image that the search compares: the height of a landscape or square one, the width otherwise.
double short_side(Grid grid, double crop, double height, double width, double ratio) {
    const double factor =
        std::min(static_cast<double>(grid.cols) * crop / width, static_cast<double>(grid.rows) * crop / height);
    if (ratio > 1.0) return std::floor(factor * width / ratio);
    return ratio < 1.0 ? std::floor(factor * height * ratio) : factor * height;
}

}  // namespace

std::vector<Candidate> largest_canvas_candidates(int64_t max_crops) {
    std::vector<Candidate> met;
    for (int64_t crops = max_crops; crops >= 1; --crops) {
        for (int64_t cols = 1; cols <= crops; ++cols) {
            if (crops % cols != 0) continue;
            const int64_t rows = crops / cols;
            met.push_back({{rows, cols}, static_cast<double>(cols) / static_cast<double>(rows)});
        }
    }
    std::map<double, size_t> first_met;
    for (size_t i = 0; i < met.size(); ++i) first_met.emplace(met[i].ratio, i);
    std::stable_sort(met.begin(), met.end(), [&](const Candidate& a, const Candidate& b) {
        return first_met.at(a.ratio) < first_met.at(b.ratio);
    });
    return met;
}

Grid largest_canvas(const Spec& spec, const Knob& knob, Size image) {
    const double crop = static_cast<double>(spec.crop.crop_size);
    const double height = static_cast<double>(image.height);
    const double width = static_cast<double>(image.width);
    const double ratio = width / height;

    Grid best;
    double largest = -1;
    for (const Candidate& candidate : knob.candidates) {
        const Grid grid = candidate.grid;
        if (static_cast<double>(grid.cols) * crop < width || static_cast<double>(grid.rows) * crop < height) continue;
        const double side = short_side(grid, crop, height, width, ratio);
        if (side >= largest) {
            best = grid;
            largest = side;
        }
    }
    if (best.count() > 0) return best;

    // The image is larger than every canvas: the nearest ratio that is not wider for a landscape image, not taller for
    // a portrait one; then its largest grid, which was met first.
    double least = 0;
    for (const Candidate& candidate : knob.candidates) {
        const bool is_landscape = ratio >= 1.0;
        if (is_landscape ? candidate.ratio > ratio : candidate.ratio <= ratio) continue;
        const double difference =
            is_landscape ? std::fabs(candidate.ratio - ratio) : std::fabs(1.0 / candidate.ratio - 1.0 / ratio);
        if (best.count() == 0 || difference < least) {
            best = candidate.grid;
            least = difference;
        }
    }
    return best;
}

}  // namespace maxcrops
