// An image in memory that somebody else owns.
#pragma once

#include <cstdint>

#include "types.h"

namespace maxcrops {

// uint8 [height, width, 3]; strides in bytes, of any sign.
struct ImageView {
    const uint8_t* data = nullptr;
    Size size;
    int64_t row_stride = 0;
    int64_t col_stride = 0;
    int64_t channel_stride = 0;

    bool has_packed_rows() const { return col_stride == 3 && channel_stride == 1; }
};

}  // namespace maxcrops
