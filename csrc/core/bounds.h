// Exact maxima of the counts over all image sizes, and their inverse.
#pragma once

#include <optional>
#include <vector>

#include "layout.h"
#include "spec.h"

namespace maxcrops {

struct Bound {
    int64_t count = 0;  // the maximum
    Layout layout;      // of an image that attains it: layout.image is the witness
};

// Images that are considered.
struct SizeLimit {
    int64_t max_side = kMaxSide;  // pixels
    double max_ratio = 0;         // of the long side to the short one; 0: any
    int num_threads = 1;
};

// Whether the count has a maximum over all images that says anything. It has none where crops keep the image's ratio
// and cost what their size makes, nor where windows shrink with the short side: both grow with the ratio.
bool is_bounded(const Spec& spec, Count count);

// Note [Bounds]
// Every grid that a policy can choose has an image size that makes it choose that grid, and unpadding only removes
// features; so the maximum over all images is the maximum over one witness per grid. Every coefficient of a count is
// at least 0, so only grids matter that have no room for another row or column, from the costliest down until one is
// attained.
//   scale_fit:       (rows * T + margins, cols * T + margins): s = 1 is reached by that grid first.
//   closest_ratio:   with rows : cols = k * (r : c) in lowest terms, (r * s, c * s) with s the least integer above
//                    T * k / sqrt(2): equal differences are decided by h * w > T^2 * crops / 2, which holds for k and
//                    not for k + 1. A grid without room for more is the largest of its ratio, so that images beyond a
//                    split gate choose it as well.
//   log_ratio:       (rows * T, cols * T): the area fills that many crops, the error is 0.
//   covering_area:   (rows * s, cols * s) with s the largest side of which T^2 / s^2 is above the threshold t: each
//                    crop keeps just more than t, and fewer crops cannot.
//   largest_canvas:  (rows * T, cols * T): no other grid without room for more holds it.
//   pan_and_scan:    a short side of the least slice, and a long one of max_crops of them.
//   best_resolution: each listed size itself: it is kept whole, and every larger one wastes more. Where the feature
//                    map has another ratio than its resolution (a crop size that does not divide it), such an image is
//                    unpadded; then all images that fill one side of the resolution. At one ratio, a resolution that is
//                    chosen at all is chosen by the image that just fits it; the count grows as the ratio nears the
//                    map's, so its maximum lies at the map's ratio or at the edge to another resolution. Where large
//                    maps are scaled down it does not grow, and all those images are tried.
//   ceil_grid:       the long side always ends on the same length, and an even short side stays what it is: all even
//                    short sides, 1 px (through a ratio beyond the longest edge) and the square.
//
// Images that the model's own processor raises for count like others here, but not within a limit on sizes.
// With one: where there is a maximum over all images, its witness, if it is within the limit; otherwise by
// Note [Reach] where that covers the policy; otherwise every image within the limit is tried, max_side squared, at some 20
// to 100 ns each.
std::vector<Bound> worst_cases(const Spec& spec, const Knob& knob, const std::vector<Count>& counts,
                               const SizeLimit& limit);

Bound worst_case(const Spec& spec, const Knob& knob, Count count);

// The largest max_crops whose bound is at most max_count, within knob_range; none if already the first exceeds it.
// The grids that a larger max_crops can choose include those of a smaller one, so bounds do not fall.
std::optional<int64_t> largest_max_crops(const Spec& spec, Count count, int64_t max_count,
                                         const std::optional<SizeLimit>& limit = std::nullopt);

}  // namespace maxcrops
