// One CountFormula at one grid, free of branches. Internal linkage: compiled once per instruction set.
// Exact in doubles: see Note [Integers in doubles].
#pragma once

#include <cmath>

#include "counts.h"

namespace maxcrops {
namespace {

[[maybe_unused]] inline double count_without_map(const CountFormula& f, double rows, double cols) {
    const double crops = rows * cols;
    const double constant = crops > 1.0 ? f.constant[2] : (crops > 0.0 ? f.constant[1] : f.constant[0]);
    return constant + crops * f.per_crop + rows * f.per_row;
}

[[maybe_unused]] inline double count_one(const CountFormula& f, double rows, double cols) {
    const double map_rows = std::floor((rows * f.step_rows + f.base_rows) / f.div_rows);
    const double map_cols = std::floor((cols * f.step_cols + f.base_cols) / f.div_cols);
    const double map = rows * cols > 0.0 ? map_rows * (map_cols + f.col) : 0.0;
    return count_without_map(f, rows, cols) + map;
}

}  // namespace
}  // namespace maxcrops
