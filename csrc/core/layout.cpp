#include "layout.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

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

Size letterbox_ceil(Size image, Size canvas) {
    const double height = static_cast<double>(image.height);
    const double width = static_cast<double>(image.width);
    const double scale_h = static_cast<double>(canvas.height) / height;
    const double scale_w = static_cast<double>(canvas.width) / width;
    if (scale_w < scale_h) {
        return {std::min(static_cast<int64_t>(std::ceil(height * scale_w)), canvas.height), canvas.width};
    }
    return {canvas.height, std::min(static_cast<int64_t>(std::ceil(width * scale_h)), canvas.width)};
}

Box place(Fit fit, Size image, Size canvas) {
    Size content = canvas;
    if (fit == Fit::kLetterboxTrunc) content = letterbox_trunc(image, canvas);
    if (fit == Fit::kLetterboxCeil) content = letterbox_ceil(image, canvas);
    return {(canvas.height - content.height) / 2, (canvas.width - content.width) / 2, content.height, content.width};
}

Box content_of(const Spec& spec, const Cut& cut, Size image) {
    return place(cut.grid.count() > 0 ? spec.crop.fit : spec.crop.global_fit, image, cut.canvas);
}

// A side that a letterbox truncates to 0 px keeps less than 1 px; 1 px keeps the scale positive.
double smallest_scale(Size image, Size content, Size intermediate) {
    const auto ratio = [](int64_t to, int64_t from) {
        return static_cast<double>(std::max<int64_t>(to, 1)) / static_cast<double>(from);
    };
    const auto of = [&](Size size) { return std::min(ratio(size.height, image.height), ratio(size.width, image.width)); };
    return intermediate.height > 0 ? std::min(of(content), of(intermediate)) : of(content);
}

}  // namespace

void validate_image(Size image) {
    const auto check = [](const char* side, int64_t value) {
        if (value < 1 || value > kMaxSide) {
            throw std::invalid_argument(std::string("[layout] ") + side + " must be in 1.." + std::to_string(kMaxSide) +
                                        " pixels, got " + std::to_string(value));
        }
    };
    check("height", image.height);
    check("width", image.width);
}

Layout make_layout(const Spec& spec, const Knob& knob, Size image) {
    validate_image(image);
    const Cut cut = cut_image(spec, knob, image);
    const auto count = [&](Count what) {
        return count_of(spec, count_formula(spec, what), cut.grid, cut.canvas, image);
    };
    Layout layout;
    layout.image = image;
    layout.grid = cut.grid;
    layout.canvas = cut.canvas;
    layout.content = content_of(spec, cut, image);
    layout.intermediate = cut.intermediate;
    layout.has_global = spec.crop.has_global(cut.grid);
    layout.num_crops = count(Count::kCrops);
    layout.sequence_tokens = count(Count::kSequenceTokens);
    layout.connector_outputs = count(Count::kConnectorOutputs);
    layout.vit_patches = count(Count::kVitPatches);
    layout.crop = spec.crop;
    return layout;
}

std::vector<View> Layout::views() const {
    const int64_t side = crop.crop_size;
    std::vector<View> views;
    const bool chained = intermediate.height > 0;
    if (grid.count() > 0) {
        View local;
        if (chained) local.resizes.push_back(intermediate);
        local.resizes.push_back({content.height, content.width});
        local.canvas = canvas;
        local.content = content;
        for (int64_t row = 0; row < grid.rows; ++row) {
            for (int64_t col = 0; col < grid.cols; ++col) {
                const int64_t top = row * crop.window_size();
                const int64_t left = col * crop.window_size();
                // Only where a canvas is no multiple of the crop size is the last crop smaller.
                local.crops.push_back(
                    {top, left, std::min(side, canvas.height - top), std::min(side, canvas.width - left)});
            }
        }
        views.push_back(local);
    }
    if (has_global) {
        View global;
        global.is_global = true;
        global.from_local_canvas = chained && grid.count() > 0;
        if (chained && grid.count() == 0) global.resizes.push_back(intermediate);
        const Size square{side, side};
        const Box box = place(crop.global_fit, image, square);
        global.resizes.push_back({box.height, box.width});
        global.canvas = square;
        global.content = box;
        global.crops.push_back({0, 0, side, side});
        views.insert(crop.global_first ? views.begin() : views.end(), global);
    }
    return views;
}

double Layout::scale() const { return smallest_scale(image, {content.height, content.width}, intermediate); }

double scale_of(const Spec& spec, const Cut& cut, Size image) {
    const Box content = content_of(spec, cut, image);
    return smallest_scale(image, {content.height, content.width}, cut.intermediate);
}

}  // namespace maxcrops
