// What a device needs to execute the layouts of a ragged batch, as one block of 64-bit words: it goes there in one copy,
// and no kernel decides anything about geometry.
//
//     constants | views, kViewWords each | crops, kCropWords each | axes
//
// The constants are kConstants floats. Every axis is [out] words, first source pixel in the low half; a rounded one has
// the bits of the second tap's weight in the high half; an antialiased one has the number of taps there, and is followed
// by float weights [out, longest window]. Axes of equal lengths are stored once. The weights are those of the CPU, bit
// for bit.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "axis_tables.h"
#include "image_view.h"
#include "layout.h"
#include "preprocess.h"

namespace maxcrops {

// Channel by channel: what is subtracted, what is divided by, and the high and low part of its reciprocal; then those of
// 1 / 255.
constexpr int64_t kConstants = 14;

enum class ViewWord : int64_t {
    kAddress,        // of the source pixel at the top left, on the device
    kRowStride,      // bytes
    kColStride,
    kChannelStride,
    kHeight,         // of the source, pixels
    kWidth,
    kTop,            // of the content on the canvas, pixels
    kLeft,
    kContentHeight,
    kContentWidth,
    kRows,           // first word of the rows' axis
    kCols,
    kRowTaps,        // longest window; 2 for rounded pixels
    kColTaps,
    kRowWeights,     // antialiased: first weight, in floats from the block's start
    kColWeights,
    kChained,        // rounded: 1 if the four products are summed in one chain
    kWorkspace,      // where the horizontally resized rows [height, 3 * content width] lie, floats; -1: there are none,
                     // as no window has more than two taps
    kFirstTile,      // tiles of the horizontal pass before this view's
    kEnd,
};

enum class CropWord : int64_t {
    kView,
    kTop,     // on the canvas, pixels
    kLeft,
    kOutput,  // first element in the output
    kEnd,
};

constexpr int64_t kViewWords = static_cast<int64_t>(ViewWord::kEnd);
constexpr int64_t kCropWords = static_cast<int64_t>(CropWord::kEnd);

// Kernels count the bytes of a source image in 32 bits, and the values of a view's horizontally resized rows.
constexpr int64_t kMaxDeviceImageBytes = (int64_t{1} << 31) - 1;
constexpr int64_t kMaxDeviceRowValues = (int64_t{1} << 31) - 1;

struct DeviceImage {
    ImageView image;  // on the device; never read here
    const Layout* layout = nullptr;
};

// Horizontally resized rows that a program makes, and values of each.
struct Tile {
    int64_t rows = 1;
    int64_t values = 1;
};

class DevicePlan {
public:
    // Throws std::invalid_argument for a layout that the pixel path cannot execute, and for an image beyond the limits
    // above.
    DevicePlan(const PixelRule& rule, const std::vector<DeviceImage>& images, Tile tile, AxisTables& tables);

    int64_t num_words() const { return num_words_; }
    int64_t num_views() const { return static_cast<int64_t>(views_.size()); }
    int64_t num_crops() const { return static_cast<int64_t>(crops_.size()); }
    int64_t first_view_word() const { return kConstants / 2; }
    int64_t first_crop_word() const { return first_view_word() + num_views() * kViewWords; }

    // Whether pixels are rounded to 8 bits, and not antialiased.
    bool is_rounded() const { return is_rounded_; }

    // Of the horizontal pass; 0 where no view needs one.
    int64_t num_tiles() const { return num_tiles_; }
    int64_t workspace_floats() const { return workspace_floats_; }

    // Whether the reciprocals give what the division gives: for rounded pixels see ByteNormalization, for antialiased ones
    // with two remainders.
    bool by_arithmetic() const { return by_arithmetic_; }

    // words[num_words()].
    void write(int64_t* words) const;

private:
    template <typename Axis>
    struct Placed {
        std::shared_ptr<const Axis> axis;
        int64_t word;
    };

    std::array<float, kConstants> constants_{};
    std::vector<std::array<int64_t, kViewWords>> views_;
    std::vector<std::array<int64_t, kCropWords>> crops_;
    std::vector<Placed<TwoTapAxis>> two_taps_;
    std::vector<Placed<WindowAxis>> windows_;
    int64_t num_words_ = 0, num_tiles_ = 0, workspace_floats_ = 0;
    bool is_rounded_ = false, by_arithmetic_ = false;
};

}  // namespace maxcrops
