#include <algorithm>

#include "pixel_kernels.h"
#include "types.h"

namespace maxcrops {
namespace {

constexpr int64_t kVectorValues = RowPlan::kVectorValues;
constexpr int64_t kPieceLanes = RowPlan::kPieceLanes;
constexpr int64_t kPiecePixels = 16;
constexpr int64_t kVectorBytes = 64;
constexpr int64_t kMostSpan = 256;     // that a byte counts
constexpr int64_t kGatheredBytes = 8;  // both taps of a pixel, six bytes, and two to spare

}  // namespace

RowPlan row_plan(int64_t in, int64_t out, int64_t patch_size) {
    RowPlan plan;
    plan.axis = two_tap_axis(in, out);
    for (const int32_t first : plan.axis.first) plan.offset.push_back(3 * first);
    plan.offset.resize(plan.offset.size() + RowPlan::kGathered);
    plan.patch_size = patch_size;
    plan.pieces_a_patch = ceil_div(patch_size, kPiecePixels);
    const int64_t piece_size = ceil_div(patch_size, plan.pieces_a_patch);
    plan.vectorised = true;
    for (int64_t patch = 0; patch < out / patch_size; ++patch) {
        for (int64_t in_patch = 0; in_patch < patch_size; in_patch += piece_size) {
            RowPlan::Piece piece;
            piece.pixel = static_cast<int32_t>(patch * patch_size + in_patch);
            piece.num_values = static_cast<int32_t>(3 * std::min(piece_size, patch_size - in_patch));
            piece.offset = static_cast<int32_t>(3 * in_patch);
            plan.vectorised &= piece.num_values >= kVectorValues;
            plan.pieces.push_back(piece);
        }
    }
    if (!plan.vectorised) return plan;

    const auto first_byte = [&](int64_t pixel) { return int64_t{plan.offset[static_cast<size_t>(pixel)]}; };
    const auto span = [&](int64_t first, int64_t last) { return first_byte(last) + 6 - first_byte(first); };
    for (int64_t pixel = 1; pixel < plan.width(); ++pixel) {
        plan.most_step = std::max(plan.most_step, first_byte(pixel) - first_byte(pixel - 1));
    }
    plan.shared = true;
    for (const RowPlan::Piece& piece : plan.pieces) {
        plan.shared &= span(piece.pixel, piece.pixel + piece.num_values / 3 - 1) <= kVectorBytes;
    }
    for (RowPlan::Piece& piece : plan.pieces) {
        for (int64_t v = 0; v < 3; ++v) {
            const int64_t start = std::min<int64_t>(v * kVectorValues, piece.num_values - kVectorValues);
            const int64_t first = piece.pixel + start / 3, last = piece.pixel + (start + kVectorValues - 1) / 3;
            piece.first[v] = static_cast<int32_t>(first);
            piece.base[v] = static_cast<int32_t>(first_byte(plan.shared ? piece.pixel : first));
            plan.span = std::max(plan.span, span(first, last));
        }
    }
    plan.gathered = plan.span > kMostSpan;
    plan.weights.reserve(plan.pieces.size() * kPieceLanes);
    plan.first_byte.reserve(plan.weights.capacity());
    plan.second_byte.reserve(plan.weights.capacity());
    for (const RowPlan::Piece& piece : plan.pieces) {
        for (int64_t lane = 0; lane < kPieceLanes; ++lane) {
            const int64_t v = lane / kVectorValues;
            const int64_t value = std::min<int64_t>(v * kVectorValues, piece.num_values - kVectorValues) + lane % kVectorValues;
            const int64_t pixel = piece.pixel + value / 3;
            const int64_t from = plan.gathered ? (pixel - piece.first[v]) * kGatheredBytes : first_byte(pixel) - piece.base[v];
            const int64_t first = from + value % 3;
            const bool at_end = plan.axis.first[static_cast<size_t>(pixel)] == in - 1;
            plan.weights.push_back(plan.axis.weight[static_cast<size_t>(pixel)]);
            plan.first_byte.push_back(static_cast<uint8_t>(first));
            plan.second_byte.push_back(static_cast<uint8_t>(at_end ? first : first + 3));
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
