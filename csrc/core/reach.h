// How much an image within a range of sizes can cost, so that most sizes need not be tried.
#pragma once

#include <vector>

#include "counts.h"
#include "spec.h"

namespace maxcrops {

// Note [Reach]
// A bound of a count over a range of sizes: the costliest of the grids that its ratios and areas can choose, with the
// largest crops that are sized by them. It need not be attained; it falls to the count as the range becomes one size.
//   closest_ratio: the ratios of grids in rising order divide the line of image ratios at their middles, where rounding
//                  may choose either side; images of a range choose among the grids whose parts it touches. An image
//                  passes the split gate where a smaller one does.
//   log_ratio:     the same by logarithms, among the grids of m - 1, m and m + 1 crops. m grows with the area, so the
//                  grids of up to the smallest m + 1 and from the largest m - 1 on are candidates of every image in the
//                  range: a grid of any of its m that one of those is nearer than everywhere is not chosen.
//   window_snap:   a side becomes floor(side / window + 0.8) windows at most, as a rest of a fifth or less is dropped. A
//                  side is scaled the longer the longer it is and the shorter the other one is.
// Crops of the image's own size: see most_global_area and most_area_by_area.
class Reach {
public:
    // Whether `most` knows the spec's rules.
    static bool covers(const Spec& spec, const Knob& knob);

    // Requires covers(spec, knob). Keeps references to all three.
    Reach(const Spec& spec, const Knob& knob, const CountFormula& formula);

    // No image of the range has a larger count.
    double most(const SizeRange& images) const;

private:
    struct Choice {
        double middle = 0;  // between this ratio and the next one
        double ratio = 0;   // cols / rows
        std::vector<Grid> grids;
    };

    double cost(Grid grid) const;
    double cost_with_crops(Grid grid, const SizeRange& images) const;
    double most_by_ratio(const SizeRange& images) const;
    double most_by_log_ratio(const SizeRange& images) const;
    double most_by_windows(const SizeRange& images) const;
    double most_global(const SizeRange& images, Grid grid) const;

    const Spec& spec_;
    const Knob& knob_;
    const CountFormula& formula_;
    std::vector<Choice> choices_;  // closest_ratio: grids by ratio
};

}  // namespace maxcrops
