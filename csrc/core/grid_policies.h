// The searches for a grid, one function each, from an image size alone.
#pragma once

#include "spec.h"

namespace maxcrops {

// What a policy decides.
struct Cut {
    Grid grid;          // local crops
    Size canvas;        // what they are cut from, pixels; of the only crop where the image is not split
    Size intermediate;  // ceil_grid: the size of the resize before the one to the canvas; otherwise {0, 0}
    Size crop;          // of a local crop on the canvas, margins included
    Size global;        // of the global crop's canvas
    bool vanishes = false;  // window_snap: a side is scaled down to 0 px, by which the upstream divides; here it is 1 px
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
//   the grid is ceil(s* h) x ceil(s* w). largest_upscaling takes the largest s in any case: the second form alone.
//   Reduced sides: a negative one makes every s negative, hence 1 x 1; a zero one leaves the choice to the other
//   side, as 1 px does. clamp_reduced_sides treats negative ones like 1 px too.
Grid scale_fit(const Spec& spec, int64_t max_crops, Size image);

// closest_ratio
//   Candidates by number of crops, then fewer columns first; the smallest |w / h - cols / rows|; on an equal
//   difference the later candidate if h * w > 0.5 * T^2 * crops. No candidate: 1 x 1.
//   Arithmetic: float64 in this order of operations. At mid-points between two ratios rounding decides, and
//   rational arithmetic picks the other grid for one such size in seven.
//   Images that the split gate leaves out: {0, 0}, or with kAboveGrid ceil(h / T) x ceil(w / T).
Grid closest_ratio(const Spec& spec, int64_t max_crops, Size image);

// best_resolution
//   Per entry in order: s = min(W / w, H / h); effective = min(int(w * s) * int(h * s), w * h); wasted =
//   H * W - effective. The largest effective wins, then the smallest waste, then the earlier entry.
//   Arithmetic: float64 products truncated, as int(w * (W / w)) != W for one pair in twenty.
Size best_resolution(const Knob& knob, Size image);

// ceil_grid
//   1. long side to longest_edge (up, too), short side truncated through the ratio, odd values + 1, at least 1;
//   2. the same down to longest_edge_limit, without evening; 3. long side up to whole crops, short side truncated
//   through the ratio, then up to whole crops. One crop or less: not split, {0, 0}.
//   Arithmetic: float64 truncation, which differs from an exact floor for one size in 20 000.
Cut ceil_grid(const Spec& spec, int64_t longest_edge, Size image);

// log_ratio
//   m = min(ceil(h * w / T^2), max_crops); one or less: not split. Of all grids of m - 1, m and m + 1 crops (not 1, not
//   more than max_crops), by crops, then rows: the smallest |ln(w / h) - ln(cols / rows)|; of equals the one with more
//   rows.
//   Arithmetic: float64 and the platform's log, whose last bit decides exact ties (squares among them).
Grid log_ratio(const Spec& spec, const Knob& knob, Size image);
std::vector<Candidate> log_ratio_candidates(int64_t max_crops);

// covering_area
//   Per grid, by crops, then rows: cells of h // rows x w // cols, the last ones with the rest, each shrunk until its
//   long side is T; the share of h * w that is left. Of those above the threshold the fewest crops, then the largest
//   share; if there is none, the largest share, then the fewest crops.
//   Arithmetic: float64, the cells summed row by row by Python's sum(), whose answer Python 3.12 changed: it decides one
//   size in thirty.
Grid covering_area(const Spec& spec, const Knob& knob, Size image);
std::vector<Candidate> covering_area_candidates(int64_t max_crops);

// largest_canvas
//   Grids by ratio in the order in which ratios are met going down from max_crops, columns rising. Of the canvases that
//   hold the image unscaled, the one in which its short side becomes longest, the later of equals. If none does: the
//   nearest ratio cols / rows <= w / h for a landscape or square image, > w / h measured on the inverse for a portrait
//   one, and its largest grid.
//   Arithmetic: float64; the side is floor((s * w) / (w / h)) with s = min(cols * T / w, rows * T / h), its mirror
//   image, or s * h without rounding for a square.
Grid largest_canvas(const Spec& spec, const Knob& knob, Size image);
void list_canvases(Knob& knob);  // sets what the search looks up

// pan_and_scan
//   a = long / short; below min_ratio: not sliced. max(2, min(long // min_slice_size, floor(a + 0.5))) slices along the
//   long side, at most max_crops; none if ceil(long / slices) or the short side is below min_slice_size.
Grid pan_and_scan(const Spec& spec, int64_t max_crops, Size image);

// window_snap
//   1. A side under 32 px at a ratio above 4: a square of the long side. 2. Longer than max_image_size: both sides
//   int(side * (max_image_size / long)). 3. The window: where the long side fits the global crop, the short side at a
//   ratio above 1.5, otherwise none; else T, or min(short, T) at a ratio above 4. 4. Each side of at least a window is
//   rounded to windows, up from a rest of more than a fifth of one.
Cut window_snap(const Spec& spec, int64_t max_image_size, Size image);
// At most the rows and at most the columns that it chooses for any of the images. See Note [Reach].
Grid most_windows(const Spec& spec, int64_t max_image_size, const SizeRange& images);

}  // namespace maxcrops
