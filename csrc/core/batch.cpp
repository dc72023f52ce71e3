#include "batch.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "batch_kernels.h"
#include "grid_policies.h"
#include "layout.h"
#include "parallel.h"

namespace maxcrops {
namespace {

constexpr int64_t kBlock = 512;           // 20 KiB of doubles: within the L1 cache
constexpr int64_t kRowsPerThread = 16384;  // below it, starting a thread costs more than it saves

// Calls work(begin, end) for consecutive ranges of 0..n and rethrows the error of the first range that failed.
template <typename Work>
void for_ranges(int64_t n, int num_threads, const Work& work) {
    const int64_t useful = std::max<int64_t>(1, n / kRowsPerThread);
    const int64_t parts = std::min<int64_t>(std::max(num_threads, 1), useful);
    for_parts(parts, [&](int64_t part) { work(n * part / parts, n * (part + 1) / parts); });
}

void require_sizes(const int64_t* sizes, int64_t begin, int64_t count) {
    for (int64_t i = begin; i < begin + count; ++i) {
        const int64_t height = sizes[2 * i];
        const int64_t width = sizes[2 * i + 1];
        if (height < 1 || height > kMaxSide || width < 1 || width > kMaxSide) {
            throw std::invalid_argument("[batch] sizes[" + std::to_string(i) + "] must have (height, width) in 1.." +
                                        std::to_string(kMaxSide) + " pixels, got (" + std::to_string(height) + ", " +
                                        std::to_string(width) + ")");
        }
    }
}

// Calls use(image, i) for every row of sizes.
template <typename Use>
void for_each_image(const int64_t* sizes, int64_t n, int num_threads, const Use& use) {
    for_ranges(n, num_threads, [&](int64_t begin, int64_t end) {
        require_sizes(sizes, begin, end - begin);
        for (int64_t i = begin; i < end; ++i) use(Size{sizes[2 * i], sizes[2 * i + 1]}, i);
    });
}

// Calls use(rows, cols, begin, count) for blocks of grids, as doubles. Only for policies whose counts depend on
// the grid alone.
template <typename Use>
void for_each_scale_fit_block(const Spec& spec, const Knob& knob, const BatchKernels& kernels, const int64_t* sizes,
                              int64_t n, int num_threads, const Use& use) {
    const ScaleFitParams params = scale_fit_params(spec, knob.max_crops);
    for_ranges(n, num_threads, [&](int64_t begin, int64_t end) {
        alignas(64) double heights[kBlock], widths[kBlock], rows[kBlock], cols[kBlock];
        for (int64_t i = begin; i < end; i += kBlock) {
            const int64_t count = std::min(kBlock, end - i);
            if (!kernels.load_sizes(sizes + 2 * i, count, heights, widths)) require_sizes(sizes, i, count);
            kernels.scale_fit(params, heights, widths, count, rows, cols);
            use(rows, cols, i, count);
        }
    });
}

}  // namespace

const BatchKernels& batch_kernels(Isa isa) {
#if defined(MAXCROPS_X86_KERNELS)
    if (isa == Isa::kAvx512) return avx512::kBatchKernels;
    if (isa == Isa::kAvx2) return avx2::kBatchKernels;
#endif
    (void)isa;
    return scalar::kBatchKernels;
}

void count_batch(const Spec& spec, const Knob& knob, Count what, const int64_t* sizes, int64_t n, int num_threads,
                 int64_t* out, Isa isa) {
    const CountFormula formula = count_formula(spec, knob, what);
    if (spec.grid.policy == GridPolicy::kScaleFit && follows_grid(spec, formula)) {
        const BatchKernels& kernels = batch_kernels(isa);
        for_each_scale_fit_block(spec, knob, kernels, sizes, n, num_threads,
                                 [&](const double* rows, const double* cols, int64_t begin, int64_t count) {
                                     kernels.counts(formula, rows, cols, count, out + begin);
                                 });
        return;
    }
    for_each_image(sizes, n, num_threads, [&](Size image, int64_t i) {
        out[i] = count_of(spec, formula, cut_image(spec, knob, image), image);
    });
}

void grid_batch(const Spec& spec, const Knob& knob, const int64_t* sizes, int64_t n, int num_threads, int64_t* out,
                Isa isa) {
    if (spec.grid.policy == GridPolicy::kScaleFit) {
        for_each_scale_fit_block(spec, knob, batch_kernels(isa), sizes, n, num_threads,
                                 [&](const double* rows, const double* cols, int64_t begin, int64_t count) {
                                     for (int64_t i = 0; i < count; ++i) {
                                         out[2 * (begin + i)] = static_cast<int64_t>(rows[i]);
                                         out[2 * (begin + i) + 1] = static_cast<int64_t>(cols[i]);
                                     }
                                 });
        return;
    }
    for_each_image(sizes, n, num_threads, [&](Size image, int64_t i) {
        const Grid grid = cut_image(spec, knob, image).grid;
        out[2 * i] = grid.rows;
        out[2 * i + 1] = grid.cols;
    });
}

void scale_batch(const Spec& spec, const Knob& knob, const int64_t* sizes, int64_t n, int num_threads, double* out) {
    for_each_image(sizes, n, num_threads,
                   [&](Size image, int64_t i) { out[i] = scale_of(spec, cut_image(spec, knob, image), image); });
}

}  // namespace maxcrops
