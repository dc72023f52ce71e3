// The loops over pixels, once per instruction set. All give the same bytes: the order of operations is part of each
// contract, a fused multiply-add is written fma(a, b, c), everything else is rounded at every step.
#pragma once

#include <cstdint>
#include <vector>

#include "aligned_vector.h"
#include "cpu_features.h"
#include "normalization.h"
#include "resample.h"
#include "rows_ahead.h"

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
    int64_t patch_size = 0;
    int64_t pieces_a_patch = 0;
    bool vectorised = false;  // whether pieces are wide enough; otherwise only the scalar kernels apply

    struct Piece {
        int32_t pixel = 0;       // first one
        int32_t num_values = 0;  // 3 a pixel
        int32_t offset = 0;      // of its first value in the patch's row
        int32_t first[3] = {};   // pixel that each vector starts in
        int32_t base[3] = {};    // first byte of the row that each vector reads
    };
    std::vector<Piece> pieces;
    // [pieces, kPieceLanes]: the second tap's weight, and the bytes that the taps read, from the vector's base on.
    AlignedVector<float> weights;
    AlignedVector<uint8_t> first_byte;
    AlignedVector<uint8_t> second_byte;
    int64_t span = 0;             // most bytes that a vector reads
    bool gathered = false;        // they are more than 256: bytes count in eights a pixel, from the vector's first one
    bool shared = false;          // a whole piece reads at most 64: its vectors have one base
    int64_t most_step = 0;        // bytes between the first taps of two neighbouring pixels
    std::vector<int32_t> offset;  // of each pixel's first tap in the row, bytes; kGathered pixels from any are readable

    static constexpr int64_t kVectorValues = 16;
    static constexpr int64_t kPieceLanes = 3 * kVectorValues;
    static constexpr int64_t kGathered = 8;  // pixels that 16 values may lie in, and one to spare

    int64_t width() const { return static_cast<int64_t>(axis.first.size()); }
};

RowPlan row_plan(int64_t in, int64_t out, int64_t patch_size);

// The two source rows of an output row; the same one twice at the image's end.
struct RowPair {
    const uint8_t* top = nullptr;
    const uint8_t* bottom = nullptr;
    float top_weight = 1.0F;  // 1 - bottom_weight, in float32
    float bottom_weight = 0.0F;
};

struct PixelKernels {
    // A patch of the canvas, [patch_size, 3 * patch_size], its rows blended from `rows` [patch_size]. Each pass is
    // fma(first, 1 - weight, second * weight), along the row and then across rows; what comes out is rounded half to
    // even and clamped to 8 bits. `chained`: the four products are summed in one chain instead, as torch does it on one
    // thread: fma(w11, d, fma(w10, c, fma(w00, a, w01 * b))). Meanwhile it asks for a patch's lines of `ahead`.
    void (*blend_patch)(const RowPlan& plan, int64_t patch, const RowPair* rows, bool chained, RowsAhead& ahead,
                        uint8_t* out);

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

    // The same sum over rows, then clipped to 0..1 and normalised: `count` values, whole pixels. They are values `first`
    // and on of a row of the canvas, and go to its place in patches [patch_size, 3 * patch_size], the first of which is
    // at `out`.
    void (*sum_rows)(const float* const* rows, const float* weights, int64_t num_rows, int64_t count,
                     const UnitNormalization& normalization, int64_t first, int64_t patch_size, float* out);

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
