// The inner loops of batch counting, compiled once per instruction set from batch_kernels.inl.
#pragma once

#include <cstdint>

#include "counts.h"
#include "cpu_features.h"
#include "scale_fit_arithmetic.h"

namespace maxcrops {

struct BatchKernels {
    // sizes [n, 2] (height, width) to doubles; false if any side is not in 1..kMaxSide.
    bool (*load_sizes)(const int64_t* sizes, int64_t n, double* heights, double* widths);
    void (*scale_fit)(const ScaleFitParams& params, const double* heights, const double* widths, int64_t n, double* rows,
                      double* cols);
    void (*counts)(const CountFormula& formula, const double* rows, const double* cols, int64_t n, int64_t* out);
};

namespace scalar { extern const BatchKernels kBatchKernels; }
namespace avx2 { extern const BatchKernels kBatchKernels; }
namespace avx512 { extern const BatchKernels kBatchKernels; }

const BatchKernels& batch_kernels(Isa isa);

}  // namespace maxcrops
