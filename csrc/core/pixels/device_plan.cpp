#include "device_plan.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>

#include "normalization.h"
#include "types.h"

namespace maxcrops {
namespace {

uint64_t bits_of(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

int64_t pack(int32_t low, uint64_t high) {
    return static_cast<int64_t>(high << 32 | static_cast<uint32_t>(low));
}

int64_t longest(const WindowAxis& axis) { return *std::max_element(axis.size.begin(), axis.size.end()); }

int64_t words_of(const TwoTapAxis& axis) { return static_cast<int64_t>(axis.first.size()); }

int64_t words_of(const WindowAxis& axis) {
    const auto out = static_cast<int64_t>(axis.first.size());
    return out + ceil_div(out * longest(axis), 2);
}

void write(const TwoTapAxis& axis, int64_t* words) {
    for (size_t i = 0; i < axis.first.size(); ++i) words[i] = pack(axis.first[i], bits_of(axis.weight[i]));
}

void write(const WindowAxis& axis, int64_t* words) {
    const auto out = static_cast<int64_t>(axis.first.size()), taps = longest(axis);
    words[words_of(axis) - 1] = 0;  // its second half may be behind the last weight
    auto* weights = reinterpret_cast<char*>(words + out);
    for (int64_t i = 0; i < out; ++i) {
        const auto index = static_cast<size_t>(i);
        words[i] = pack(axis.first[index], static_cast<uint32_t>(axis.size[index]));
        const size_t bytes = static_cast<size_t>(taps) * sizeof(float);
        std::memcpy(weights + index * bytes, &axis.weights[index * static_cast<size_t>(axis.stride)], bytes);
    }
}

// Whether quotients of what the antialiased kernel normalises follow from the rounded reciprocal and two remainders, as
// Markstein's theorem has it (IBM Journal of Research and Development 34, 1990): if none of them under- or overflows. The
// least that is divided comes of two weights of at least 2^-41 and of 1 / 255, or of a difference from the mean.
bool divides_by_remainders(const PixelRule& rule) {
    const auto is_moderate = [](float value) { return value >= 0x1p-20F && value <= 0x1p20F; };
    return std::all_of(rule.std.begin(), rule.std.end(), is_moderate) &&
           std::all_of(rule.mean.begin(), rule.mean.end(),
                       [&](float mean) { return mean == 0.0F || is_moderate(std::abs(mean)); });
}

// Bytes from an image's first to behind its last, whatever the signs of its strides.
void require_addressable(const ImageView& image) {
    int64_t last = 0;
    for (const auto& [length, stride] : {std::pair{image.size.height, image.row_stride},
                                         std::pair{image.size.width, image.col_stride},
                                         std::pair<int64_t, int64_t>{3, image.channel_stride}}) {
        const int64_t step = std::abs(stride);
        if (step != 0 && length - 1 > (kMaxDeviceImageBytes - 1 - last) / step) {
            throw std::invalid_argument("[preprocess] image must span at most " + std::to_string(kMaxDeviceImageBytes) +
                                        " bytes on a device, got " + std::to_string(image.size.height) + " x " +
                                        std::to_string(image.size.width) +
                                        " pixels with more; make it contiguous, or take the backend 'cpu'");
        }
        last += (length - 1) * step;
    }
}

// The values of a view's horizontally resized rows are counted in 32 bits too. An axis has some 2 in + 3 out weights, which
// the limits on sides keep within them.
void require_countable(Size image, int64_t rows, int64_t row_values) {
    if (rows > kMaxDeviceRowValues / row_values) {
        throw std::invalid_argument("[preprocess] image must need at most " + std::to_string(kMaxDeviceRowValues) +
                                    " resized values at once on a device, got " + std::to_string(image.height) + " x " +
                                    std::to_string(image.width) + " pixels that need " + std::to_string(rows) + " x " +
                                    std::to_string(row_values) + "; take the backend 'cpu', or lower max_crops");
    }
}

}  // namespace

DevicePlan::DevicePlan(const PixelRule& rule, const std::vector<DeviceImage>& images, Tile tile,
                       AxisTables& tables) {
    const bool rounded = rule.resize != Resize::kBilinearAntialias;
    is_rounded_ = rounded;
    const ByteNormalization bytes = byte_normalization(rule.mean, rule.std);
    by_arithmetic_ = rounded ? bytes.by_arithmetic : divides_by_remainders(rule);
    for (size_t channel = 0; channel < 3; ++channel) {
        constants_[channel] = rounded ? bytes.offset[channel] : rule.mean[channel];
        constants_[3 + channel] = rounded ? rule.std[channel] * 255.0F : rule.std[channel];
        const Reciprocal reciprocal = rounded ? bytes.reciprocal[channel] : reciprocal_of(rule.std[channel]);
        constants_[6 + channel] = reciprocal.high;
        constants_[9 + channel] = reciprocal.low;
    }
    constants_[12] = reciprocal_of(255.0F).high;
    constants_[13] = reciprocal_of(255.0F).low;

    // Words are counted from the first axis until it is known where that is.
    int64_t axis_words = 0;
    std::map<const void*, int64_t> placed;
    const auto place = [&](auto axis, auto& list) {
        const auto [found, is_new] = placed.emplace(axis.get(), axis_words);
        if (is_new) {
            axis_words += words_of(*axis);
            list.push_back({std::move(axis), found->second});
        }
        return found->second;
    };
    const auto place_axis = [&](int64_t in, int64_t out, int64_t& word, int64_t& taps, int64_t& weights) {
        if (rounded) {
            word = place(tables.axis(in, out), two_taps_);
            taps = 2;
        } else {
            const std::shared_ptr<const WindowAxis> axis = tables.window(in, out);
            taps = longest(*axis);
            word = place(axis, windows_);
            weights = 2 * (word + out);
        }
    };

    int64_t output = 0;
    for (const DeviceImage& job : images) {
        const Layout& layout = *job.layout;
        require_executable(rule, layout);
        require_addressable(job.image);
        const int64_t patches = layout.crop.crop_patches() * layout.crop.crop_patches();
        const int64_t values = patches * 3 * layout.crop.patch_size * layout.crop.patch_size;
        for (const View& view : layout.views()) {
            std::array<int64_t, kViewWords> words{};
            const auto at = [&](ViewWord word) -> int64_t& { return words[static_cast<size_t>(word)]; };
            const Size source = job.image.size;
            at(ViewWord::kAddress) = static_cast<int64_t>(reinterpret_cast<uintptr_t>(job.image.data));
            at(ViewWord::kRowStride) = job.image.row_stride;
            at(ViewWord::kColStride) = job.image.col_stride;
            at(ViewWord::kChannelStride) = job.image.channel_stride;
            at(ViewWord::kHeight) = source.height;
            at(ViewWord::kWidth) = source.width;
            at(ViewWord::kTop) = view.content.top;
            at(ViewWord::kLeft) = view.content.left;
            at(ViewWord::kContentHeight) = view.content.height;
            at(ViewWord::kContentWidth) = view.content.width;
            place_axis(source.height, view.content.height, at(ViewWord::kRows), at(ViewWord::kRowTaps),
                       at(ViewWord::kRowWeights));
            place_axis(source.width, view.content.width, at(ViewWord::kCols), at(ViewWord::kColTaps),
                       at(ViewWord::kColWeights));
            at(ViewWord::kChained) = rounded && is_chained(rule.resize, view.canvas) ? 1 : 0;
            at(ViewWord::kWorkspace) = -1;
            at(ViewWord::kFirstTile) = num_tiles_;
            if (!rounded && std::max(at(ViewWord::kRowTaps), at(ViewWord::kColTaps)) > 2) {
                const int64_t row_values = 3 * view.content.width;
                require_countable(source, source.height, row_values);
                at(ViewWord::kWorkspace) = workspace_floats_;
                workspace_floats_ += source.height * row_values;
                num_tiles_ += ceil_div(source.height, tile.rows) * ceil_div(row_values, tile.values);
            }
            for (const Box& crop : view.crops) {
                crops_.push_back({num_views(), crop.top, crop.left, output});
                output += values;
            }
            views_.push_back(words);
        }
    }

    const int64_t first_axis = first_crop_word() + num_crops() * kCropWords;
    for (auto& words : views_) {
        for (const ViewWord word : {ViewWord::kRows, ViewWord::kCols}) words[static_cast<size_t>(word)] += first_axis;
        for (const ViewWord word : {ViewWord::kRowWeights, ViewWord::kColWeights}) {
            if (!rounded) words[static_cast<size_t>(word)] += 2 * first_axis;
        }
    }
    for (auto& axis : two_taps_) axis.word += first_axis;
    for (auto& axis : windows_) axis.word += first_axis;
    num_words_ = first_axis + axis_words;
}

void DevicePlan::write(int64_t* words) const {
    std::memcpy(words, constants_.data(), sizeof constants_);
    int64_t* next = words + first_view_word();
    for (const auto& view : views_) next = std::copy(view.begin(), view.end(), next);
    for (const auto& crop : crops_) next = std::copy(crop.begin(), crop.end(), next);
    for (const auto& axis : two_taps_) maxcrops::write(*axis.axis, words + axis.word);
    for (const auto& axis : windows_) maxcrops::write(*axis.axis, words + axis.word);
}

}  // namespace maxcrops
