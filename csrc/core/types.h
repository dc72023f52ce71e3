// Sizes, grids and boxes. Height before width, rows before columns, always.
#pragma once

#include <cmath>
#include <cstdint>

namespace maxcrops {

// Sides of at most 2^31 - 1 pixels and knobs of at most 2^20 crops keep every product of a side and a
// crop count below 2^51, so that integer arithmetic in doubles is exact (see grid_policies.h).
constexpr int64_t kMaxSide = (int64_t{1} << 31) - 1;
constexpr int64_t kMaxCropsLimit = int64_t{1} << 20;

struct Size {  // pixels
    int64_t height = 0;
    int64_t width = 0;
};

struct SizeRange {  // every height and every width from the one to the other, both included
    Size low;
    Size high;
};

struct Grid {  // local crops; {0, 0}: the image is not split and only the global crop exists
    int64_t rows = 0;
    int64_t cols = 0;

    constexpr int64_t count() const { return rows * cols; }
};

struct Box {  // pixels
    int64_t top = 0;
    int64_t left = 0;
    int64_t height = 0;
    int64_t width = 0;
};

constexpr bool operator==(const Size& a, const Size& b) { return a.height == b.height && a.width == b.width; }
constexpr bool operator==(const Grid& a, const Grid& b) { return a.rows == b.rows && a.cols == b.cols; }
constexpr bool operator!=(const Grid& a, const Grid& b) { return !(a == b); }
constexpr bool operator==(const Box& a, const Box& b) {
    return a.top == b.top && a.left == b.left && a.height == b.height && a.width == b.width;
}
constexpr bool operator!=(const Box& a, const Box& b) { return !(a == b); }

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline int64_t floor_sqrt(int64_t n) {
    int64_t root = static_cast<int64_t>(std::sqrt(static_cast<double>(n)));
    while (root * root > n) --root;
    while ((root + 1) * (root + 1) <= n) ++root;
    return root;
}

}  // namespace maxcrops
