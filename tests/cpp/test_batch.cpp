// Batch counting: every instruction set and number of threads gives what make_layout gives, and the same errors.
#include "fixtures.h"

#include <cstdlib>
#include <limits>
#include <stdexcept>
#include <string>

#include "batch.h"
#include "batch_kernels.h"
#include "cpu_features.h"

namespace maxcrops_test {
namespace {

constexpr const char* kIsaVariable = "MAXCROPS_CPU_ISA";

// Sets the variable, and puts it back as it was.
class ForcedIsa {
public:
    explicit ForcedIsa(const char* name) {
        if (const char* old = std::getenv(kIsaVariable)) before_ = old;
        setenv(kIsaVariable, name, 1);
    }
    ~ForcedIsa() {
        if (before_) {
            setenv(kIsaVariable, before_->c_str(), 1);
        } else {
            unsetenv(kIsaVariable);
        }
    }
    ForcedIsa(const ForcedIsa&) = delete;
    ForcedIsa& operator=(const ForcedIsa&) = delete;

private:
    std::optional<std::string> before_;
};

std::vector<int64_t> random_sizes(uint64_t seed, int64_t n) {
    Random random(seed);
    std::vector<int64_t> sizes;
    for (int64_t i = 0; i < 2 * n; ++i) {
        const int64_t kind = random(0, 19);
        sizes.push_back(kind == 0 ? random(1, kMaxSide) : kind == 1 ? random(1, 130) : random(1, 5000));
    }
    return sizes;
}

struct Results {
    std::vector<int64_t> counts[4];
    std::vector<int64_t> grids;
    std::vector<double> scales;
};

bool operator==(const Results& a, const Results& b) {
    for (size_t i = 0; i < 4; ++i) {
        if (a.counts[i] != b.counts[i]) return false;
    }
    return a.grids == b.grids && a.scales == b.scales;
}

Results run_batch(const Spec& spec, const std::vector<int64_t>& sizes, int threads) {
    const int64_t n = static_cast<int64_t>(sizes.size()) / 2;
    const Knob knob = knob_of(spec);
    Results results;
    for (size_t i = 0; i < 4; ++i) {
        results.counts[i].assign(static_cast<size_t>(n), -7);
        count_batch(spec, knob, kAllCounts[i], sizes.data(), n, threads, results.counts[i].data());
    }
    results.grids.assign(static_cast<size_t>(2 * n), -7);
    grid_batch(spec, knob, sizes.data(), n, threads, results.grids.data());
    results.scales.assign(static_cast<size_t>(n), -7);
    scale_batch(spec, knob, sizes.data(), n, threads, results.scales.data());
    return results;
}

Results run_layouts(const Spec& spec, const std::vector<int64_t>& sizes) {
    Results results;
    const Knob knob = knob_of(spec);
    for (size_t i = 0; i < sizes.size(); i += 2) {
        const Layout layout = make_layout(spec, knob, {sizes[i], sizes[i + 1]});
        for (size_t k = 0; k < 4; ++k) results.counts[k].push_back(count_in(layout, kAllCounts[k]));
        results.grids.insert(results.grids.end(), {layout.grid.rows, layout.grid.cols});
        results.scales.push_back(layout.scale());
    }
    return results;
}

TEST(Batch, EveryIsaEqualsMakeLayoutAtBlockBoundaries) {
    for (const Spec& spec : all_specs()) {
        for (const int64_t n : {0, 1, 2, 7, 8, 9, 511, 512, 513, 1024, 2000}) {
            const std::vector<int64_t> sizes = random_sizes(static_cast<uint64_t>(n), n);
            const Results expected = run_layouts(spec, sizes);
            for (const Isa isa : available_isas()) {
                const ForcedIsa forced(isa_name(isa));
                ASSERT_TRUE(run_batch(spec, sizes, 1) == expected) << spec.name << " " << isa_name(isa) << " n " << n;
            }
        }
    }
}

TEST(Batch, AnyNumberOfThreadsGivesTheSame) {
    const std::vector<int64_t> sizes = random_sizes(1, 100000);
    for (const Spec& spec : {overlapping_stitched(), overlapping_pooled_across(64), tiled_ceil_grid(),
                             stitched_best_resolution()}) {
        const Results expected = run_layouts(spec, sizes);
        for (const int threads : {-1, 0, 1, 2, 3, 5, 64}) {
            ASSERT_TRUE(run_batch(spec, sizes, threads) == expected) << spec.name << " " << threads << " threads";
        }
    }
}

TEST(Batch, EveryIsaEqualsTheOthersAtTheLimits) {
    std::vector<int64_t> sides = {1, 2, 3, 111, 112, 113, 223, 224, 225, 1 << 20, (1 << 20) + 1, (1 << 30) - 1};
    for (int64_t i = 0; i < 4; ++i) sides.push_back(kMaxSide - i);
    std::vector<int64_t> sizes;
    for (const int64_t height : sides) {
        for (const int64_t width : sides) sizes.insert(sizes.end(), {height, width});
    }
    Random random(2);
    for (int i = 0; i < 20000; ++i) sizes.push_back(random(1, kMaxSide));
    for (Spec spec : {overlapping_stitched(), overlapping_pooled_across(), tiled_scale_fit(2)}) {
        for (const int64_t max_crops : {int64_t{1}, int64_t{2}, int64_t{999983}, kMaxCropsLimit - 1, kMaxCropsLimit}) {
            spec.grid.max_crops = max_crops;
            const Results expected = run_layouts(spec, sizes);
            for (const Isa isa : available_isas()) {
                const ForcedIsa forced(isa_name(isa));
                ASSERT_TRUE(run_batch(spec, sizes, 1) == expected) << spec.name << " " << isa_name(isa);
            }
        }
    }
}

// The best grid from every number of rows with the most columns, in exact fractions. Enough for scales below 1.
Grid exact_largest_scale(int64_t max_crops, Size image) {
    Scale best{0, 1};
    for (int64_t rows = 1; rows <= max_crops; ++rows) {
        best = std::max(best, std::min(scale_of(rows, image.height), scale_of(max_crops / rows, image.width)));
    }
    const auto crops = [&](int64_t side) {  // ceil(best * side)
        return static_cast<int64_t>((best.num * side + best.den - 1) / best.den);
    };
    return {crops(image.height), crops(image.width)};
}

TEST(Batch, LargestSidesAndKnobsEqualExactFractions) {
    Random random(3);
    std::vector<int64_t> sizes = {kMaxSide, kMaxSide, kMaxSide, kMaxSide - 1, kMaxSide, 2000, 1999, kMaxSide};
    for (int i = 0; i < 16; ++i) sizes.push_back(random(kMaxSide / 2, kMaxSide));
    const int64_t n = static_cast<int64_t>(sizes.size()) / 2;
    for (const int64_t max_crops : {int64_t{1000003}, kMaxCropsLimit}) {
        const Spec spec = tiled_scale_fit(2, max_crops);
        std::vector<int64_t> expected;
        for (size_t i = 0; i < sizes.size(); i += 2) {
            const Grid grid = exact_largest_scale(max_crops, {sizes[i], sizes[i + 1]});
            expected.insert(expected.end(), {grid.rows, grid.cols});
        }
        for (const Isa isa : available_isas()) {
            const ForcedIsa forced(isa_name(isa));
            std::vector<int64_t> grids(sizes.size());
            grid_batch(spec, knob_of(spec), sizes.data(), n, 1, grids.data());
            EXPECT_EQ(grids, expected) << isa_name(isa) << " max_crops " << max_crops;
        }
    }
}

std::string error_of(const Spec& spec, const std::vector<int64_t>& sizes, int threads, int what) {
    const int64_t n = static_cast<int64_t>(sizes.size()) / 2;
    std::vector<int64_t> out(sizes.size());
    std::vector<double> scales(sizes.size());
    try {
        if (what == 0) count_batch(spec, knob_of(spec), Count::kSequenceTokens, sizes.data(), n, threads, out.data());
        if (what == 1) grid_batch(spec, knob_of(spec), sizes.data(), n, threads, out.data());
        if (what == 2) scale_batch(spec, knob_of(spec), sizes.data(), n, threads, scales.data());
    } catch (const std::invalid_argument& error) {
        return error.what();
    }
    return "";
}

const std::vector<int64_t> kBadSides = {0, -1, kMaxSide + 1, int64_t{1} << 32, (int64_t{1} << 52) + 1,
                                        std::numeric_limits<int64_t>::max(), std::numeric_limits<int64_t>::min()};

TEST(BatchErrors, NameTheRowAtEveryPositionOfABlock) {
    std::vector<int64_t> sizes = random_sizes(4, 1100);
    for (const Spec& spec : {overlapping_stitched(), tiled_closest_ratio()}) {
        for (const Isa isa : available_isas()) {
            const ForcedIsa forced(isa_name(isa));
            for (size_t row = 0; row < 1100; row += row < 513 ? 1 : 37) {
                const size_t side = 2 * row + row / 2 % 2;
                const int64_t good = sizes[side];
                sizes[side] = kBadSides[row % kBadSides.size()];
                const std::string name = "sizes[" + std::to_string(row) + "]";
                for (int what = 0; what < 3; ++what) {
                    const std::string message = error_of(spec, sizes, 1, what);
                    ASSERT_NE(message.find(name), std::string::npos) << isa_name(isa) << ": " << message;
                    ASSERT_NE(message.find(std::to_string(sizes[side])), std::string::npos) << message;
                }
                sizes[side] = good;
            }
            EXPECT_EQ(error_of(spec, sizes, 1, 0), "");
        }
    }
}

TEST(BatchErrors, NameTheFirstBadRowWithAnyNumberOfThreads) {
    std::vector<int64_t> sizes = random_sizes(5, 100000);
    for (const size_t row : {40000u, 40001u, 77777u, 99999u}) sizes[2 * row + 1] = 0;
    for (const Spec& spec : {overlapping_stitched(), tiled_ceil_grid()}) {
        for (const int threads : {1, 2, 4, 6, 64}) {
            for (int what = 0; what < 3; ++what) {
                EXPECT_NE(error_of(spec, sizes, threads, what).find("sizes[40000]"), std::string::npos) << threads;
            }
        }
    }
}

TEST(Isa, ForcedByTheEnvironment) {
    const std::vector<Isa> isas = available_isas();
    ASSERT_FALSE(isas.empty());
    EXPECT_EQ(isas.front(), Isa::kScalar);
    {
        const ForcedIsa forced("");
        EXPECT_EQ(active_isa(), isas.back());
    }
    for (const Isa isa : isas) {
        const ForcedIsa forced(isa_name(isa));
        EXPECT_EQ(active_isa(), isa);
    }
    EXPECT_NE(&batch_kernels(isas.back()), nullptr);
}

TEST(Isa, UnknownNameIsAnErrorThatListsTheKnownOnes) {
    for (const char* name : {"sse9", "AVX2", "scalar ", "avx"}) {
        const ForcedIsa forced(name);
        const std::string message = error_of(overlapping_stitched(), {1, 1}, 1, 0);
        EXPECT_NE(message.find(kIsaVariable), std::string::npos) << message;
        EXPECT_NE(message.find(name), std::string::npos) << message;
        for (const Isa isa : available_isas()) EXPECT_NE(message.find(isa_name(isa)), std::string::npos) << message;
    }
}

// Each kernel by itself: loading refuses a bad side anywhere, and counts of every formula agree.
TEST(Kernels, EveryIsaEqualsScalar) {
    const std::vector<int64_t> sizes = random_sizes(6, 777);
    const int64_t n = 777;
    const auto run = [&](const Spec& spec, Count what, Isa isa) {
        const BatchKernels& kernels = batch_kernels(isa);
        std::vector<double> h(777), w(777), rows(777), cols(777);
        std::vector<int64_t> out(777);
        EXPECT_TRUE(kernels.load_sizes(sizes.data(), n, h.data(), w.data()));
        for (size_t i = 0; i < 777; ++i) {
            EXPECT_TRUE(h[i] == static_cast<double>(sizes[2 * i]) && w[i] == static_cast<double>(sizes[2 * i + 1]));
        }
        kernels.scale_fit(scale_fit_params(spec, spec.grid.max_crops), h.data(), w.data(), n, rows.data(), cols.data());
        kernels.counts(count_formula(spec, {}, what), rows.data(), cols.data(), n, out.data());
        return std::make_tuple(rows, cols, out);
    };
    const std::vector<Spec> specs = {overlapping_stitched(), overlapping_pooled_across(kMaxCropsLimit),
                                     tiled_scale_fit(7, 64)};
    for (const Spec& spec : specs) {
        for (const Count what : kAllCounts) {
            for (const Isa isa : available_isas()) EXPECT_EQ(run(spec, what, isa), run(spec, what, Isa::kScalar));
        }
    }
}

}  // namespace
}  // namespace maxcrops_test
