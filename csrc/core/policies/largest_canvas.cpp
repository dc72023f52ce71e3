#include <algorithm>
#include <cmath>
#include <iterator>
#include <numeric>
#include <utility>

#include "grid_policies.h"

namespace maxcrops {
namespace {

// Grids by ratio in the order in which ratios are met going down from max_crops, columns rising; of one ratio the largest
// first, as it is met.
std::vector<Candidate> in_search_order(int64_t max_crops) {
    std::vector<Candidate> order;
    for (int64_t crops = max_crops; crops >= 1; --crops) {
        for (int64_t cols = 1; cols <= crops; ++cols) {
            if (crops % cols != 0) continue;
            const int64_t rows = crops / cols, times = std::gcd(rows, cols);
            const Grid lowest{rows / times, cols / times};
            if (lowest.count() * (times + 1) * (times + 1) <= max_crops) continue;  // its ratio was met before
            const double ratio = static_cast<double>(cols) / static_cast<double>(rows);
            for (int64_t k = times; k >= 1; --k) order.push_back({{lowest.rows * k, lowest.cols * k}, ratio});
        }
    }
    return order;
}

}  // namespace

void list_canvases(Knob& knob) {
    const std::vector<Candidate> order = in_search_order(knob.max_crops);
    const auto crops = [&](int64_t along) { return static_cast<size_t>(knob.max_crops / along); };
    std::vector<std::vector<size_t>> last;
    for (int64_t rows = 1; rows <= knob.max_crops; ++rows) last.emplace_back(crops(rows));
    for (size_t i = 0; i < order.size(); ++i) {
        const Grid grid = order[i].grid;
        last[static_cast<size_t>(grid.rows - 1)][static_cast<size_t>(grid.cols - 1)] = i;
        if (i == 0 || order[i].ratio != order[i - 1].ratio) knob.candidates.push_back(order[i]);
    }
    std::sort(knob.candidates.begin(), knob.candidates.end(),
              [](const Candidate& a, const Candidate& b) { return a.ratio < b.ratio; });
    for (size_t row = last.size(); row-- > 0;) {
        std::vector<Grid> grids(last[row].size());
        for (size_t col = last[row].size(); col-- > 0;) {
            size_t& found = last[row][col];
            if (col + 1 < last[row].size()) found = std::max(found, last[row][col + 1]);
            if (row + 1 < last.size() && col < last[row + 1].size()) found = std::max(found, last[row + 1][col]);
            grids[col] = order[found].grid;
        }
        knob.last_beyond.push_back(std::move(grids));
    }
    std::reverse(knob.last_beyond.begin(), knob.last_beyond.end());
}

Grid largest_canvas(const Spec& spec, const Knob& knob, Size image) {
    const double crop = static_cast<double>(spec.crop.crop_size);
    const double height = static_cast<double>(image.height);
    const double width = static_cast<double>(image.width);
    const double ratio = width / height;
    const bool is_landscape = ratio >= 1.0;
    const double short_side = is_landscape ? height : width;
    const double long_side = is_landscape ? width : height;
    const int64_t least_short = ceil_div(std::min(image.height, image.width), spec.crop.crop_size);
    const int64_t least_long = ceil_div(std::max(image.height, image.width), spec.crop.crop_size);
    if (least_short * least_long > knob.max_crops) {
        const auto wider = std::upper_bound(knob.candidates.begin(), knob.candidates.end(), ratio,
                                            [](double value, const Candidate& other) { return value < other.ratio; });
        return (is_landscape ? std::prev(wider) : wider)->grid;
    }

    // What the image's short side becomes where so many crops along one of its sides are all that limits it. It does not
    // fall with the crops, nor does any rounding in it, so that of two limits the smaller result decides.
    const auto reach = [&](int64_t crops, double side) {
        const double factor = static_cast<double>(crops) * crop / side;
        if (ratio > 1.0) return std::floor(factor * width / ratio);
        return ratio < 1.0 ? std::floor(factor * height * ratio) : factor * height;
    };
    // The most is reached by a grid without room for more; with more crops along the short side one limit rises and the
    // other falls.
    double most = -1;
    for (int64_t along_short = least_short; along_short * least_long <= knob.max_crops; ++along_short) {
        const double by_short = reach(along_short, short_side);
        const double by_long = reach(knob.max_crops / along_short, long_side);
        most = std::max(most, std::min(by_short, by_long));
        if (by_short >= by_long) break;
    }
    // All that reaches it has at least so many crops along each side.
    const auto fewest = [&](int64_t least, double side) {
        int64_t crops = std::max(least, static_cast<int64_t>(most * side / (short_side * crop)));
        while (reach(crops, side) < most) ++crops;
        return static_cast<size_t>(crops);
    };
    const size_t along_short = fewest(least_short, short_side), along_long = fewest(least_long, long_side);
    return is_landscape ? knob.last_beyond[along_short - 1][along_long - 1] : knob.last_beyond[along_long - 1][along_short - 1];
}

}  // namespace maxcrops
