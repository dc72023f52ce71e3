#include "placement.h"

#include <algorithm>
#include <cmath>

namespace maxcrops {
namespace {

// Arithmetic per Fit as its comment in spec.h says; the upstreams differ in it, and it decides single pixels.
Size letterbox_trunc(Size image, Size canvas) {
    const float height = static_cast<float>(image.height);
    const float width = static_cast<float>(image.width);
    const float scale = std::min(static_cast<float>(canvas.height) / height, static_cast<float>(canvas.width) / width);
    // Beyond 2^24 px a float32 side may round up past the canvas.
    return {std::min(static_cast<int64_t>(height * scale), canvas.height),
            std::min(static_cast<int64_t>(width * scale), canvas.width)};
}

// One side fills the canvas, the other is rounded by `round`, in float64.
template <typename Round>
Size letterbox(Size image, Size canvas, const Round& round) {
    const double height = static_cast<double>(image.height);
    const double width = static_cast<double>(image.width);
    const double scale_h = static_cast<double>(canvas.height) / height;
    const double scale_w = static_cast<double>(canvas.width) / width;
    if (scale_w < scale_h) return {std::min(static_cast<int64_t>(round(height * scale_w)), canvas.height), canvas.width};
    return {canvas.height, std::min(static_cast<int64_t>(round(width * scale_h)), canvas.width)};
}

double half_to_even(double value) { return std::nearbyint(value); }
double floor_of(double value) { return std::floor(value); }
double ceil_of(double value) { return std::ceil(value); }

Size content_size(Fit fit, Size image, Size canvas, int64_t crop_size) {
    switch (fit) {
        case Fit::kStretch: return canvas;
        case Fit::kLetterboxTrunc: return letterbox_trunc(image, canvas);
        case Fit::kLetterboxCeil: return letterbox(image, canvas, ceil_of);
        case Fit::kLetterboxRound: return letterbox(image, canvas, half_to_even);
        case Fit::kTopLeft: return letterbox(image, canvas, floor_of);
        case Fit::kTopLeftNoUpscale: {
            const auto within = [&](int64_t side, int64_t most) { return std::min(std::max(side, crop_size), most); };
            const Size target{within(image.height, canvas.height), within(image.width, canvas.width)};
            const Size size = letterbox(image, target, floor_of);
            return {std::max<int64_t>(size.height, 1), std::max<int64_t>(size.width, 1)};
        }
    }
    return canvas;
}

int64_t snapped(double value, int64_t step) {
    const int64_t steps = static_cast<int64_t>(half_to_even(value / static_cast<double>(step)));
    return std::max(steps * step, step);
}

// More than what rounding adds to a product, a quotient or a root.
constexpr double kRounding = 1e-12;

double area_of(Size size) { return static_cast<double>(size.height) * static_cast<double>(size.width); }

double up_to_step(double value, int64_t step) {
    return std::ceil(value / static_cast<double>(step)) * static_cast<double>(step);
}

double down_to_step(double value, int64_t step) {
    return std::floor(value / static_cast<double>(step)) * static_cast<double>(step);
}

// Of size_by_features, whose three cases have the pixels least and most between them: in each the height rises with the
// image's height and falls with its width.
double most_area_by_features(const CropRule& crop, const SizeRange& images) {
    const int64_t step_rows = crop.patch_size * crop.global_pooling().rows;
    const int64_t step_cols = crop.patch_size * crop.global_pooling().cols;
    const auto own_area = [&](Size image) {
        return area_of({snapped(static_cast<double>(image.height), step_rows), snapped(static_cast<double>(image.width), step_cols)});
    };
    const double feature = static_cast<double>(step_rows * step_cols);
    const double most = static_cast<double>(crop.max_features) * feature;
    const double least = static_cast<double>(crop.min_features) * feature;
    const double smallest = own_area(images.low), largest = own_area(images.high);
    const auto scaled = [](int64_t side, int64_t other, double area) {
        return std::sqrt(static_cast<double>(side) * area / static_cast<double>(other));
    };
    double area = smallest > most ? 0 : std::min(largest, most);
    if (smallest < least) {
        const double rows = scaled(images.high.height, images.low.width, least) * (1 + kRounding);
        const double cols = scaled(images.high.width, images.low.height, least) * (1 + kRounding);
        area = std::max(area, up_to_step(rows, step_rows) * up_to_step(cols, step_cols));
    }
    if (largest > most) {
        const double rows = scaled(images.high.height, images.low.width, most) * (1 + kRounding);
        const double cols = scaled(images.high.width, images.low.height, most) * (1 + kRounding);
        const double product = std::max(down_to_step(rows, step_rows), static_cast<double>(step_rows)) *
                               std::max(down_to_step(cols, step_cols), static_cast<double>(step_cols));
        // Where neither side is less than a step, both are rounded down.
        const bool both_down = scaled(images.low.height, images.high.width, most) > static_cast<double>(step_rows) * (1 + kRounding) &&
                               scaled(images.low.width, images.high.height, most) > static_cast<double>(step_cols) * (1 + kRounding);
        area = std::max(area, both_down ? std::min(product, most) : product);
    }
    return area;
}

Size size_by_features(const CropRule& crop, Size image) {
    const int64_t step_rows = crop.patch_size * crop.global_pooling().rows;
    const int64_t step_cols = crop.patch_size * crop.global_pooling().cols;
    const double height = static_cast<double>(image.height);
    const double width = static_cast<double>(image.width);
    const double feature = static_cast<double>(step_rows * step_cols);
    const Size own{snapped(height, step_rows), snapped(width, step_cols)};
    const double area = static_cast<double>(own.height) * static_cast<double>(own.width);
    const double most = static_cast<double>(crop.max_features) * feature;
    const double least = static_cast<double>(crop.min_features) * feature;
    if (area > most) {
        const double beta = std::sqrt(height * width / most);
        const auto down = [&](double side, int64_t step) {
            return std::max(step, static_cast<int64_t>(std::floor(side / beta / static_cast<double>(step))) * step);
        };
        return {down(height, step_rows), down(width, step_cols)};
    }
    if (area < least) {
        const double beta = std::sqrt(least / (height * width));
        const auto up = [&](double side, int64_t step) {
            return static_cast<int64_t>(std::ceil(side * beta / static_cast<double>(step))) * step;
        };
        return {up(height, step_rows), up(width, step_cols)};
    }
    return own;
}

}  // namespace

Box place(Fit fit, Size image, Size canvas, int64_t crop_size) {
    const Size content = content_size(fit, image, canvas, crop_size);
    if (fit == Fit::kTopLeft || fit == Fit::kTopLeftNoUpscale) return {0, 0, content.height, content.width};
    return {(canvas.height - content.height) / 2, (canvas.width - content.width) / 2, content.height, content.width};
}

Size size_by_area(double height, double width, int64_t side, int64_t step_rows, int64_t step_cols) {
    const double ratio = width / height;
    const int64_t rows = static_cast<int64_t>(static_cast<double>(side) / std::sqrt(ratio));
    const int64_t cols = static_cast<int64_t>(static_cast<double>(rows) * ratio);
    return {snapped(static_cast<double>(rows), step_rows), snapped(static_cast<double>(cols), step_cols)};
}

double most_area_by_area(double low_ratio, double high_ratio, int64_t side, int64_t step_rows, int64_t step_cols) {
    const double rows = static_cast<double>(side) / std::sqrt(low_ratio) * (1 + kRounding);
    const double cols = static_cast<double>(side) * std::sqrt(high_ratio) * (1 + kRounding);
    return area_of({snapped(std::floor(rows), step_rows), snapped(std::floor(cols), step_cols)});
}

double cell_side(int64_t side, int64_t parts) {
    const double of = static_cast<double>(parts);
    const double whole = half_to_even(static_cast<double>(side) / of) * of;
    return std::max(whole, of) / of;
}

Size size_by_edges(const CropRule& crop, Size image) {
    const double ratio = static_cast<double>(image.width) / static_cast<double>(image.height);
    Size size = image;
    const double longest = static_cast<double>(crop.longest_crop_edge);
    if (size.width >= size.height && size.width > crop.longest_crop_edge) {
        size = {static_cast<int64_t>(longest / ratio), crop.longest_crop_edge};
    } else if (size.height > size.width && size.height > crop.longest_crop_edge) {
        size = {crop.longest_crop_edge, static_cast<int64_t>(longest * ratio)};
    }
    return {std::max(size.height, crop.shortest_edge), std::max(size.width, crop.shortest_edge)};
}

Size global_canvas(const CropRule& crop, Size image) {
    switch (crop.global_sizing) {
        case Sizing::kSquare: return {crop.global_size(), crop.global_size()};
        case Sizing::kFeatures: return size_by_features(crop, image);
        case Sizing::kArea:
            return size_by_area(static_cast<double>(image.height), static_cast<double>(image.width), crop.global_size(),
                                crop.patch_size * crop.global_pooling().rows,
                                crop.patch_size * crop.global_pooling().cols);
        case Sizing::kEdges: return size_by_edges(crop, image);
    }
    return {};
}

double most_global_area(const CropRule& crop, const SizeRange& images) {
    const auto ratio = [](int64_t width, int64_t height) { return static_cast<double>(width) / static_cast<double>(height); };
    switch (crop.global_sizing) {
        case Sizing::kSquare: return area_of(global_canvas(crop, images.high));
        case Sizing::kFeatures: return most_area_by_features(crop, images);
        case Sizing::kArea:
            return most_area_by_area(ratio(images.low.width, images.high.height), ratio(images.high.width, images.low.height),
                                     crop.global_size(), crop.patch_size * crop.global_pooling().rows,
                                     crop.patch_size * crop.global_pooling().cols);
        case Sizing::kEdges: {
            const auto within = [&](int64_t side) { return std::max(std::min(side, crop.longest_crop_edge), crop.shortest_edge); };
            return area_of({within(images.high.height), within(images.high.width)});
        }
    }
    return 0;
}

Box source_of(Grid grid, Size image, int64_t row, int64_t col) {
    const int64_t top = image.height * row / grid.rows, bottom = image.height * (row + 1) / grid.rows;
    const int64_t left = image.width * col / grid.cols, right = image.width * (col + 1) / grid.cols;
    return {top, left, bottom - top, right - left};
}

}  // namespace maxcrops
