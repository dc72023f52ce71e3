#include "resample.h"

#include <algorithm>
#include <cmath>

namespace maxcrops {

TwoTapAxis two_tap_axis(int64_t in, int64_t out) {
    TwoTapAxis axis{in, std::vector<int32_t>(static_cast<size_t>(out)), std::vector<float>(static_cast<size_t>(out))};
    const float scale = static_cast<float>(in) / static_cast<float>(out);
    for (int64_t i = 0; i < out; ++i) {
        int64_t first = i;
        float weight = 0.0F;
        if (in != out) {
            const float source = std::max(std::fma(scale, static_cast<float>(i) + 0.5F, -0.5F), 0.0F);
            first = std::min(static_cast<int64_t>(source), in - 1);
            weight = std::clamp(source - static_cast<float>(first), 0.0F, 1.0F);
        }
        axis.first[static_cast<size_t>(i)] = static_cast<int32_t>(first);
        axis.weight[static_cast<size_t>(i)] = weight;
    }
    return axis;
}

WindowAxis window_axis(int64_t in, int64_t out) {
    WindowAxis axis;
    axis.in = in;
    axis.first.resize(static_cast<size_t>(out));
    axis.size.resize(static_cast<size_t>(out));
    if (in == out) {  // torchvision leaves such an axis alone; one tap of weight 1 does too
        axis.stride = 1;
        for (int64_t i = 0; i < out; ++i) axis.first[static_cast<size_t>(i)] = static_cast<int32_t>(i);
        std::fill(axis.size.begin(), axis.size.end(), 1);
        axis.weights.assign(static_cast<size_t>(out), 1.0F);
        return axis;
    }
    const float scale = static_cast<float>(in) / static_cast<float>(out);
    const float support = std::max(scale, 1.0F);
    const double inverse = scale >= 1.0F ? static_cast<float>(1.0 / static_cast<double>(scale)) : 1.0F;
    const int64_t longest = static_cast<int64_t>(std::ceil(support)) * 2 + 1;
    axis.stride = std::min(longest, in);
    axis.weights.assign(static_cast<size_t>(out * axis.stride), 0.0F);
    for (int64_t i = 0; i < out; ++i) {
        // The products and the sums with 0.5 are double there, the differences float.
        const float center = static_cast<float>(static_cast<double>(scale) * (static_cast<double>(i) + 0.5));
        const int64_t first =
            std::clamp<int64_t>(static_cast<int64_t>(static_cast<double>(center - support) + 0.5), 0, in - 1);
        const int64_t end = std::min(static_cast<int64_t>(static_cast<double>(center + support) + 0.5), in);
        const int64_t size = std::clamp<int64_t>(end - first, 1, axis.stride);
        float* weights = &axis.weights[static_cast<size_t>(i * axis.stride)];
        float total = 0.0F;
        for (int64_t j = 0; j < size; ++j) {
            const float distance = std::abs(static_cast<float>(
                (static_cast<double>(static_cast<float>(first + j) - center) + 0.5) * inverse));
            weights[j] = distance < 1.0F ? 1.0F - distance : 0.0F;
            total += weights[j];
        }
        if (total != 0.0F) {
            for (int64_t j = 0; j < size; ++j) weights[j] /= total;
        }
        axis.first[static_cast<size_t>(i)] = static_cast<int32_t>(first);
        axis.size[static_cast<size_t>(i)] = static_cast<int32_t>(size);
    }
    return axis;
}

}  // namespace maxcrops
