// Threads that are kept between calls, as creating them costs more than a small image.
#pragma once

#include <cstdint>
#include <functional>

namespace maxcrops {

// Calls task(i) for 0 <= i < count on up to num_threads threads, the caller's among them, and returns when all are
// done; the first exception is thrown again here. Any number of threads may call it at once, and so may the child of a
// fork: it starts threads of its own.
void parallel_for(int64_t count, int num_threads, const std::function<void(int64_t)>& task);

}  // namespace maxcrops
