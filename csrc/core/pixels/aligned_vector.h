// A vector that starts at a cache line: a misaligned vector load touches two.
#pragma once

#include <cstddef>
#include <new>
#include <vector>

namespace maxcrops {

template <typename T>
struct LineAllocator {
    using value_type = T;
    static constexpr std::align_val_t kLine{64};

    LineAllocator() = default;
    template <typename Other>
    LineAllocator(const LineAllocator<Other>&) {}

    T* allocate(size_t count) { return static_cast<T*>(::operator new(count * sizeof(T), kLine)); }
    void deallocate(T* data, size_t) { ::operator delete(data, kLine); }

    template <typename Other>
    bool operator==(const LineAllocator<Other>&) const {
        return true;
    }
    template <typename Other>
    bool operator!=(const LineAllocator<Other>&) const {
        return false;
    }
};

template <typename T>
using AlignedVector = std::vector<T, LineAllocator<T>>;

// Elements rounded up to whole cache lines.
template <typename T>
constexpr size_t whole_lines(size_t count) {
    constexpr size_t kElements = 64 / sizeof(T);
    return (count + kElements - 1) / kElements * kElements;
}

}  // namespace maxcrops
