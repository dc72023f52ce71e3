// Rows of an image as the kernels read them: packed RGB, with kRowSlack readable bytes behind.
#pragma once

#include <cstdint>
#include <cstring>

#include "aligned_vector.h"
#include "image_view.h"
#include "pixel_kernels.h"

namespace maxcrops {

// A row is read where it lies if it may be; otherwise it is copied to one of `slots` buffers, which the caller chooses.
class RowReader {
public:
    void reset(const ImageView& image, int64_t slots) {
        image_ = image;
        slots_ = slots;
        const int64_t last_row = image.row_stride > 0 ? (image.size.height - 1) * image.row_stride : 0;
        end_ = image.data + last_row + 3 * image.size.width;
        slot_bytes_ = static_cast<int64_t>(whole_lines<uint8_t>(static_cast<size_t>(3 * image.size.width + kRowSlack)));
    }

    const uint8_t* row(int64_t y, int64_t slot) {
        const uint8_t* source = image_.data + y * image_.row_stride;
        if (image_.has_packed_rows() && end_ - source >= 3 * image_.size.width + kRowSlack) return source;
        if (static_cast<int64_t>(buffer_.size()) < slots_ * slot_bytes_) buffer_.resize(static_cast<size_t>(slots_ * slot_bytes_));
        uint8_t* copy = buffer_.data() + slot * slot_bytes_;
        pack(source, copy);
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
    AlignedVector<uint8_t> buffer_;
};

}  // namespace maxcrops
