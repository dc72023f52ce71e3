#include <algorithm>
#include <cmath>
#include <utility>

#include "grid_policies.h"

namespace maxcrops {
namespace {

// What is left of a cell's area once its long side is scaled down to `side`; a whole number if it need not be.
struct Cell {
    double area;
    bool is_whole;
};

Cell covered(int64_t height, int64_t width, double side) {
    double longer = static_cast<double>(std::max(height, width));
    double shorter = static_cast<double>(std::min(height, width));
    if (longer <= side) return {longer * shorter, true};
    shorter = shorter / longer * side;
    return {side * shorter, false};
}

// sum() of Python, which from 3.12 on carries what each addition of two floats loses (Neumaier).
class PythonSum {
public:
    explicit PythonSum(bool compensated) : compensated_(compensated) {}

    void add(Cell cell) {
        const bool carries = compensated_ && has_float_ && !cell.is_whole;
        has_float_ = has_float_ || !cell.is_whole;
        const double sum = sum_ + cell.area;
        if (carries) {
            lost_ += std::fabs(sum_) >= std::fabs(cell.area) ? (sum_ - sum) + cell.area : (cell.area - sum) + sum_;
        }
        sum_ = sum;
    }

    double total() const { return sum_ + lost_; }

private:
    bool compensated_;
    bool has_float_ = false;
    double sum_ = 0, lost_ = 0;
};

// The shares of the image's area that grids keep.
class Shares {
public:
    Shares(Size image, int64_t crop_size, bool compensated)
        : image_(image),
          compensated_(compensated),
          side_(static_cast<double>(crop_size)),
          height_(static_cast<double>(image.height)),
          width_(static_cast<double>(image.width)),
          area_(static_cast<double>(image.height) * static_cast<double>(image.width)) {}

    // A cell with a side of l > T keeps T^2 / l^2 of its area or less, and no side of a cell is below h // rows or
    // w // cols. So a grid that keeps a share has none longer than this, but for rounding.
    double longest_side(double share) const { return std::floor(side_ / std::sqrt(share) * (1.0 + kTolerance)); }

    // Whether h // rows and w // cols are at most `longest`.
    bool can_keep(Grid grid, double longest) const {
        return height_ < static_cast<double>(grid.rows) * (longest + 1.0) && width_ < static_cast<double>(grid.cols) * (longest + 1.0);
    }

    // Within kTolerance of the exact share.
    double nearly(Grid grid) const {
        const Cells cells = cells_of(grid);
        const double rows = static_cast<double>(grid.rows - 1), cols = static_cast<double>(grid.cols - 1);
        return (rows * (cols * cells.inner.area + cells.last_col.area) + cols * cells.last_row.area + cells.corner.area) / area_;
    }

    // The cells summed row by row, as the upstream's sum() does.
    double exactly(Grid grid) const {
        const Cells cells = cells_of(grid);
        PythonSum sum(compensated_);
        for (int64_t row = 0; row < grid.rows; ++row) {
            const bool is_last = row == grid.rows - 1;
            for (int64_t col = 0; col + 1 < grid.cols; ++col) sum.add(is_last ? cells.last_row : cells.inner);
            sum.add(is_last ? cells.corner : cells.last_col);
        }
        return sum.total() / area_;
    }

    bool above(Grid grid, double nearly, double threshold) const {
        return std::fabs(nearly - threshold) > kTolerance ? nearly > threshold : exactly(grid) > threshold;
    }

    // Whether a keeps more than b.
    bool more(Grid a, double nearly_a, Grid b, double nearly_b) const {
        return std::fabs(nearly_a - nearly_b) > kTolerance ? nearly_a > nearly_b : exactly(a) > exactly(b);
    }

private:
    // Of sums of at most 1024 terms in float64: 1024 * 2^-53 is 1.1e-13.
    static constexpr double kTolerance = 1e-12;

    struct Cells {
        Cell inner, last_col, last_row, corner;
    };

    Cells cells_of(Grid grid) const {
        const int64_t height = image_.height / grid.rows, width = image_.width / grid.cols;
        const int64_t last_height = image_.height - (grid.rows - 1) * height;
        const int64_t last_width = image_.width - (grid.cols - 1) * width;
        return {covered(height, width, side_), covered(height, last_width, side_), covered(last_height, width, side_),
                covered(last_height, last_width, side_)};
    }

    Size image_;
    bool compensated_;
    double side_, height_, width_, area_;
};

}  // namespace

std::vector<Candidate> covering_area_candidates(int64_t max_crops) {
    std::vector<Candidate> candidates;
    for (int64_t crops = 1; crops <= max_crops; ++crops) {
        for (int64_t rows = 1; rows <= crops; ++rows) {
            if (crops % rows == 0) candidates.push_back({{rows, crops / rows}});
        }
    }
    return candidates;
}

Grid covering_area(const Spec& spec, const Knob& knob, Size image) {
    const Shares shares(image, spec.crop.crop_size, spec.grid.compensated_sum);
    Grid best;
    double most = -1;
    const auto offer = [&](Grid grid, double kept, bool wins_ties) {
        if (best.count() == 0 || (wins_ties ? !shares.more(best, most, grid, kept) : shares.more(grid, kept, best, most))) {
            best = grid;
            most = kept;
        }
    };
    double longest = shares.longest_side(spec.grid.covering_threshold);
    for (const Candidate& candidate : knob.candidates) {
        const Grid grid = candidate.grid;
        if (best.count() > 0 && grid.count() > best.count()) break;
        if (!shares.can_keep(grid, longest)) continue;
        const double kept = shares.nearly(grid);
        if (shares.above(grid, kept, spec.grid.covering_threshold)) offer(grid, kept, false);
    }
    if (best.count() == 0) {  // from the largest down; the earlier wins ties
        longest = kMaxSide;
        for (auto candidate = knob.candidates.rbegin(); candidate != knob.candidates.rend(); ++candidate) {
            if (!shares.can_keep(candidate->grid, longest)) continue;
            offer(candidate->grid, shares.nearly(candidate->grid), true);
            longest = shares.longest_side(most);
        }
    }
    if (spec.grid.transposed) std::swap(best.rows, best.cols);
    return best;
}

}  // namespace maxcrops
