// The values of a crop on their way to memory.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace maxcrops {

// What a task writes of one crop, in the order of memory: whole blocks, each of them whole cache lines, pixels and
// vectors, but for what comes before the first line and behind the last. Values that fill no block are kept until more
// come: a line that is written in two parts has to be fetched from memory.
class CropStream {
public:
    static constexpr int64_t kBlock = 192;  // values, of 2 or 4 bytes

    struct Run {
        const uint8_t* from = nullptr;
        int64_t count = 0;  // values
        int64_t channel = 0;  // of the first one
        uint8_t* to = nullptr;
    };

    // Takes the next values, which go to `to`. Returns blocks that the caller writes while they lie at `from`, and in any
    // order; what is kept no longer goes through `write` at once.
    template <typename Write>
    Run take(const uint8_t* from, int64_t count, uint8_t* to, int64_t element_bytes, const Write& write) {
        if (to_ == nullptr) {
            to_ = to;
            const auto to_line = static_cast<int64_t>(-reinterpret_cast<uintptr_t>(to) & 63U);
            if (to_line >= element_bytes) block_ = to_line / element_bytes;
        }
        if (kept_ > 0 || block_ < kBlock) {
            const int64_t n = std::min(block_ - kept_, count);
            std::memcpy(bytes_ + kept_, from, static_cast<size_t>(n));
            kept_ += n;
            from += n;
            count -= n;
            if (kept_ < block_) return {};
            flush(element_bytes, write);
            block_ = kBlock;
        }
        kept_ = count % kBlock;
        const Run run{from, count - kept_, channel_, to_};
        to_ += run.count * element_bytes;
        std::memcpy(bytes_, from + run.count, static_cast<size_t>(kept_));
        return run;
    }

    // Writes what is kept.
    template <typename Write>
    void flush(int64_t element_bytes, const Write& write) {
        if (kept_ == 0) return;
        write(Run{bytes_, kept_, channel_, to_});
        to_ += kept_ * element_bytes;
        channel_ = (channel_ + kept_) % 3;
        kept_ = 0;
    }

private:
    uint8_t* to_ = nullptr;   // where what is kept goes
    int64_t channel_ = 0;     // of its first value
    int64_t kept_ = 0;
    int64_t block_ = kBlock;  // values that it is to become: the first one ends where a line begins
    alignas(64) uint8_t bytes_[kBlock];
};

}  // namespace maxcrops
