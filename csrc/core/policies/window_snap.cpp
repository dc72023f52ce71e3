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
        const auto scaled = [&](int64_t side) {  // the upstream divides by a side of 0
            return std::max<int64_t>(1, static_cast<int64_t>(static_cast<double>(side) * scale));
        };
        size = {scaled(size.height), scaled(size.width)};
    }
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

}  // namespace maxcrops
