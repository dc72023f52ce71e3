#include "layout.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "placement.h"

namespace maxcrops {
namespace {

bool has_parts(const Spec& spec, Grid grid) {
    return grid.count() > 0 && (spec.grid.policy == GridPolicy::kPanAndScan || spec.crop.sizing == Sizing::kEdges);
}

// Slices are of one length, rounded up; the last may be shorter.
Box slice_of(Grid grid, Size image, int64_t row, int64_t col) {
    const Size slice{ceil_div(image.height, grid.rows), ceil_div(image.width, grid.cols)};
    const Box box{row * slice.height, col * slice.width, slice.height, slice.width};
    return {box.top, box.left, std::min(box.height, image.height - box.top), std::min(box.width, image.width - box.left)};
}

Box content_of(const Spec& spec, const Cut& cut, Size image) {
    if (cut.grid.count() > 0) return place(spec.crop.fit, image, cut.canvas, spec.crop.crop_size);
    return place(spec.crop.global_fit, image, cut.canvas, spec.crop.global_size());
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

bool is_refused(const Spec& spec, const Cut& cut, Size image) {
    const CropRule& crop = spec.crop;
    const Grid grid = cut.grid;
    if (cut.vanishes) return true;
    if (has_parts(spec, grid)) {
        const Box last = crop.sizing == Sizing::kEdges ? source_of(grid, image, 0, 0) : slice_of(grid, image, grid.rows - 1, grid.cols - 1);
        return last.height <= 0 || last.width <= 0;
    }
    const auto is_short = [&](const Box& content) { return std::min(content.height, content.width) < crop.min_content_side; };
    if (crop.min_content_side > 0 && grid.count() > 0 && is_short(content_of(spec, cut, image))) return true;
    if (!crop.has_global(grid)) return false;
    if (crop.min_content_side > 0 && is_short(place(crop.global_fit, image, global_canvas(crop, image), crop.global_size()))) return true;
    if (crop.global_sizing != Sizing::kFeatures || grid.count() == 0) return false;
    const int64_t patches = cut.global.height / crop.patch_size * (cut.global.width / crop.patch_size);
    return patches > std::max(crop.max_features * crop.global_pooling().count(), crop.crop_patches() * crop.crop_patches());
}

Layout make_layout(const Spec& spec, const Knob& knob, Size image) {
    validate_image(image);
    const Cut cut = cut_image(spec, knob, image);
    const auto count = [&](Count what) {
        return count_of(spec, count_formula(spec, knob, what), cut, image);
    };
    Layout layout;
    layout.image = image;
    layout.grid = cut.grid;
    layout.canvas = cut.canvas;
    layout.content = content_of(spec, cut, image);
    layout.intermediate = cut.intermediate;
    layout.tile = cut.crop;
    layout.from_parts = has_parts(spec, cut.grid);
    layout.has_global = spec.crop.has_global(cut.grid);
    layout.is_refused = is_refused(spec, cut, image);
    layout.num_crops = count(Count::kCrops);
    layout.sequence_tokens = count(Count::kSequenceTokens);
    layout.connector_outputs = count(Count::kConnectorOutputs);
    layout.vit_patches = count(Count::kVitPatches);
    layout.cross_attention_keys = count(Count::kCrossAttentionKeys);
    layout.crop = spec.crop;
    return layout;
}

std::vector<View> Layout::part_views() const {
    std::vector<View> views;
    for (int64_t row = 0; row < grid.rows; ++row) {
        for (int64_t col = 0; col < grid.cols; ++col) {
            View view;
            const bool has_own_size = crop.sizing == Sizing::kEdges;
            view.source = has_own_size ? source_of(grid, image, row, col) : slice_of(grid, image, row, col);
            view.canvas = has_own_size ? size_by_edges(crop, {view.source.height, view.source.width}) : tile;
            view.content = {0, 0, view.canvas.height, view.canvas.width};
            view.resizes.push_back(view.canvas);
            view.crops.push_back(view.content);
            views.push_back(view);
        }
    }
    return views;
}

View Layout::local_view() const {
    View local;
    local.source = {0, 0, image.height, image.width};
    if (intermediate.height > 0) local.resizes.push_back(intermediate);
    local.resizes.push_back({content.height, content.width});
    local.canvas = canvas;
    local.content = content;
    const Size step{tile.height - crop.margin_size(), tile.width - crop.margin_size()};
    for (int64_t row = 0; row < grid.rows; ++row) {
        for (int64_t col = 0; col < grid.cols; ++col) {
            const int64_t top = row * step.height;
            const int64_t left = col * step.width;
            // Only where a canvas is no multiple of the crop size is the last crop smaller.
            local.crops.push_back(
                {top, left, std::min(tile.height, canvas.height - top), std::min(tile.width, canvas.width - left)});
        }
    }
    return local;
}

View Layout::global_view() const {
    View global;
    const bool chained = intermediate.height > 0;
    global.source = {0, 0, image.height, image.width};
    global.is_global = true;
    global.from_local_canvas = chained && grid.count() > 0;
    if (chained && grid.count() == 0) global.resizes.push_back(intermediate);
    global.canvas = global_canvas(crop, image);
    global.content = place(crop.global_fit, image, global.canvas, crop.global_size());
    global.resizes.push_back({global.content.height, global.content.width});
    global.crops.push_back({0, 0, global.canvas.height, global.canvas.width});
    return global;
}

std::vector<View> Layout::views() const {
    std::vector<View> views;
    if (from_parts) views = part_views();
    if (!from_parts && grid.count() > 0) views.push_back(local_view());
    if (has_global) views.insert(crop.global_first ? views.begin() : views.end(), global_view());
    return views;
}

double Layout::scale() const { return smallest_scale(image, {content.height, content.width}, intermediate); }

double scale_of(const Spec& spec, const Cut& cut, Size image) {
    const Box content = content_of(spec, cut, image);
    return smallest_scale(image, {content.height, content.width}, cut.intermediate);
}

}  // namespace maxcrops
