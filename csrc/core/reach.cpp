#include "reach.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "count_arithmetic.h"
#include "grid_policies.h"
#include "placement.h"

namespace maxcrops {
namespace {

// More than what rounding adds to a ratio, a middle of two or a logarithm.
constexpr double kSlack = 1e-9;
constexpr int64_t kMostListed = int64_t{1} << 14;  // crops; all grids of so many are 160,000

double quotient(int64_t a, int64_t b) { return static_cast<double>(a) / static_cast<double>(b); }

double unit_area(Unit unit, const CropRule& crop, Grid pooling) {
    if (unit == Unit::kPatches) pooling = {1, 1};
    return static_cast<double>(crop.patch_size * crop.patch_size * pooling.count());
}

}  // namespace

bool Reach::covers(const Spec& spec, const Knob& knob) {
    if (spec.tokens.unpad != Unpad::kNever || spec.tokens.max_map_crops != 0) return false;
    const bool by_ratio = spec.grid.policy == GridPolicy::kClosestRatio && spec.grid.split != SplitGate::kAboveGrid;
    return spec.grid.policy == GridPolicy::kLogRatio || spec.grid.policy == GridPolicy::kWindowSnap ||
           (by_ratio && knob.max_crops <= kMostListed);
}

Reach::Reach(const Spec& spec, const Knob& knob, const CountFormula& formula)
    : spec_(spec), knob_(knob), formula_(formula) {
    if (spec.grid.policy != GridPolicy::kClosestRatio) return;
    const int64_t longest = spec.grid.max_grid_side > 0 ? spec.grid.max_grid_side : knob.max_crops;
    std::map<double, std::vector<Grid>> by_ratio;
    for (int64_t rows = 1; rows <= std::min(knob.max_crops, longest); ++rows) {
        for (int64_t cols = 1; cols <= std::min(knob.max_crops / rows, longest); ++cols) {
            if (rows * cols >= spec.grid.min_crops) by_ratio[quotient(cols, rows)].push_back({rows, cols});
        }
    }
    if (by_ratio.empty()) by_ratio[1].push_back({1, 1});
    for (auto& [ratio, grids] : by_ratio) {
        if (!choices_.empty()) choices_.back().middle = (choices_.back().ratio + ratio) / 2;
        choices_.push_back({0, ratio, std::move(grids)});
    }
}

double Reach::cost(Grid grid) const { return count_one(formula_, static_cast<double>(grid.rows), static_cast<double>(grid.cols)); }

double Reach::most_global(const SizeRange& images, Grid grid) const {
    if (formula_.global_unit == Unit::kNone || !spec_.crop.has_global(grid)) return 0;
    return std::floor(most_global_area(spec_.crop, images) / unit_area(formula_.global_unit, spec_.crop, spec_.crop.global_pooling()));
}

double Reach::cost_with_crops(Grid grid, const SizeRange& images) const {
    const double fixed = cost(grid) + most_global(images, grid);
    if (formula_.local_unit == Unit::kNone || grid.count() == 0) return fixed;
    const CropRule& crop = spec_.crop;
    const Grid pooling = crop.pooling();
    const auto ratio = [&](int64_t width, int64_t height) { return cell_side(width, grid.cols) / cell_side(height, grid.rows); };
    const double area = most_area_by_area(ratio(images.low.width, images.high.height), ratio(images.high.width, images.low.height),
                                          crop.crop_size, crop.patch_size * pooling.rows, crop.patch_size * pooling.cols);
    return fixed + static_cast<double>(grid.count()) * std::floor(area / unit_area(formula_.local_unit, crop, pooling));
}

double Reach::most(const SizeRange& images) const {
    switch (spec_.grid.policy) {
        case GridPolicy::kClosestRatio: return most_by_ratio(images);
        case GridPolicy::kLogRatio: return most_by_log_ratio(images);
        default: return most_by_windows(images);
    }
}

double Reach::most_by_ratio(const SizeRange& images) const {
    double most = 0;
    const auto is_split = [&](Size image) { return closest_ratio(spec_, knob_.max_crops, image).count() > 0; };
    if (!is_split(images.low)) most = cost_with_crops({0, 0}, images);
    if (!is_split(images.high)) return most;
    const double low = quotient(images.low.width, images.high.height) * (1 - kSlack);
    const double high = quotient(images.high.width, images.low.height) * (1 + kSlack);
    auto choice = std::partition_point(choices_.begin(), choices_.end() - 1, [&](const Choice& c) { return c.middle < low; });
    for (; choice != choices_.end(); ++choice) {
        for (const Grid grid : choice->grids) most = std::max(most, cost_with_crops(grid, images));
        if (choice->middle > high) break;
    }
    return most;
}

double Reach::most_by_log_ratio(const SizeRange& images) const {
    const double square = static_cast<double>(spec_.crop.crop_size * spec_.crop.crop_size);
    const auto filled = [&](Size image) {
        const double crops = std::ceil(static_cast<double>(image.height) * static_cast<double>(image.width) / square);
        return static_cast<int64_t>(std::min(crops, static_cast<double>(knob_.max_crops)));
    };
    const int64_t fewest = filled(images.low), largest = filled(images.high);
    double most = 0;
    if (fewest <= 1) most = cost_with_crops({0, 0}, images);
    if (largest <= 1) return most;
    const double low = std::log(quotient(images.low.width, images.high.height)) - kSlack;
    const double high = std::log(quotient(images.high.width, images.low.height)) + kSlack;
    // Candidates of every image that is split, by crops.
    const int64_t common_first = std::max<int64_t>(largest - 1, 2), common_last = std::max<int64_t>(fewest, 2) + 1;
    const auto begin = [&](int64_t crops) {
        return std::lower_bound(knob_.candidates.begin(), knob_.candidates.end(), crops,
                                [](const Candidate& c, int64_t least) { return c.grid.count() < least; });
    };
    const auto common_begin = begin(common_first), common_end = begin(std::max(common_first, common_last + 1));
    const auto is_beaten = [&](const Candidate& candidate) {
        return std::any_of(common_begin, common_end, [&](const Candidate& other) {
            const double middle = (candidate.ratio + other.ratio) / 2;
            return other.ratio > candidate.ratio ? low > middle : other.ratio < candidate.ratio && high < middle;
        });
    };
    const auto end = begin(largest + 2);
    for (auto candidate = begin(std::max<int64_t>(fewest - 1, 2)); candidate != end; ++candidate) {
        if (!is_beaten(*candidate)) most = std::max(most, cost_with_crops(candidate->grid, images));
    }
    return most;
}

double Reach::most_by_windows(const SizeRange& images) const {
    const double split = std::max(cost({1, 1}), cost(most_windows(spec_, knob_.edge, images)));
    return std::max(cost({0, 0}), split);
}

}  // namespace maxcrops
