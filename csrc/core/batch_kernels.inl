// Included once per instruction set, with MAXCROPS_ISA naming its namespace. Plain loops for the compiler to
// vectorise; nothing from the standard library but the arithmetic of <cmath>, so that no inline function compiled
// for a newer CPU can reach the rest of the program.

#include <cstring>

#include "batch_kernels.h"
#include "count_arithmetic.h"
#include "scale_fit_arithmetic.h"

namespace maxcrops {
namespace MAXCROPS_ISA {
namespace {

// Integers below 2^51 as doubles and back, through the mantissa of 2^52 + x: AVX2 has no 64-bit conversions.
constexpr uint64_t kTwo52Bits = 0x4330000000000000ULL;
constexpr double kTwo52 = 4503599627370496.0;

inline double to_double(uint64_t x) {
    const uint64_t bits = x | kTwo52Bits;
    double value;
    std::memcpy(&value, &bits, sizeof value);
    return value - kTwo52;
}

inline int64_t to_int64(double x) {
    const double shifted = x + kTwo52;
    uint64_t bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    return static_cast<int64_t>(bits ^ kTwo52Bits);
}

bool load_sizes(const int64_t* __restrict sizes, int64_t n, double* __restrict heights, double* __restrict widths) {
    uint64_t seen = 0;  // a side in 1..kMaxSide has no bit from 31 on, nor has the side less 1
    for (int64_t i = 0; i < n; ++i) {
        const uint64_t height = static_cast<uint64_t>(sizes[2 * i]);
        const uint64_t width = static_cast<uint64_t>(sizes[2 * i + 1]);
        seen |= height | (height - 1) | width | (width - 1);
        heights[i] = to_double(height);
        widths[i] = to_double(width);
    }
    return (seen >> 31) == 0;
}

void scale_fit(const ScaleFitParams& params, const double* __restrict heights, const double* __restrict widths,
               int64_t n, double* __restrict rows, double* __restrict cols) {
    const ScaleFitParams p = params;
    for (int64_t i = 0; i < n; ++i) scale_fit_one(p, heights[i], widths[i], &rows[i], &cols[i]);
}

void counts(const CountFormula& formula, const double* __restrict rows, const double* __restrict cols, int64_t n,
            int64_t* __restrict out) {
    const CountFormula f = formula;
    for (int64_t i = 0; i < n; ++i) out[i] = to_int64(count_one(f, rows[i], cols[i]));
}

}  // namespace

const BatchKernels kBatchKernels = {load_sizes, scale_fit, counts};

}  // namespace MAXCROPS_ISA
}  // namespace maxcrops
