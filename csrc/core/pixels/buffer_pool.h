// Memory for outputs: large blocks on huge pages, kept for the next batch.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

namespace maxcrops {

// Filling fresh 4 KiB pages costs several times the work of making the pixels; huge pages a quarter of that, and pages
// that were used before nothing. Blocks come back when their owner lets go of them.
class BufferPool : public std::enable_shared_from_this<BufferPool> {
public:
    explicit BufferPool(int64_t capacity_bytes) : capacity_(capacity_bytes) {}
    ~BufferPool();
    BufferPool(const BufferPool&) = delete;
    BufferPool& operator=(const BufferPool&) = delete;

    // A block of at least `bytes`, 64-byte aligned, of any content; the last copy of the pointer gives it back.
    // Throws std::bad_alloc.
    std::shared_ptr<uint8_t> acquire(int64_t bytes);

    int64_t held_bytes() const;

private:
    struct Block {
        uint8_t* data;
        int64_t bytes;
    };

    void give_back(Block block);

    const int64_t capacity_;
    mutable std::mutex mutex_;
    std::vector<Block> free_;
    int64_t held_ = 0;
};

}  // namespace maxcrops
