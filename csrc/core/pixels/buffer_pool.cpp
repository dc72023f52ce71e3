#include "buffer_pool.h"

#include <algorithm>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace maxcrops {
namespace {

constexpr int64_t kHugePage = int64_t{2} << 20;

int64_t rounded_up(int64_t bytes, int64_t unit) { return std::max<int64_t>(1, (bytes + unit - 1) / unit) * unit; }

uint8_t* allocate(int64_t bytes) {
    const int64_t alignment = bytes >= kHugePage ? kHugePage : 64;
    void* data = ::operator new(static_cast<size_t>(bytes), std::align_val_t(static_cast<size_t>(alignment)));
#if defined(__linux__)
    if (bytes >= kHugePage) madvise(data, static_cast<size_t>(bytes), MADV_HUGEPAGE);  // a wish; its failure costs time
#endif
    return static_cast<uint8_t*>(data);
}

void release(uint8_t* data, int64_t bytes) {
    const int64_t alignment = bytes >= kHugePage ? kHugePage : 64;
    ::operator delete(data, std::align_val_t(static_cast<size_t>(alignment)));
}

}  // namespace

BufferPool::~BufferPool() {
    for (const Block& block : free_) release(block.data, block.bytes);
}

std::shared_ptr<uint8_t> BufferPool::acquire(int64_t bytes) {
    const int64_t size = rounded_up(bytes, bytes >= kHugePage ? kHugePage : 4096);
    Block block{nullptr, size};
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        // The smallest that holds it, unless that would leave most of it unused.
        auto best = free_.end();
        for (auto it = free_.begin(); it != free_.end(); ++it) {
            if (it->bytes >= size && it->bytes / 4 <= size && (best == free_.end() || it->bytes < best->bytes)) best = it;
        }
        if (best != free_.end()) {
            block = *best;
            free_.erase(best);
            held_ -= block.bytes;
        }
    }
    if (block.data == nullptr) block.data = allocate(size);
    return {block.data, [pool = weak_from_this(), block](uint8_t*) {
                const std::shared_ptr<BufferPool> alive = pool.lock();
                alive ? alive->give_back(block) : release(block.data, block.bytes);
            }};
}

void BufferPool::give_back(Block block) {
    try {  // called by destructors
        const std::lock_guard<std::mutex> lock(mutex_);
        if (held_ + block.bytes <= capacity_) {
            free_.push_back(block);
            held_ += block.bytes;
            return;
        }
    } catch (const std::bad_alloc&) {
    }
    release(block.data, block.bytes);
}

int64_t BufferPool::held_bytes() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return held_;
}

}  // namespace maxcrops
