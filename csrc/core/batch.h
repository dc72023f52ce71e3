// Counts for many images at once, in blocks that stay in cache.
#pragma once

#include <cstdint>

#include "counts.h"
#include "cpu_features.h"
#include "spec.h"

namespace maxcrops {

// sizes: int64 [n, 2], (height, width), contiguous. All three throw std::invalid_argument that names the first row
// with a side outside 1..kMaxSide, and give the same bytes for any num_threads >= 1 and any Isa.
void count_batch(const Spec& spec, const Knob& knob, Count what, const int64_t* sizes, int64_t n, int num_threads,
                 int64_t* out, Isa isa = active_isa());  // int64 [n]
void grid_batch(const Spec& spec, const Knob& knob, const int64_t* sizes, int64_t n, int num_threads,
                int64_t* out, Isa isa = active_isa());  // int64 [n, 2], (rows, cols)
void scale_batch(const Spec& spec, const Knob& knob, const int64_t* sizes, int64_t n, int num_threads,
                 double* out);  // float64 [n], Layout::scale

}  // namespace maxcrops
