// How the kernels go through the rows of a patch. Everything is static: each is compiled with its own flags.
#pragma once

#include <cstdint>

#include "pixel_kernels.h"

namespace maxcrops {

// Calls blend(top, bottom, pair, row) for each pair, of what read(source row) makes of its rows: once for a row that
// pairs behind each other share. The next pair is read before the last one is blended: each is a chain of instructions
// that wait for each other, and so two of them are under way.
template <typename Row, typename Read, typename Blend>
static inline void for_row_pairs(const RowPair* pairs, int64_t count, const Read& read, const Blend& blend) {
    if (count == 0) return;
    Row top = read(pairs[0].top), bottom = pairs[0].bottom == pairs[0].top ? top : read(pairs[0].bottom);
    for (int64_t i = 0; i + 1 < count; ++i) {
        const RowPair &pair = pairs[i], &next = pairs[i + 1];
        Row next_top = top, next_bottom = bottom;
        if (next.top != pair.top) next_top = next.top == pair.bottom ? bottom : read(next.top);
        if (next.bottom != pair.bottom) next_bottom = read(next.bottom);
        blend(top, bottom, pair, i);
        top = next_top;
        bottom = next_bottom;
    }
    blend(top, bottom, pairs[count - 1], count - 1);
}

}  // namespace maxcrops
