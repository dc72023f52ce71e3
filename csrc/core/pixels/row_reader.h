// Rows of an image as the kernels read them: packed RGB, with kRowSlack readable bytes behind.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "aligned_vector.h"
#include "image_view.h"
#include "pixel_kernels.h"

namespace maxcrops {

// A row is read where it lies if it may be; otherwise it is copied to one of `slots` buffers, row y to y % slots, and
// kept there until another row needs it.
class RowReader {
public:
    // always_copy: the pixel behind a row's end is read and must equal its last one.
    void reset(const ImageView& image, int64_t slots, bool always_copy) {
        image_ = image;
        slots_ = slots;
        direct_ = image.has_packed_rows() && !always_copy;
        const int64_t last_row = image.row_stride > 0 ? (image.size.height - 1) * image.row_stride : 0;
        end_ = image.data + last_row + 3 * image.size.width;
        slot_bytes_ = (3 * image.size.width + 3 + kRowSlack + 63) / 64 * 64;
        held_.assign(static_cast<size_t>(slots), -1);
    }

    // Whether rows are read where they lie, but for the last few.
    bool is_direct() const { return direct_; }

    const uint8_t* row(int64_t y) {
        const uint8_t* source = image_.data + y * image_.row_stride;
        const int64_t bytes = 3 * image_.size.width;
        if (direct_ && end_ - source >= bytes + kRowSlack) return source;
        const auto slot = static_cast<size_t>(y % slots_);
        if (static_cast<int64_t>(buffer_.size()) < slots_ * slot_bytes_) buffer_.resize(static_cast<size_t>(slots_ * slot_bytes_));
        uint8_t* copy = buffer_.data() + static_cast<int64_t>(slot) * slot_bytes_;
        if (held_[slot] != y) {
            pack(source, copy);
            std::memcpy(copy + bytes, copy + bytes - 3, 3);
            held_[slot] = y;
        }
        return copy;
    }

private:
    void pack(const uint8_t* source, uint8_t* copy) const {
        const int64_t width = image_.size.width;
        if (image_.has_packed_rows()) {
            std::memcpy(copy, source, static_cast<size_t>(3 * width));
            return;
        }
        const int64_t step = image_.col_stride, channel = image_.channel_stride;
        for (int64_t x = 0; x < width; ++x, source += step, copy += 3) {
            copy[0] = source[0];
            copy[1] = source[channel];
            copy[2] = source[2 * channel];
        }
    }

    ImageView image_;
    const uint8_t* end_ = nullptr;
    int64_t slots_ = 0;
    int64_t slot_bytes_ = 0;
    bool direct_ = false;
    std::vector<int64_t> held_;
    AlignedVector<uint8_t> buffer_;
};

}  // namespace maxcrops
