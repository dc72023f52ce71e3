// The loops over pixels, once per instruction set. All give the same bytes: the order of operations is part of each
// contract, a fused multiply-add is written fma(a, b, c), everything else is rounded at every step.
#pragma once

#include <cstdint>
#include <vector>

#include "aligned_vector.h"
#include "cpu_features.h"
#include "normalization.h"
#include "resample.h"

namespace maxcrops {

enum class PixelType { kFloat32, kBFloat16, kFloat16 };

constexpr int64_t bytes_of(PixelType type) { return type == PixelType::kFloat32 ? 4 : 2; }

// Kernels may read this many bytes behind the last byte of a row.
constexpr int64_t kRowSlack = 256;

// Source rows that a vector of the antialiased horizontal pass spans.
constexpr int64_t kLanes = 16;

// 16 pixels of 3 channels in kLanes rows.
constexpr int64_t kSumFloats = 48 * kLanes;

// Horizontal taps of a row of `patches * patch_size` pixels, cut in pieces of at most 16 pixels that lie in one patch.
// 16 neighbours of a piece's 3 * pixels values form a vector; the last vector of a piece ends with the piece, so that
// vectors may overlap and none is ragged.
struct RowPlan {
    TwoTapAxis axis;
    std::vector<int32_t> offset;  // of the first tap's pixel in its row, bytes
    int64_t patch_size = 0;
    int64_t piece_size = 0;    // pixels; the last piece of a patch may have fewer
    bool reads_end = false;    // whether a second tap lies behind the row's last pixel
    bool vectorised = false;   // whether pieces are wide enough; otherwise only the scalar kernels apply

    struct Piece {
        int32_t pixel = 0;       // first one
        int32_t num_values = 0;  // 3 a pixel
        int32_t patch = 0;
        int32_t offset = 0;      // of its first value in the patch's row
        int32_t base = 0;        // first byte that it reads, of the row or of the staged row
    };
    std::vector<Piece> pieces;
    // Per piece: 48 lanes, and the bytes they read, relative to the base.
    AlignedVector<float> weights;       // [pieces, 48] of the second tap
    AlignedVector<uint8_t> first_byte;  // [pieces, 64]
    AlignedVector<uint8_t> second_byte;
    int64_t span = 0;     // most bytes that a piece reads
    bool staged = false;  // they are more than 256: both taps of each pixel are copied together first

    int64_t width() const { return static_cast<int64_t>(axis.first.size()); }
};

RowPlan row_plan(int64_t in, int64_t out, int64_t patch_size);

// How the two source rows of an output row are blended: fma(top, 1 - weight, bottom * weight).
struct RowBlend {
    float weight = 0.0F;
    bool chained = false;  // the four products in one chain instead, as torch does it on one thread:
                           // fma(w11, d, fma(w10, c, fma(w00, a, w01 * b)))
};

struct PixelKernels {
    // Floats that one horizontally resized row takes.
    int64_t (*row_floats)(const RowPlan& plan);

    // Bytes of scratch that resize_row and blend_bytes need.
    int64_t (*stage_bytes)(const RowPlan& plan);

    // Pieces [begin, end) of a row, horizontally resized: fma(first, 1 - weight, second * weight), in an order that
    // only blend_floats knows.
    void (*resize_row)(const RowPlan& plan, const uint8_t* row, int64_t begin, int64_t end, uint8_t* stage, float* out);

    // Blends two such rows, rounds half to even, clamps to 8 bits; a patch's row goes to
    // out + patch * 3 * patch_size^2.
    void (*blend_floats)(const RowPlan& plan, const float* top, const float* bottom, RowBlend blend, int64_t begin,
                         int64_t end, uint8_t* out);

    // Both steps at once, from two source rows.
    void (*blend_bytes)(const RowPlan& plan, const uint8_t* top, const uint8_t* bottom, RowBlend blend, int64_t begin,
                        int64_t end, uint8_t* stage, uint8_t* out);

    // Normalises `count` values of interleaved channels, `channel` that of the first, and writes them once; past the
    // caches when `stream` is set, for finish_streams to complete.
    void (*normalize_bytes)(const ByteNormalization& normalization, const uint8_t* in, int64_t count, int64_t channel,
                            PixelType type, bool stream, void* out);

    // u / 255 of bytes [begin, end) of kLanes rows: out[(byte - begin) * kLanes + row].
    void (*transpose_units)(const uint8_t* const* rows, int64_t begin, int64_t end, float* out);

    // Windows of such columns, output pixels [begin, end). Lane r, channel c: the first product, then products added in
    // groups of four, then fused for the rest, as torch's compiler ordered it. Goes to rows[r][3 * x + c] when 16 pixels
    // are together, or the last ones, whose row may be written 45 values behind its end; `sums` (kSumFloats) keeps them
    // until then. `columns` starts at source pixel `origin`.
    void (*sum_columns)(const WindowAxis& axis, const float* columns, int64_t origin, int64_t begin, int64_t end,
                        float* sums, float* const* rows);

    // The same sum over rows, then clipped to 0..1 and normalised: `count` values, the first of them red.
    void (*sum_rows)(const float* const* rows, const float* weights, int64_t num_rows, int64_t count,
                     const UnitNormalization& normalization, float* out);

    // Writes floats as `type`, once.
    void (*cast_floats)(const float* in, int64_t count, PixelType type, bool stream, void* out);

    // Makes what this thread has streamed visible to others.
    void (*finish_streams)();
};

const PixelKernels& pixel_kernels(Isa isa);

extern const PixelKernels kScalarPixelKernels;
#if defined(MAXCROPS_X86_KERNELS)
extern const PixelKernels kAvx2PixelKernels;
extern const PixelKernels kAvx512PixelKernels;
#endif

}  // namespace maxcrops
