#include "bounds.h"

#include <algorithm>
#include <numeric>

#include "count_arithmetic.h"
#include "grid_policies.h"

namespace maxcrops {
namespace {

Size scale_fit_witness(const Spec& spec, Grid grid) {
    const CropRule& crop = spec.crop;
    return {grid.rows * crop.window_size() + crop.margin_size(), grid.cols * crop.window_size() + crop.margin_size()};
}

Size closest_ratio_witness(const Spec& spec, Grid grid) {
    const int64_t k = std::gcd(grid.rows, grid.cols);
    const int64_t diagonal = spec.crop.crop_size * k;
    const int64_t side = floor_sqrt(diagonal * diagonal / 2) + 1;
    return {grid.rows / k * side, grid.cols / k * side};
}

// Among grids that cannot grow in either direction: the most rows for each number of columns. See Note [Bounds].
Grid worst_grid(const Spec& spec, int64_t max_crops, const CountFormula& formula) {
    const int64_t min_crops = spec.grid.policy == GridPolicy::kClosestRatio ? spec.grid.min_crops : 1;
    Grid worst{1, 1};
    double most = -1;
    for (int64_t rows = 1; rows <= max_crops; ++rows) {
        const int64_t cols = max_crops / rows;
        rows = max_crops / cols;
        const Grid grid{rows, cols};
        if (grid.count() < min_crops) continue;
        const double count = count_one(formula, static_cast<double>(grid.rows), static_cast<double>(grid.cols));
        if (count > most) {
            most = count;
            worst = grid;
        }
    }
    return worst;
}

// Whether the feature map of a resolution has its aspect ratio, so that an image that fills it is not unpadded.
bool fills_its_map(const CropRule& crop, Size entry) {
    return entry.height / crop.crop_size * entry.width == entry.width / crop.crop_size * entry.height;
}

// Images that fill one side of a resolution, and, where another resolution begins to hold the image, images whose
// ratio lies as close to that edge as kMaxSide allows.
template <typename Offer>
void offer_fitting(const Spec& spec, Size entry, const Offer& offer) {
    for (int64_t height = 1; height <= entry.height; ++height) offer({height, entry.width});
    for (int64_t width = 1; width <= entry.width; ++width) offer({entry.height, width});
    for (const Size& other : spec.grid.resolutions) {
        for (int64_t zoom = 1; zoom * std::max(entry.height, entry.width) < kMaxSide / 2; zoom *= 16) {
            for (const int64_t step : {-1, 1}) {
                if (other.height <= entry.height) offer({other.height * zoom + step, entry.width * zoom});
                if (other.width <= entry.width) offer({entry.height * zoom, other.width * zoom + step});
            }
        }
    }
}

struct Worst {
    int64_t count = -1;
    Size image;
};

// The image of the largest count among a few that stand for all. See Note [Bounds].
Worst worst_image(const Spec& spec, const Knob& knob, const CountFormula& formula) {
    Worst worst;
    const auto offer = [&](Size image) {
        const Cut cut = cut_image(spec, knob, image);
        const int64_t count = count_of(spec, formula, cut.grid, cut.canvas, image);
        if (count > worst.count) worst = {count, image};
    };
    switch (spec.grid.policy) {
        case GridPolicy::kFixed: offer(cut_image(spec, knob, {1, 1}).canvas); break;
        case GridPolicy::kScaleFit: offer(scale_fit_witness(spec, worst_grid(spec, knob.max_crops, formula))); break;
        case GridPolicy::kClosestRatio:
            offer(closest_ratio_witness(spec, worst_grid(spec, knob.max_crops, formula)));
            break;
        case GridPolicy::kBestResolution:
            for (const Size& entry : kept_resolutions(spec, knob)) {
                offer(entry);
                if (spec.tokens.unpad && !fills_its_map(spec.crop, entry)) offer_fitting(spec, entry, offer);
            }
            break;
        case GridPolicy::kCeilGrid: {
            const int64_t edge = knob.longest_edge;
            for (int64_t side = 2; side < edge; side += 2) {
                offer({side, edge});
                offer({edge, side});
            }
            offer({1, 2 * edge});
            offer({2 * edge, 1});
            offer({edge, edge});
            break;
        }
    }
    return worst;
}

}  // namespace

Bound worst_case(const Spec& spec, const Knob& knob, Count what) {
    const Worst worst = worst_image(spec, knob, count_formula(spec, what));
    return {worst.count, make_layout(spec, knob, worst.image)};
}

std::optional<int64_t> largest_max_crops(const Spec& spec, Count what, int64_t max_count) {
    const CountFormula formula = count_formula(spec, what);
    const KnobRange range = knob_range(spec);
    const auto fits = [&](int64_t max_crops) {
        return worst_image(spec, resolve_knob(spec, max_crops), formula).count <= max_count;
    };
    if (!fits(range.first)) return std::nullopt;
    int64_t good = range.first;
    int64_t bad = range.last + 1;
    for (int64_t step = 1; good + step < bad; step *= 2) {  // gallop, so that small answers stay cheap
        if (!fits(good + step)) {
            bad = good + step;
            break;
        }
        good += step;
    }
    while (bad - good > 1) {
        const int64_t middle = good + (bad - good) / 2;
        (fits(middle) ? good : bad) = middle;
    }
    return good;
}

}  // namespace maxcrops
