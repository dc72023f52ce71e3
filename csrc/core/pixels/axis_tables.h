// Axis tables take longer to make than a small image to resize. They depend on (in, out) alone, and are kept until
// there are many.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <tuple>

#include "pixel_kernels.h"
#include "resample.h"

namespace maxcrops {

// May be used from many threads at once.
class AxisTables {
public:
    std::shared_ptr<const RowPlan> plan(int64_t in, int64_t out, int64_t patch_size) {
        return get(plans_, in, out, patch_size, [&] { return row_plan(in, out, patch_size); });
    }
    std::shared_ptr<const TwoTapAxis> axis(int64_t in, int64_t out) {
        return get(axes_, in, out, 0, [&] { return two_tap_axis(in, out); });
    }
    std::shared_ptr<const WindowAxis> window(int64_t in, int64_t out) {
        return get(windows_, in, out, 0, [&] { return window_axis(in, out); });
    }

private:
    template <typename Table>
    using Cache = std::map<std::tuple<int64_t, int64_t, int64_t>, std::shared_ptr<const Table>>;

    static constexpr size_t kMost = 256;

    template <typename Table, typename Make>
    std::shared_ptr<const Table> get(Cache<Table>& cache, int64_t in, int64_t out, int64_t patch, const Make& make) {
        const auto key = std::make_tuple(in, out, patch);
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            const auto found = cache.find(key);
            if (found != cache.end()) return found->second;
        }
        auto table = std::make_shared<const Table>(make());
        const std::lock_guard<std::mutex> lock(mutex_);
        if (cache.size() >= kMost) cache.clear();
        cache.emplace(key, table);
        return table;
    }

    std::mutex mutex_;
    Cache<RowPlan> plans_;
    Cache<TwoTapAxis> axes_;
    Cache<WindowAxis> windows_;
};

}  // namespace maxcrops
