// Source rows that are read soon. Everything is static: the kernels are compiled with flags of their own.
#pragma once

#include <cstdint>

#include "types.h"

namespace maxcrops {

// A place in some rows, cache line by cache line and one row behind the other.
//
// A core has some twenty lines under way from memory at a time: it waits with more, or drops them. So few are asked for
// at once, and a patch that asks for many does so between its rows.
struct RowsAhead {
    const uint8_t* const* row = nullptr;
    const uint8_t* const* end = nullptr;
    int64_t row_bytes = 0;
    int64_t byte = 0;  // of the row, where the next line to ask for begins
    int64_t lines_a_patch = 0;
};

constexpr int64_t kLine = 64;

// Of all rows, before any is asked for.
static inline int64_t num_lines(const RowsAhead& ahead) { return (ahead.end - ahead.row) * ceil_div(ahead.row_bytes, kLine); }

static inline void prefetch(const void* address) {
#if defined(__GNUC__)
    __builtin_prefetch(address, 0, 2);
#else
    static_cast<void>(address);
#endif
}

// Asks for so many lines, as far as there are.
static inline void ask(RowsAhead& ahead, int64_t lines) {
    for (; ahead.row != ahead.end; ++ahead.row, ahead.byte = 0) {
        for (; ahead.byte < ahead.row_bytes; ahead.byte += kLine, --lines) {
            if (lines <= 0) return;
            prefetch(*ahead.row + ahead.byte);
        }
    }
}

}  // namespace maxcrops
