#include "bounds.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>
#include <utility>
#include <vector>

#include "bounds_within.h"
#include "count_arithmetic.h"
#include "grid_policies.h"
#include "reach.h"

namespace maxcrops {
namespace {

Size whole_crops(const CropRule& crop, Grid grid) {
    return {grid.rows * crop.window_size() + crop.margin_size(), grid.cols * crop.window_size() + crop.margin_size()};
}

Size closest_ratio_witness(const Spec& spec, const Knob& knob, Grid grid) {
    if (spec.grid.split == SplitGate::kAboveGrid) return whole_crops(spec.crop, grid);
    const int64_t k = std::gcd(grid.rows, grid.cols);
    const int64_t diagonal = spec.crop.crop_size * k;
    int64_t side = floor_sqrt(diagonal * diagonal / 2) + 1;
    const auto image = [&] { return Size{grid.rows / k * side, grid.cols / k * side}; };
    while (closest_ratio(spec, knob.max_crops, image()).count() == 0) side += side / 2 + 1;  // to beyond the split gate
    return image();
}

// Around (rows * s, cols * s), where whole pixels leave it open whether the crops keep just more than the threshold.
Size covering_area_witness(const Spec& spec, const Knob& knob, Grid grid) {
    Grid found = grid;
    if (spec.grid.transposed) std::swap(found.rows, found.cols);
    const double side = static_cast<double>(spec.crop.crop_size) / std::sqrt(std::max(spec.grid.covering_threshold, 1.0 / 256.0));
    const auto most = [&](int64_t crops) { return static_cast<int64_t>(static_cast<double>(crops) * side) + 1; };
    const Size largest{most(found.rows), most(found.cols)};
    const int64_t longer = std::max(found.rows, found.cols);
    for (int64_t less = 0; less <= longer + 1; ++less) {
        for (const int64_t uneven : {0, 1, -1}) {
            const Size image{std::max<int64_t>(1, largest.height - less * found.rows / longer),
                             std::max<int64_t>(1, largest.width - less * found.cols / longer - uneven)};
            if (covering_area(spec, knob, image) == grid) return image;
        }
    }
    return largest;
}

Size pan_and_scan_witness(const Spec& spec, Grid grid) {
    const double slice = static_cast<double>(spec.grid.min_slice_size);
    const double ratio = std::max(static_cast<double>(grid.count()), spec.grid.min_ratio);
    const Size landscape{spec.grid.min_slice_size, static_cast<int64_t>(std::ceil(slice * ratio))};
    return grid.rows == 1 ? landscape : Size{landscape.width, landscape.height};
}

// An image that makes the policy choose the grid, by Note [Bounds].
Size witness_of(const Spec& spec, const Knob& knob, Grid grid) {
    switch (spec.grid.policy) {
        case GridPolicy::kClosestRatio: return closest_ratio_witness(spec, knob, grid);
        case GridPolicy::kCoveringArea: return covering_area_witness(spec, knob, grid);
        case GridPolicy::kPanAndScan: return pan_and_scan_witness(spec, grid);
        default: return whole_crops(spec.crop, grid);
    }
}

// Grids that cannot grow in either direction: the most rows for each number of columns.
std::vector<Grid> grids_without_room(const Spec& spec, int64_t max_crops) {
    if (spec.grid.policy == GridPolicy::kPanAndScan) return {{1, max_crops}, {max_crops, 1}};
    // Above_grid lets every image choose its own grid first.
    const bool by_ratio = spec.grid.policy == GridPolicy::kClosestRatio && spec.grid.split != SplitGate::kAboveGrid;
    const int64_t longest = by_ratio && spec.grid.max_grid_side > 0 ? spec.grid.max_grid_side : max_crops;
    std::vector<Grid> grids;
    for (int64_t rows = 1; rows <= std::min(max_crops, longest); ++rows) {
        const int64_t cols = std::min(max_crops / rows, longest);
        rows = std::min(max_crops / cols, longest);
        if (!by_ratio || rows * cols >= spec.grid.min_crops) grids.push_back({rows, cols});
    }
    if (grids.empty()) grids.push_back({1, 1});
    return grids;
}

// Whether the feature map of a resolution has its aspect ratio, so that an image that fills it is not unpadded.
bool fills_its_map(const CropRule& crop, Size entry) {
    return entry.height / crop.crop_size * entry.width == entry.width / crop.crop_size * entry.height;
}

// Images that fill one side of a resolution, and, where another resolution begins to hold the image, images whose
// ratio lies as close to that edge as kMaxSide allows.
template <typename Offer>
void offer_fitting(const Spec& spec, Size entry, const Offer& offer) {
    // A row or a column of the map is a feature's pixels of the canvas: twice each.
    const int64_t step_rows = std::max<int64_t>(1, spec.crop.patch_size * spec.crop.pooling_rows / 2);
    const int64_t step_cols = std::max<int64_t>(1, spec.crop.patch_size * spec.crop.pooling_cols / 2);
    for (int64_t height = entry.height; height > 0; height -= step_rows) offer({height, entry.width});
    for (int64_t width = entry.width; width > 0; width -= step_cols) offer({entry.height, width});
    offer({1, entry.width});
    offer({entry.height, 1});
    for (const Size& other : spec.grid.resolutions) {
        for (int64_t zoom = 1; zoom * std::max(entry.height, entry.width) < kMaxSide / 2; zoom *= 16) {
            for (const int64_t step : {-1, 1}) {
                if (other.height <= entry.height) offer({other.height * zoom + step, entry.width * zoom});
                if (other.width <= entry.width) offer({entry.height * zoom, other.width * zoom + step});
            }
        }
    }
}

// The image of the largest count among a few that stand for all. See Note [Bounds].
Worst worst_image(const Spec& spec, const Knob& knob, const CountFormula& formula) {
    Worst worst;
    const auto offer = [&](Size image) {
        const Cut cut = cut_image(spec, knob, image);
        const int64_t count = count_of(spec, formula, cut, image);
        if (count > worst.count) worst = {count, image};
        return cut.grid;
    };
    // The costliest grid that its witness attains, and the image that is not split.
    const auto offer_grids = [&] {
        std::vector<Grid> grids = grids_without_room(spec, knob.max_crops);
        const auto cost = [&](Grid grid) {
            return count_one(formula, static_cast<double>(grid.rows), static_cast<double>(grid.cols));
        };
        std::stable_sort(grids.begin(), grids.end(), [&](Grid a, Grid b) { return cost(a) > cost(b); });
        for (const Grid grid : grids) {
            if (offer(witness_of(spec, knob, grid)) == grid) break;
        }
        offer({1, 1});
    };
    switch (spec.grid.policy) {
        case GridPolicy::kFixed: {
            const int64_t side = std::max(spec.crop.longest_crop_edge, spec.crop.crop_size);
            offer({side * std::max<int64_t>(1, spec.grid.fixed_grid.rows), side * std::max<int64_t>(1, spec.grid.fixed_grid.cols)});
            break;
        }
        case GridPolicy::kScaleFit:
        case GridPolicy::kClosestRatio:
        case GridPolicy::kLogRatio:
        case GridPolicy::kCoveringArea:
        case GridPolicy::kLargestCanvas:
        case GridPolicy::kPanAndScan: offer_grids(); break;
        case GridPolicy::kWindowSnap: break;  // unbounded
        case GridPolicy::kBestResolution:
            for (const Size& entry : knob.resolutions) {
                offer(entry);
                const bool is_whole = fills_its_map(spec.crop, entry) && spec.tokens.max_map_crops == 0;
                if (formula.has_map() && spec.tokens.unpad == Unpad::kByRatio && !is_whole) offer_fitting(spec, entry, offer);
            }
            break;
        case GridPolicy::kCeilGrid: {
            const int64_t edge = knob.edge;
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

std::vector<Bound> worst_cases(const Spec& spec, const Knob& knob, const std::vector<Count>& counts,
                               const SizeLimit& limit) {
    std::vector<Worst> worst(counts.size());
    std::vector<CountFormula> remaining;
    std::vector<size_t> places;
    for (size_t i = 0; i < counts.size(); ++i) {
        const CountFormula formula = count_formula(spec, knob, counts[i]);
        if (is_bounded(spec, counts[i])) {
            worst[i] = worst_image(spec, knob, formula);
            if (is_within(limit, worst[i].image) && !make_layout(spec, knob, worst[i].image).is_refused) continue;
        }
        if (Reach::covers(spec, knob)) {
            worst[i] = worst_by_reach(spec, knob, formula, limit);
        } else {
            remaining.push_back(formula);
            places.push_back(i);
        }
    }
    if (!remaining.empty()) {
        const std::vector<Worst> found = worst_of_all(spec, knob, remaining, limit);
        for (size_t i = 0; i < places.size(); ++i) worst[places[i]] = found[i];
    }
    std::vector<Bound> bounds;
    for (const Worst& one : worst) {
        if (one.count < 0) {
            throw std::invalid_argument("[worst_case] max_side must be larger: the processor of " + spec.name +
                                        " takes no image of up to " + std::to_string(limit.max_side) + " px");
        }
        bounds.push_back({one.count, make_layout(spec, knob, one.image)});
    }
    return bounds;
}

bool is_bounded(const Spec& spec, Count what) {
    if (spec.grid.policy == GridPolicy::kWindowSnap) return false;
    const CountFormula formula = count_formula(spec, {}, what);
    const auto is_free = [](Unit unit, Sizing sizing) { return unit != Unit::kNone && sizing != Sizing::kEdges; };
    return !is_free(formula.local_unit, spec.crop.sizing) && !is_free(formula.global_unit, spec.crop.global_sizing);
}

Bound worst_case(const Spec& spec, const Knob& knob, Count what) {
    if (!is_bounded(spec, what)) throw std::invalid_argument("[worst_case] " + spec.name + " needs a limit on sizes");
    const Worst worst = worst_image(spec, knob, count_formula(spec, knob, what));
    return {worst.count, make_layout(spec, knob, worst.image)};
}

std::optional<int64_t> largest_max_crops(const Spec& spec, Count what, int64_t max_count,
                                         const std::optional<SizeLimit>& limit) {
    const KnobRange range = knob_range(spec);
    const auto fits = [&](int64_t max_crops) {
        const Knob knob = resolve_knob(spec, max_crops);
        const Bound bound = limit ? worst_cases(spec, knob, {what}, *limit)[0] : worst_case(spec, knob, what);
        return bound.count <= max_count;
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
