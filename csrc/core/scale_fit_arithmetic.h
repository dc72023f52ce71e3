// The closed form of scale_fit for one image, free of branches, so that a compiler can vectorise a loop of it.
// Everything here has internal linkage: it is compiled once per instruction set.
//
// Note [Integers in doubles]
// Sides are below 2^31 and crop counts at most 2^20, so products of the two stay below 2^51 and are exact. A
// quotient a / b of such integers that is not whole lies at least 1 / b > 2^-31 from the next integer, while its
// rounding error is below 2^20 * 2^-53 = 2^-33: ceil and floor of the rounded quotient are those of the exact one.
#pragma once

#include <cmath>
#include <cstdint>

#include "spec.h"

namespace maxcrops {

struct ScaleFitParams {
    double window = 0;            // pixels
    double margin = 0;            // pixels, both sides together
    double max_crops = 0;
    double smallest_reduced = 0;  // a reduced side below this leaves one crop: 0, or -inf when clamped
    double most_unscaled = 0;     // crops that an image may take without being shrunk: max_crops, or none where the
                                  // largest upscaling is wanted
};

namespace {

[[maybe_unused]] inline ScaleFitParams scale_fit_params(const Spec& spec, int64_t max_crops) {
    return {static_cast<double>(spec.crop.window_size()), static_cast<double>(spec.crop.margin_size()),
            static_cast<double>(max_crops), spec.grid.clamp_reduced_sides ? -4294967296.0 : 0.0,
            spec.grid.largest_upscaling ? 0.0 : static_cast<double>(max_crops)};
}

[[maybe_unused]] inline double larger(double a, double b) { return a > b ? a : b; }
[[maybe_unused]] inline double smaller(double a, double b) { return a < b ? a : b; }

[[maybe_unused]] inline void scale_fit_one(const ScaleFitParams& p, double height, double width, double* rows,
                                           double* cols) {
    const double reduced_h = height - p.margin;
    const double reduced_w = width - p.margin;
    const bool one_crop = smaller(reduced_h, reduced_w) < p.smallest_reduced;
    const double h = one_crop ? 1.0 : larger(reduced_h, 1.0);
    const double w = one_crop ? 1.0 : larger(reduced_w, 1.0);

    const double upscaled_rows = std::ceil(h / p.window);
    const double upscaled_cols = std::ceil(w / p.window);
    const bool fits = upscaled_rows * upscaled_cols <= p.most_unscaled;

    // s* times both sides, as an integer: max over q of min(q * b, floor(N / q) * a) for a = short, b = long. The
    // first q with q * b >= floor(N / q) * a lies within 1/2 below sqrt(N a / b), as a <= b; it or the one before
    // it is the best. The factor keeps the rounded root from falling below an integer that it equals.
    const double a = smaller(h, w);
    const double b = larger(h, w);
    const double last = std::ceil(std::sqrt(p.max_crops * a / b) * (1.0 + 1e-12));
    const double q0 = larger(last - 2.0, 1.0);
    const double q1 = larger(last - 1.0, 1.0);
    const double s0 = smaller(q0 * b, std::floor(p.max_crops / q0) * a);
    const double s1 = smaller(q1 * b, std::floor(p.max_crops / q1) * a);
    const double s2 = smaller(last * b, std::floor(p.max_crops / last) * a);
    const double best = larger(s0, larger(s1, s2));

    *rows = fits ? upscaled_rows : std::ceil(best / w);
    *cols = fits ? upscaled_cols : std::ceil(best / h);
}

}  // namespace
}  // namespace maxcrops
