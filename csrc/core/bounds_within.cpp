#include "bounds_within.h"

#include <algorithm>
#include <cmath>
#include <queue>
#include <tuple>

#include "grid_policies.h"
#include "parallel.h"
#include "reach.h"

namespace maxcrops {
namespace {

constexpr int64_t kFewSizes = 64;  // are tried at once

int64_t narrowest(const SizeLimit& limit, int64_t longer) {
    return limit.max_ratio > 0 ? static_cast<int64_t>(std::ceil(static_cast<double>(longer) / limit.max_ratio)) : 1;
}

// For each formula the image of the largest count, among images within the limit whose long side is one of
// first, first + step...
std::vector<Worst> worst_of_part(const Spec& spec, const Knob& knob, const std::vector<CountFormula>& formulas,
                                 const SizeLimit& limit, int64_t first, int64_t step) {
    std::vector<Worst> worst(formulas.size());
    for (int64_t longer = first; longer <= limit.max_side; longer += step) {
        for (int64_t shorter = narrowest(limit, longer); shorter <= longer; ++shorter) {
            for (const Size image : {Size{longer, shorter}, Size{shorter, longer}}) {
                const Cut cut = cut_image(spec, knob, image);
                if (is_refused(spec, cut, image)) continue;
                for (size_t i = 0; i < formulas.size(); ++i) {
                    const int64_t count = count_of(spec, formulas[i], cut, image);
                    if (count > worst[i].count) worst[i] = {count, image};
                }
            }
        }
    }
    return worst;
}

// Of equal counts the smaller image, so that the number of threads makes no difference.
bool is_worse(const Worst& a, const Worst& b) {
    if (a.count != b.count) return a.count > b.count;
    const auto order = [](Size s) { return std::make_tuple(std::max(s.height, s.width), std::min(s.height, s.width), s.width); };
    return order(a.image) < order(b.image);
}

struct Part {
    double most = 0;
    SizeRange sizes;
};

// Last in a queue that gives its largest element first.
bool comes_after(const Part& a, const Part& b) {
    const auto order = [](const Part& part) {
        const SizeRange& s = part.sizes;
        return std::make_tuple(-part.most, s.low.height, s.low.width, s.high.height, s.high.width);
    };
    return order(a) > order(b);
}

// The image of the range that comes nearest to a square, whose ratio all others exceed.
Size roundest(const SizeRange& sizes) {
    if (sizes.low.width > sizes.high.height) return {sizes.high.height, sizes.low.width};
    if (sizes.low.height > sizes.high.width) return {sizes.low.height, sizes.high.width};
    const int64_t side = std::max(sizes.low.height, sizes.low.width);
    return {side, side};
}

}  // namespace

bool is_within(const SizeLimit& limit, Size image) {
    const int64_t longer = std::max(image.height, image.width);
    return longer <= limit.max_side && std::min(image.height, image.width) >= narrowest(limit, longer);
}

std::vector<Worst> worst_of_all(const Spec& spec, const Knob& knob, const std::vector<CountFormula>& formulas,
                                const SizeLimit& limit) {
    const int64_t parts = std::max(1, limit.num_threads);
    std::vector<std::vector<Worst>> found(static_cast<size_t>(parts));
    for_parts(parts, [&](int64_t part) {
        found[static_cast<size_t>(part)] = worst_of_part(spec, knob, formulas, limit, 1 + part, parts);
    });
    std::vector<Worst> worst(formulas.size());
    for (size_t i = 0; i < formulas.size(); ++i) {
        for (const std::vector<Worst>& of_part : found) {
            if (is_worse(of_part[i], worst[i])) worst[i] = of_part[i];
        }
    }
    return worst;
}

Worst worst_by_reach(const Spec& spec, const Knob& knob, const CountFormula& formula, const SizeLimit& limit) {
    const Reach reach(spec, knob, formula);
    Worst worst;
    std::priority_queue<Part, std::vector<Part>, decltype(&comes_after)> parts(&comes_after);
    const auto add = [&](const SizeRange& sizes) {
        if (!is_within(limit, roundest(sizes))) return;
        const double most = reach.most(sizes);
        if (most > static_cast<double>(worst.count)) parts.push({most, sizes});
    };
    const auto try_all = [&](const SizeRange& sizes) {
        for (int64_t height = sizes.low.height; height <= sizes.high.height; ++height) {
            for (int64_t width = sizes.low.width; width <= sizes.high.width; ++width) {
                const Size image{height, width};
                if (!is_within(limit, image)) continue;
                const Cut cut = cut_image(spec, knob, image);
                if (is_refused(spec, cut, image)) continue;
                const int64_t count = count_of(spec, formula, cut, image);
                if (count > worst.count) worst = {count, image};
            }
        }
    };
    add({{1, 1}, {limit.max_side, limit.max_side}});
    while (!parts.empty() && parts.top().most > static_cast<double>(worst.count)) {
        const SizeRange sizes = parts.top().sizes;
        parts.pop();
        const auto [low, high] = sizes;
        if ((high.height - low.height + 1) * (high.width - low.width + 1) <= kFewSizes) {
            try_all(sizes);
            continue;
        }
        // In halves of ratios: the side with the larger quotient of its ends, at their geometric mean.
        const auto middle = [](int64_t a, int64_t b) { return std::min(floor_sqrt(a * b), b - 1); };
        if (high.height * low.width >= high.width * low.height) {
            const int64_t height = middle(low.height, high.height);
            add({low, {height, high.width}});
            add({{height + 1, low.width}, high});
        } else {
            const int64_t width = middle(low.width, high.width);
            add({low, {high.height, width}});
            add({{low.height, width + 1}, high});
        }
    }
    return worst;
}

}  // namespace maxcrops
