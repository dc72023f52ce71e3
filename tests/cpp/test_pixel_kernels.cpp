// The loops over pixels: every instruction set gives the scalar bytes, all of them, and touches nothing else.
#include "pixel_fixtures.h"

#include <cmath>

namespace maxcrops_test {
namespace {

INSTANTIATE_TEST_SUITE_P(Isa, PixelKernelsTest, testing::ValuesIn(available_isas()), isa_param);

// -- rounded rows --------------------------------------------------------------------------------------------------

struct RowCase {
    int64_t in, out, patch;
};

void PrintTo(const RowCase& row, std::ostream* out) { *out << row.in << " to " << row.out << " by " << row.patch; }

std::vector<RowCase> row_cases() {
    std::vector<RowCase> cases;
    for (const int64_t patch : {14, 16, 28, 5, 1, 6, 33}) {
        for (const int64_t patches : {1, 2, 3, 7}) {
            const int64_t out = patch * patches;
            for (const int64_t in : {int64_t{1}, int64_t{2}, int64_t{3}, int64_t{7}, int64_t{31}, int64_t{97}, int64_t{509},
                                     out, out + 1, 2 * out, 4 * out, 100 * out}) {
                cases.push_back({in, out, patch});
            }
        }
    }
    return cases;
}

// Source rows with exactly the slack that kernels may read; what lies behind their ends is noise.
std::vector<std::unique_ptr<uint8_t[]>> rows_of(int64_t width, int64_t count, uint64_t seed, uint64_t noise_seed) {
    std::vector<std::unique_ptr<uint8_t[]>> rows;
    for (int64_t i = 0; i < count; ++i) {
        rows.push_back(exact<uint8_t>(3 * width + kRowSlack));
        fill_random(seed + static_cast<uint64_t>(i), rows.back().get(), 3 * width);
        fill_random(noise_seed + static_cast<uint64_t>(i), rows.back().get() + 3 * width, kRowSlack);
    }
    return rows;
}

constexpr float kRowWeights[] = {0.0F, 1.0F, 0.5F, 0.25F, 1e-7F, 0.7234567F};

// A patch whose row y is blended from the source rows y * numerator / denominator and the next: neighbours share both,
// one or none of them.
struct PatchCall {
    int64_t patch;
    bool chained;
    int64_t numerator, denominator;
    uint64_t seed;
};

Bytes blended(const PixelKernels& kernels, const RowPlan& plan, const PatchCall& call, uint64_t noise, uint8_t poison = 0xA5) {
    const int64_t size = plan.patch_size;
    const auto tap = [&](int64_t y) { return y * call.numerator / call.denominator; };
    const int64_t last = tap(size - 1);  // the image ends there
    const auto sources = rows_of(plan.axis.in, last + 1, call.seed, noise);
    std::vector<RowPair> rows;
    for (int64_t y = 0; y < size; ++y) {
        const auto source = [&](int64_t row) { return sources[static_cast<size_t>(std::min(row, last))].get(); };
        const float weight = kRowWeights[(call.seed + static_cast<uint64_t>(y)) % std::size(kRowWeights)];
        rows.push_back({source(tap(y)), source(tap(y) + 1), 1.0F - weight, weight});
    }
    Guarded out(3 * size * size, poison);
    RowsAhead ahead;
    kernels.blend_patch(plan, call.patch, rows.data(), call.chained, ahead, out.data());
    EXPECT_TRUE(out.intact());
    return out.content();
}

constexpr std::pair<int64_t, int64_t> kRowSteps[] = {{0, 1}, {1, 3}, {3, 4}, {1, 1}, {7, 5}, {2, 1}, {5, 1}};

TEST_P(PixelKernelsTest, BlendsPatchesLikeTheScalarLoop) {
    Random random(1);
    for (const RowCase& row : row_cases()) {
        const RowPlan plan = row_plan(row.in, row.out, row.patch);
        for (const auto& [numerator, denominator] : kRowSteps) {
            for (const bool chained : {false, true}) {
                const PatchCall call{random(0, row.out / row.patch - 1), chained, numerator, denominator,
                                     static_cast<uint64_t>(random(0, 1000))};
                ASSERT_EQ(blended(kernels(), plan, call, 8), blended(kScalarPixelKernels, plan, call, 7))
                    << testing::PrintToString(row) << ", patch " << call.patch << ", rows " << numerator << "/" << denominator;
            }
        }
    }
}

TEST_P(PixelKernelsTest, WritesEveryByteOfAPatch) {
    for (const RowCase& row : row_cases()) {
        const RowPlan plan = row_plan(row.in, row.out, row.patch);
        const PatchCall call{row.in % (row.out / row.patch), false, 3, 4, 3};
        ASSERT_EQ(blended(kernels(), plan, call, 4, 0xA5), blended(kernels(), plan, call, 4, 0x5A)) << testing::PrintToString(row);
    }
}

// Patch by patch, all lines of the rows ahead, and not many in one patch.
TEST_P(PixelKernelsTest, AsksForRowsAhead) {
    for (const RowCase& row : row_cases()) {
        const RowPlan plan = row_plan(row.in, row.out, row.patch);
        const auto sources = rows_of(row.in, 2, 5, 6);
        const std::vector<RowPair> pairs(static_cast<size_t>(row.patch), {sources[0].get(), sources[1].get(), 0.5F, 0.5F});
        const std::vector<const uint8_t*> rows = {sources[0].get(), sources[1].get()};
        Bytes out(static_cast<size_t>(3 * row.patch * row.patch));
        RowsAhead ahead{rows.data(), rows.data() + rows.size(), 3 * row.in};
        const int64_t patches = row.out / row.patch, all = num_lines(ahead);
        ASSERT_EQ(all, 2 * ((3 * row.in + 63) / 64));
        ahead.lines_a_patch = ceil_div(all, patches);
        const auto left = [&] { return num_lines(ahead) - ahead.byte / kLine; };
        for (int64_t patch = 0; patch < patches; ++patch) {
            const int64_t before = left();
            kernels().blend_patch(plan, patch, pairs.data(), false, ahead, out.data());
            ASSERT_LE(left(), std::max<int64_t>(before - ahead.lines_a_patch, 0)) << testing::PrintToString(row);
            ASSERT_GE(left(), before - ahead.lines_a_patch - 3 * plan.pieces_a_patch) << testing::PrintToString(row);
        }
        ASSERT_EQ(left(), 0) << testing::PrintToString(row);
    }
}

// What a patch is, from its pixels alone.
TEST(ScalarKernels, BlendsAPatchByDefinition) {
    for (const RowCase& row : row_cases()) {
        const RowPlan plan = row_plan(row.in, row.out, row.patch);
        const TwoTapAxis axis = two_tap_axis(row.in, row.out);
        const auto sources = rows_of(row.in, 2, 5, 6);
        const float v1 = 0.7234567F, v0 = 1.0F - v1;
        const std::vector<RowPair> rows(static_cast<size_t>(row.patch), {sources[0].get(), sources[1].get(), v0, v1});
        for (const bool chained : {false, true}) {
            Bytes out(static_cast<size_t>(3 * row.patch * row.patch));
            const int64_t patch = row.out / row.patch - 1;  // the one that reads the row's end
            RowsAhead ahead;
            kScalarPixelKernels.blend_patch(plan, patch, rows.data(), chained, ahead, out.data());
            for (int64_t i = 0; i < 3 * row.patch; ++i) {
                const auto pixel = static_cast<size_t>(patch * row.patch + i / 3);
                const int64_t left = axis.first[pixel], right = std::min(left + 1, row.in - 1);
                const float u1 = axis.weight[pixel], u0 = 1.0F - u1;
                const float a = sources[0][3 * left + i % 3], b = sources[0][3 * right + i % 3];
                const float c = sources[1][3 * left + i % 3], d = sources[1][3 * right + i % 3];
                const float value =
                    chained ? std::fma(v1 * u1, d, std::fma(v1 * u0, c, std::fma(v0 * u0, a, v0 * u1 * b)))
                            : std::fma(std::fma(a, u0, b * u1), v0, std::fma(c, u0, d * u1) * v1);
                for (int64_t dy = 0; dy < row.patch; ++dy) {
                    ASSERT_EQ(out[static_cast<size_t>(dy * 3 * row.patch + i)], static_cast<uint8_t>(std::nearbyint(value)))
                        << testing::PrintToString(row) << ", value " << i;
                }
            }
        }
    }
}

TEST(RowPlan, PiecesCoverTheRowAndLieInOnePatch) {
    for (const RowCase& row : row_cases()) {
        const RowPlan plan = row_plan(row.in, row.out, row.patch);
        int64_t next = 0;
        for (const RowPlan::Piece& piece : plan.pieces) {
            ASSERT_EQ(piece.pixel, next);
            ASSERT_TRUE(piece.num_values > 0 && piece.num_values <= 48 && piece.num_values % 3 == 0);
            next += piece.num_values / 3;
            ASSERT_EQ(piece.pixel / row.patch, (next - 1) / row.patch);
            ASSERT_EQ(piece.offset, 3 * (piece.pixel % row.patch));
            if (plan.vectorised) {
                ASSERT_GE(piece.num_values, 16);
            }
        }
        ASSERT_EQ(next, row.out);
        ASSERT_EQ(static_cast<int64_t>(plan.pieces.size()), row.out / row.patch * plan.pieces_a_patch);
    }
}

// -- antialiased ---------------------------------------------------------------------------------------------------

TEST_P(PixelKernelsTest, TransposesAndDividesBy255) {
    for (const int64_t width : {1, 2, 5, 16, 17, 86, 97}) {
        std::unique_ptr<uint8_t[]> rows[2][kLanes];
        const uint8_t* pointers[2][kLanes];
        for (uint64_t copy = 0; copy < 2; ++copy) {
            for (size_t lane = 0; lane < kLanes; ++lane) {
                rows[copy][lane] = exact<uint8_t>(3 * width + kRowSlack);
                fill_random(lane, rows[copy][lane].get(), 3 * width);
                fill_random(100 * copy + lane, rows[copy][lane].get() + 3 * width, kRowSlack);
                pointers[copy][lane] = rows[copy][lane].get();
            }
        }
        for (const int64_t begin : {int64_t{0}, width / 2, width - 1}) {
            const auto write = [&](const PixelKernels& k, uint8_t* out) {
                k.transpose_units(pointers[&k == &kScalarPixelKernels], 3 * begin, 3 * width, reinterpret_cast<float*>(out));
            };
            expect_scalar_bytes((width - begin) * 3 * kLanes * 4, 0, write, kernels());
            ASSERT_FALSE(HasFatalFailure()) << width << " from " << begin;
        }
    }
}

float unit_of(Random& random) { return static_cast<float>(random(0, 255)) / 255.0F; }

// A row may be written to the end of a vector of 16 pixels.
constexpr int64_t kVectorRoom = 48;

// kLanes rows behind each other, summed in calls that end at `ends`, each with the columns that it needs and no more.
std::vector<float> summed_columns(const PixelKernels& kernels, const WindowAxis& axis, const std::vector<int64_t>& ends) {
    const int64_t width = static_cast<int64_t>(axis.first.size());
    Random random(static_cast<uint64_t>(axis.in));
    std::vector<float> all(static_cast<size_t>(axis.in * 3 * kLanes));
    for (float& value : all) value = unit_of(random);
    const auto sums = exact<float>(kSumFloats);
    std::fill_n(sums.get(), kSumFloats, -9.0F);
    std::unique_ptr<float[]> rows[kLanes];
    float* pointers[kLanes];
    for (size_t lane = 0; lane < kLanes; ++lane) {
        rows[lane] = exact<float>(3 * width + kVectorRoom);
        std::fill_n(rows[lane].get(), 3 * width + kVectorRoom, -7.0F);
        pointers[lane] = rows[lane].get();
    }
    int64_t begin = 0;
    for (const int64_t end : ends) {
        const int64_t origin = axis.first[static_cast<size_t>(begin)], pixels = axis.end(end - 1) - origin;
        const auto columns = exact<float>(pixels * 3 * kLanes);
        std::copy_n(all.begin() + origin * 3 * kLanes, pixels * 3 * kLanes, columns.get());
        kernels.sum_columns(axis, columns.get(), origin, begin, end, sums.get(), pointers);
        begin = end;
    }
    std::vector<float> result;
    for (const auto& row : rows) result.insert(result.end(), row.get(), row.get() + 3 * width);
    return result;
}

TEST_P(PixelKernelsTest, SumsColumnsLikeTheScalarLoopHoweverTheyCome) {
    Random random(3);
    for (const auto& [in, out] : std::vector<std::pair<int64_t, int64_t>>{
             {1, 1}, {1, 50}, {2, 17}, {3, 97}, {97, 97}, {97, 31}, {1000, 10}, {640, 378}, {379, 378}, {53, 211}, {12, 5}}) {
        const WindowAxis axis = window_axis(in, out);
        const std::vector<float> expected = summed_columns(kScalarPixelKernels, axis, {out});
        for (const float value : expected) ASSERT_TRUE(value >= 0.0F && value < 1.01F);
        for (int i = 0; i < 12; ++i) {
            std::vector<int64_t> ends;
            for (int64_t end = 0; i > 0 && (end = random(end + 1, std::min(end + 40, out))) < out;) ends.push_back(end);
            ends.push_back(out);
            ASSERT_EQ(summed_columns(kernels(), axis, ends), expected) << in << " to " << out;
        }
    }
}

TEST_P(PixelKernelsTest, SumsRowsLikeTheScalarLoop) {
    Random random(4);
    const UnitNormalization normalization = unit_normalization({0.48145466F, 0.0F, 0.40821073F}, {0.26862954F, 1.0F, 0.27577711F});
    for (const int64_t num_rows : {1, 2, 3, 4, 5, 6, 7, 8, 9, 201, 255, 256, 257, 300}) {
        for (const int64_t count : {3, 6, 15, 18, 21, 24, 27, 30, 45, 48, 51, 69, 72, 75, 96, 291}) {
            std::vector<std::unique_ptr<float[]>> rows;
            std::vector<const float*> pointers;
            const auto weights = exact<float>(num_rows);
            for (int64_t j = 0; j < num_rows; ++j) {
                rows.push_back(exact<float>(count));
                for (int64_t i = 0; i < count; ++i) rows.back()[static_cast<size_t>(i)] = unit_of(random);
                pointers.push_back(rows.back().get());
                // Sums pass 1 now and then, so that they are clipped.
                weights[static_cast<size_t>(j)] = 2.0F * unit_of(random) / static_cast<float>(num_rows);
            }
            for (const auto& [first, patch_size] : std::vector<std::pair<int64_t, int64_t>>{{0, 100}, {3, 14}, {36, 14}, {0, 1}, {6, 5}}) {
                const int64_t width = 3 * patch_size, patches = (first + count + width - 1) / width;
                const auto write = [&, first = first, patch_size = patch_size](const PixelKernels& k, uint8_t* out) {
                    std::memset(out, 0x7F, static_cast<size_t>(4 * patches * width * patch_size));
                    k.sum_rows(pointers.data(), weights.get(), num_rows, count, normalization, first, patch_size,
                               reinterpret_cast<float*>(out));
                };
                expect_scalar_bytes(4 * patches * width * patch_size, 0, write, kernels());
                ASSERT_FALSE(HasFatalFailure()) << num_rows << " rows of " << count << " from " << first << " by " << patch_size;
            }
        }
    }
}

}  // namespace
}  // namespace maxcrops_test
