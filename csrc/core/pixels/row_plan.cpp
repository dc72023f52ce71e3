#include <algorithm>

#include "pixel_kernels.h"
#include "types.h"

namespace maxcrops {
namespace {

constexpr int64_t kVectorValues = 16;
constexpr int64_t kPieceLanes = 48;
constexpr int64_t kPiecePixels = 16;
constexpr int64_t kStagedPixelBytes = 8;  // both taps, six bytes, and two to spare

}  // namespace

RowPlan row_plan(int64_t in, int64_t out, int64_t patch_size) {
    RowPlan plan;
    plan.axis = two_tap_axis(in, out);
    for (const int32_t first : plan.axis.first) plan.offset.push_back(3 * first);
    plan.patch_size = patch_size;
    const int64_t pieces_a_patch = ceil_div(patch_size, kPiecePixels);
    plan.piece_size = ceil_div(patch_size, pieces_a_patch);
    plan.reads_end = plan.axis.first.back() == in - 1;
    plan.vectorised = true;
    for (int64_t pixel = 0; pixel < out;) {
        RowPlan::Piece piece;
        const int64_t in_patch = pixel % patch_size;
        const int64_t pixels = std::min({plan.piece_size, patch_size - in_patch, out - pixel});
        piece.pixel = static_cast<int32_t>(pixel);
        piece.num_values = static_cast<int32_t>(3 * pixels);
        piece.patch = static_cast<int32_t>(pixel / patch_size);
        piece.offset = static_cast<int32_t>(3 * in_patch);
        plan.pieces.push_back(piece);
        plan.vectorised &= piece.num_values >= kVectorValues;
        pixel += pixels;
    }
    if (!plan.vectorised) return plan;

    const auto first_byte = [&](int64_t pixel) { return int64_t{plan.offset[static_cast<size_t>(pixel)]}; };
    int64_t widest = 0;
    for (const RowPlan::Piece& piece : plan.pieces) {
        const int64_t last = piece.pixel + piece.num_values / 3 - 1;
        widest = std::max(widest, first_byte(last) + 6 - first_byte(piece.pixel));
    }
    plan.staged = widest > 256;
    plan.span = plan.staged ? plan.piece_size * kStagedPixelBytes : widest;
    plan.weights.resize(plan.pieces.size() * kPieceLanes);
    plan.first_byte.resize(plan.pieces.size() * 64);
    plan.second_byte.resize(plan.pieces.size() * 64);
    for (size_t p = 0; p < plan.pieces.size(); ++p) {
        RowPlan::Piece& piece = plan.pieces[p];
        piece.base = static_cast<int32_t>(plan.staged ? piece.pixel * kStagedPixelBytes : first_byte(piece.pixel));
        for (int64_t lane = 0; lane < kPieceLanes; ++lane) {
            const int64_t start = std::min<int64_t>(lane / kVectorValues * kVectorValues, piece.num_values - kVectorValues);
            const int64_t value = start + lane % kVectorValues;
            const int64_t pixel = piece.pixel + value / 3;
            const int64_t byte = (plan.staged ? pixel * kStagedPixelBytes : first_byte(pixel)) + value % 3 - piece.base;
            plan.weights[p * kPieceLanes + static_cast<size_t>(lane)] = plan.axis.weight[static_cast<size_t>(pixel)];
            plan.first_byte[p * 64 + static_cast<size_t>(lane)] = static_cast<uint8_t>(byte);
            plan.second_byte[p * 64 + static_cast<size_t>(lane)] = static_cast<uint8_t>(byte + 3);
        }
    }
    return plan;
}

const PixelKernels& pixel_kernels(Isa isa) {
#if defined(MAXCROPS_X86_KERNELS)
    if (isa == Isa::kAvx512) return kAvx512PixelKernels;
    if (isa == Isa::kAvx2) return kAvx2PixelKernels;
#endif
    static_cast<void>(isa);
    return kScalarPixelKernels;
}

}  // namespace maxcrops
