// How the kernels go through the rows of a patch. Everything is static: each is compiled with its own flags.
#pragma once

#include <cstdint>

#include "pixel_kernels.h"

namespace maxcrops {

// Calls blend(top, bottom, weight, row) for each pair, of what read(source row) makes of its rows: once for a row that
// pairs behind each other share.
template <typename Row, typename Read, typename Blend>
static inline void for_row_pairs(const RowPair* pairs, int64_t count, const Read& read, const Blend& blend) {
    Row top{}, bottom{};
    const uint8_t *at_top = nullptr, *at_bottom = nullptr;
    for (int64_t i = 0; i < count; ++i) {
        const RowPair& pair = pairs[i];
        if (pair.top != at_top) {
            top = pair.top == at_bottom ? bottom : read(pair.top);
            at_top = pair.top;
        }
        if (pair.bottom != at_bottom) {
            bottom = read(pair.bottom);
            at_bottom = pair.bottom;
        }
        blend(top, bottom, pair.weight, i);
    }
}

}  // namespace maxcrops
