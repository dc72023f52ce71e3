#include <algorithm>

#include "grid_policies.h"

namespace maxcrops {

// Below this side and beyond this ratio an image counts as a square of its long side.
constexpr int64_t kThinSide = 32;
constexpr double kThinRatio = 4.0;
// Beyond this ratio an image that fits the global crop is cut into windows of its short side.
constexpr double kLongRatio = 1.5;
// A rest of more than this share of a window takes a window of its own.
constexpr double kSnapUp = 0.2;

Cut window_snap(const Spec& spec, int64_t max_image_size, Size image) {
    Size size = image;
    const auto ratio_of = [](Size s) {
        const double height = static_cast<double>(s.height), width = static_cast<double>(s.width);
        return std::max(width / height, height / width);
    };
    if (std::min(size.height, size.width) < kThinSide && ratio_of(size) > kThinRatio) {
        size.height = size.width = std::max(size.height, size.width);
    }
    const int64_t longer = std::max(size.height, size.width);
    if (longer > max_image_size) {
        const double scale = static_cast<double>(max_image_size) / static_cast<double>(longer);
        const auto scaled = [&](int64_t side) { return static_cast<int64_t>(static_cast<double>(side) * scale); };
        size = {scaled(size.height), scaled(size.width)};
    }
    const bool vanishes = std::min(size.height, size.width) == 0;
    size = {std::max<int64_t>(1, size.height), std::max<int64_t>(1, size.width)};
    const int64_t short_side = std::min(size.height, size.width);
    const int64_t long_side = std::max(size.height, size.width);
    const double ratio = static_cast<double>(long_side) / static_cast<double>(short_side);
    int64_t window = spec.crop.crop_size;
    if (long_side <= spec.crop.global_size()) {
        window = ratio > kLongRatio ? short_side : 0;
    } else if (ratio > kThinRatio) {
        window = std::min(short_side, window);
    }
    Cut cut;
    cut.vanishes = vanishes;
    cut.global = {spec.crop.global_size(), spec.crop.global_size()};
    if (window == 0) {
        cut.canvas = cut.global;
        return cut;
    }
    const auto snapped = [&](int64_t side) {
        if (side < window) return side;
        const int64_t rest = side % window;
        const bool up = static_cast<double>(rest) > kSnapUp * static_cast<double>(window);
        return window * (side / window + (up ? 1 : 0));
    };
    cut.canvas = {snapped(size.height), snapped(size.width)};
    cut.grid = {std::max<int64_t>(1, cut.canvas.height / window), std::max<int64_t>(1, cut.canvas.width / window)};
    cut.crop = {window, window};
    return cut;
}

Grid most_windows(const Spec& spec, int64_t max_image_size, const SizeRange& images) {
    const Size low = images.low, high = images.high;
    const auto ratio = [](int64_t a, int64_t b) { return static_cast<double>(a) / static_cast<double>(b); };
    const int64_t longest = std::max(high.height, high.width);
    const bool is_scaled = longest > max_image_size;
    const double most_ratio = std::max(ratio(high.height, low.width), ratio(high.width, low.height));
    // The windows of a side that is scaled to `side`; a rest above kSnapUp of one makes one more.
    const auto windows = [](double side, double window) {
        return std::max<int64_t>(1, static_cast<int64_t>(side / window + (1 - kSnapUp) + 1e-9));
    };
    const double crop = static_cast<double>(spec.crop.crop_size);
    Grid most{1, 1};
    if (std::min(low.height, low.width) < kThinSide && most_ratio > kThinRatio) {  // squares of the long side
        const int64_t side = windows(static_cast<double>(std::min(longest, max_image_size)), crop);
        most = {side, side};
    }
    // Truncation in float64 may lose one pixel, or none, of a side that is scaled to a whole number.
    const auto scaled = [&](int64_t side, int64_t other, double rounding) {
        const double longer = static_cast<double>(std::max(side, other));
        const double scale = std::min(1.0, static_cast<double>(max_image_size) / longer);
        return std::max(1.0, std::floor(static_cast<double>(side) * scale + (is_scaled ? rounding : 0)));
    };
    const bool can_be_thin = std::min(low.height, low.width) < kThinSide;
    // Thinner images than kThinRatio have sides of kThinSide; where all of them are, the others are squares.
    const double least_ratio = std::max(ratio(low.height, high.width), ratio(low.width, high.height));
    const int64_t least = can_be_thin && least_ratio > kThinRatio ? kThinSide : 1;
    const Size smallest{std::max(low.height, least), std::max(low.width, least)};
    if (smallest.height > high.height || smallest.width > high.width) return most;
    const double least_height = scaled(smallest.height, high.width, -1e-6), most_height = scaled(high.height, smallest.width, 1e-6);
    const double least_width = scaled(smallest.width, high.height, -1e-6), most_width = scaled(high.width, smallest.height, 1e-6);
    const double least_long = std::max(scaled(smallest.height, 1, -1e-6), scaled(smallest.width, 1, -1e-6));
    const bool may_shrink = std::max(most_height / least_width, most_width / least_height) > kThinRatio ||
                            least_long <= static_cast<double>(spec.crop.global_size());
    const double window = may_shrink ? std::min({least_height, least_width, crop}) : crop;
    return {std::max(most.rows, windows(most_height, window)), std::max(most.cols, windows(most_width, window))};
}

}  // namespace maxcrops
