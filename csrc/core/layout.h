// The Layout of one image: what happens to it, in integers. Executors only execute it.
#pragma once

#include <vector>

#include "counts.h"
#include "grid_policies.h"
#include "spec.h"

namespace maxcrops {

// One resize of the image, or of a part of it, onto a canvas from which crops are cut.
struct View {
    Box source;  // of the image, pixels
    bool is_global = false;
    bool from_local_canvas = false;  // its source is the local view's canvas instead of the image
    std::vector<Size> resizes;       // in order; the last is the size of the content on the canvas
    Size canvas;
    Box content;                     // where the content lies; the rest of the canvas is padding
    std::vector<Box> crops;          // windows of the canvas, margins included, in the order of the encoder's input
};

struct Layout {
    Size image;
    Grid grid;
    Size canvas;        // of the local crops, or of the only crop
    Box content;        // of the image on it
    Size intermediate;  // a resize before the one to the canvas, or {0, 0}
    Size tile;          // a local crop on the canvas, margins included
    bool from_parts = false;  // each local crop is cut from the image, then resized on its own
    bool has_global = false;
    bool is_refused = false;
    int64_t num_crops = 0;  // local and global
    int64_t sequence_tokens = 0;
    int64_t connector_outputs = 0;
    int64_t vit_patches = 0;
    int64_t cross_attention_keys = 0;
    CropRule crop;

    // In the order in which the crops reach the encoder.
    std::vector<View> views() const;

    // Linear scale of the image's detail, the smaller of both axes over all resizes; below 1, detail is lost.
    double scale() const;

private:
    std::vector<View> part_views() const;
    View local_view() const;
    View global_view() const;
};

// Layout::scale from a cut alone.
double scale_of(const Spec& spec, const Cut& cut, Size image);

// Throws std::invalid_argument unless 1 <= height, width <= kMaxSide.
void validate_image(Size image);

// Whether the model's own processor raises for the image:
//   a part of the image, or a side of it once scaled, has no pixels left to be resized;
//   a side of the content on a canvas is shorter than min_content_side;
//   a global crop of the image's own size has more patches than a row of the batch that holds the local crops.
bool is_refused(const Spec& spec, const Cut& cut, Size image);

Layout make_layout(const Spec& spec, const Knob& knob, Size image);

}  // namespace maxcrops
