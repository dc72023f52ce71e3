// The searches for a grid, one function each, from an image size alone.
#pragma once

#include "spec.h"

namespace maxcrops {

// What a policy decides.
struct Cut {
    Grid grid;          // local crops
    Size canvas;        // what they are cut from, pixels
    Size intermediate;  // ceil_grid: the size of the resize before the one to the canvas; otherwise {0, 0}
};

// Requires a valid spec, a knob from resolve_knob and 1 <= height, width <= kMaxSide.
Cut cut_image(const Spec& spec, const Knob& knob, Size image);

// scale_fit
//   For every grid of at most max_crops, s = min(rows * T / h, cols * T / w) with T the window and h, w the image
//   less the margins. The smallest s >= 1 if there is one, otherwise the largest s; then the fewest crops.
//   Arithmetic: exact. The upstreams divide in float32 or float64, where quotients of exact integers are
//   correctly rounded; two different scales differ by 1 / (side * max_crops) or more, relatively, so the order is
//   the same while side * max_crops < 2^23. Closed form: with r0 x c0 = ceil(h / T) x ceil(w / T), that grid if it
//   holds at most max_crops; otherwise s* = max over rows of min(rows / h, (max_crops / rows) / w), T cancels, and
//   the grid is ceil(s* h) x ceil(s* w).
//   Reduced sides: a negative one makes every s negative, hence 1 x 1; a zero one leaves the choice to the other
//   side, as 1 px does. clamp_reduced_sides treats negative ones like 1 px too.
Grid scale_fit(const Spec& spec, int64_t max_crops, Size image);

// closest_ratio
//   Candidates by number of crops, then fewer columns first; the smallest |w / h - cols / rows|; on an equal
//   difference the later candidate if h * w > 0.5 * T^2 * crops. No candidate: 1 x 1.
//   Arithmetic: float64 in this order of operations. At mid-points between two ratios rounding decides, and
//   rational arithmetic picks the other grid for one such size in seven.
Grid closest_ratio(const Spec& spec, int64_t max_crops, Size image);

// best_resolution
//   Per entry in order: s = min(W / w, H / h); effective = min(int(w * s) * int(h * s), w * h); wasted =
//   H * W - effective. The largest effective wins, then the smallest waste, then the earlier entry.
//   Arithmetic: float64 products truncated, as int(w * (W / w)) != W for one pair in twenty.
Size best_resolution(const Spec& spec, int64_t max_crops, Size image);

// ceil_grid
//   1. long side to longest_edge (up, too), short side truncated through the ratio, odd values + 1, at least 1;
//   2. the same down to longest_edge_limit, without evening; 3. long side up to whole crops, short side truncated
//   through the ratio, then up to whole crops. One crop or less: not split, {0, 0}.
//   Arithmetic: float64 truncation, which differs from an exact floor for one size in 20 000.
Cut ceil_grid(const Spec& spec, int64_t longest_edge, Size image);

}  // namespace maxcrops
