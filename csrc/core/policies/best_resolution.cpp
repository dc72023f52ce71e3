#include <algorithm>

#include "grid_policies.h"

namespace maxcrops {
namespace {

// What a resolution keeps of the image and wastes, pixels; compared as a pair.
struct Fitting {
    int64_t effective = -1;
    int64_t wasted = 0;

    bool beats(Fitting other) const {
        return effective != other.effective ? effective > other.effective : wasted < other.wasted;
    }
};

}  // namespace

Size best_resolution(const Knob& knob, Size image) {
    const double height = static_cast<double>(image.height);
    const double width = static_cast<double>(image.width);
    const int64_t original = image.height * image.width;
    const auto fitting = [&](Size entry) {
        // The smaller of two rounded quotients is the smaller quotient, rounded: one division instead of two.
        const bool by_width = entry.width * image.height < entry.height * image.width;
        const double scale = by_width ? static_cast<double>(entry.width) / width : static_cast<double>(entry.height) / height;
        const int64_t scaled = static_cast<int64_t>(width * scale) * static_cast<int64_t>(height * scale);
        const int64_t effective = std::min(scaled, original);
        return Fitting{effective, entry.height * entry.width - effective};
    };
    Size best;
    Fitting of_best;
    for (const Size& entry : knob.resolutions) {
        const Fitting of_entry = fitting(entry);
        if (of_entry.beats(of_best)) {
            best = entry;
            of_best = of_entry;
        }
    }
    return best;
}

}  // namespace maxcrops
