// The largest counts among the images within a limit on sizes that the model's own processor takes.
#pragma once

#include <vector>

#include "bounds.h"
#include "counts.h"

namespace maxcrops {

struct Worst {
    int64_t count = -1;
    Size image;
};

bool is_within(const SizeLimit& limit, Size image);

// Of each formula the image of the largest count, every size tried; of equal counts the smaller image.
std::vector<Worst> worst_of_all(const Spec& spec, const Knob& knob, const std::vector<CountFormula>& formulas,
                                const SizeLimit& limit);

// The same of one formula where Reach covers the rules: ranges of sizes are halved, the one that can cost most first, and
// left where they cannot cost more than an image that was found. It may be another image of the same count.
Worst worst_by_reach(const Spec& spec, const Knob& knob, const CountFormula& formula, const SizeLimit& limit);

}  // namespace maxcrops
