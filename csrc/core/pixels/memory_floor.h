// What a preprocessor that needs every pixel must do, for benchmarks to compare with.
#pragma once

#include <cstdint>

namespace maxcrops {

// Fills `out` past the caches, reads `source` once, on num_threads threads. Returns a sum that keeps the reads.
uint64_t memory_floor(void* out, int64_t out_bytes, const void* source, int64_t source_bytes, int num_threads);

}  // namespace maxcrops
