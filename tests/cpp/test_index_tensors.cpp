// The index tensors against maps that are written down patch by patch and feature by feature.
#include "pixel_fixtures.h"

#include <numeric>
#include <stdexcept>

#include "pixels/index_tensors.h"

namespace maxcrops_test {
namespace {

using Map = std::vector<std::vector<int64_t>>;

constexpr int64_t kBeyond = -1;

struct CropCase {
    int64_t patches, left_margin, right_margin;
};

constexpr CropCase kCropCases[] = {{4, 0, 0}, {5, 0, 0}, {5, 1, 1}, {7, 2, 1}, {8, 0, 3}, {9, 4, 2}, {6, 3, 0}, {1, 0, 0}};

// Patches of 2 px: what is tested is arithmetic on indices.
Spec index_spec(CropCase crop, int64_t pooling_rows, int64_t pooling_cols, Grid grid, bool global_first, bool across) {
    Spec spec = pixel_spec({2, crop.patches, crop.left_margin, crop.right_margin});
    spec.grid.policy = GridPolicy::kFixed;
    spec.grid.fixed_grid = grid;
    spec.crop.pooling_rows = pooling_rows;
    spec.crop.pooling_cols = pooling_cols;
    spec.crop.global_first = global_first;
    spec.tokens.shape = TokenShape::kStitched;
    spec.tokens.col_tokens = 1;
    spec.tokens.map_extra = spec.tokens.global_extra = 2;
    spec.tokens.pool_across_crops = across;
    return spec;
}

// Whether a crop's patch, counted along one axis, is its own: margins belong to the neighbour where there is one.
bool owned(const CropCase& crop, int64_t patch, int64_t index, int64_t count) {
    return (index == 0 || patch >= crop.left_margin) && (index == count - 1 || patch < crop.patches - crop.right_margin);
}

// Patches of one crop, numbered from `first`.
Map patches_of_crop(const CropCase& crop, int64_t first) {
    Map map(static_cast<size_t>(crop.patches), std::vector<int64_t>(static_cast<size_t>(crop.patches)));
    for (std::vector<int64_t>& row : map) {
        std::iota(row.begin(), row.end(), first);
        first += crop.patches;
    }
    return map;
}

// Crops side by side, each without what is its neighbours'.
Map stitched_map(const CropCase& crop, Grid grid, int64_t first) {
    Map map;
    for (int64_t row = 0; row < grid.rows; ++row) {
        for (int64_t y = 0; y < crop.patches; ++y) {
            if (!owned(crop, y, row, grid.rows)) continue;
            map.emplace_back();
            for (int64_t col = 0; col < grid.cols; ++col) {
                const int64_t number = first + (row * grid.cols + col) * crop.patches * crop.patches + y * crop.patches;
                for (int64_t x = 0; x < crop.patches; ++x) {
                    if (owned(crop, x, col, grid.cols)) map.back().push_back(number + x);
                }
            }
        }
    }
    return map;
}

// Padded around until pooling divides it, the larger part behind; then windows, row by row.
void append_pooled(Map map, int64_t pooling_rows, int64_t pooling_cols, std::vector<int32_t>* out) {
    bool behind = true;
    for (; map.size() % static_cast<size_t>(pooling_rows) != 0; behind = !behind) {
        map.insert(behind ? map.end() : map.begin(), std::vector<int64_t>(map[0].size(), kBeyond));
    }
    behind = true;
    for (; map[0].size() % static_cast<size_t>(pooling_cols) != 0; behind = !behind) {
        for (std::vector<int64_t>& row : map) row.insert(behind ? row.end() : row.begin(), kBeyond);
    }
    for (size_t y = 0; y < map.size(); y += static_cast<size_t>(pooling_rows)) {
        for (size_t x = 0; x < map[0].size(); x += static_cast<size_t>(pooling_cols)) {
            for (size_t i = 0; i < static_cast<size_t>(pooling_rows * pooling_cols); ++i) {
                const auto cols = static_cast<size_t>(pooling_cols);
                out->push_back(static_cast<int32_t>(map[y + i / cols][x + i % cols]));
            }
        }
    }
}

// Calls check(crop, spec, layout) for every grid, pooling and place of the global crop that a spec may have.
template <typename Check>
void for_index_cases(bool across, const Check& check) {
    for (const CropCase& crop : kCropCases) {
        for (int64_t pooling = 0; pooling < 9; ++pooling) {
            for (int64_t grid = 0; grid < 36; ++grid) {
                for (const bool global_first : {true, false}) {
                    const Spec spec = index_spec(crop, pooling / 3 + 1, pooling % 3 + 1, {grid / 6 + 1, grid % 6 + 1},
                                                 global_first, across);
                    try {
                        validate(spec);
                    } catch (const std::invalid_argument&) {
                        continue;
                    }
                    check(crop, spec, make_layout(spec, knob_of(spec), {70, 100}));
                    if (testing::Test::HasFatalFailure()) {
                        FAIL() << "crops of " << crop.patches << " patches with margins " << crop.left_margin << ", "
                               << crop.right_margin << "; pooling " << spec.crop.pooling_rows << "x"
                               << spec.crop.pooling_cols << "; grid " << grid / 6 + 1 << "x" << grid % 6 + 1
                               << "; global first: " << global_first;
                    }
                }
            }
        }
    }
}

TEST(IndexTensors, TokenPoolingCutsTheStitchedMap) {
    int cases = 0;
    for_index_cases(true, [&](const CropCase& crop, const Spec& spec, const Layout& layout) {
        const int64_t area = crop.patches * crop.patches, first = 1000;
        std::vector<int32_t> expected;
        const auto pool = [&](const Map& map) {
            append_pooled(map, spec.crop.pooling_rows, spec.crop.pooling_cols, &expected);
        };
        if (spec.crop.global_first) pool(patches_of_crop(crop, first));
        pool(stitched_map(crop, layout.grid, first + (spec.crop.global_first ? area : 0)));
        if (!spec.crop.global_first) pool(patches_of_crop(crop, first + layout.grid.count() * area));

        const int64_t count = feature_grids(spec, layout).count() * spec.crop.pooling_rows * spec.crop.pooling_cols;
        ASSERT_EQ(count, static_cast<int64_t>(expected.size()));
        ASSERT_EQ(layout.connector_outputs, feature_grids(spec, layout).count());
        const auto out = exact<int32_t>(count);
        token_pooling(spec, layout, static_cast<int32_t>(first), out.get());
        ASSERT_TRUE(std::equal(expected.begin(), expected.end(), out.get()));
        ++cases;
    });
    EXPECT_GT(cases, 4000);
}

// Tokens one by one: start, features with a column token behind each row, end.
std::vector<int32_t> written_tokens(const Spec& spec, const FeatureGrids& grids) {
    std::vector<int32_t> tokens;
    const auto write = [&](Grid grid, int64_t col_tokens) {
        if (grid.count() == 0) return;
        tokens.push_back(12);
        for (int64_t row = 0; row < grid.rows; ++row) {
            for (int64_t col = 0; col < grid.cols; ++col) tokens.push_back(10);
            for (int64_t col = 0; col < col_tokens; ++col) tokens.push_back(11);
        }
        tokens.push_back(13);
    };
    write(grids.global, spec.tokens.low_res_col_tokens);
    write(grids.local, spec.tokens.col_tokens);
    return tokens;
}

TEST(IndexTensors, ImageTokensAreWrittenOneByOne) {
    for (const bool across : {true, false}) {
        for_index_cases(across, [&](const CropCase&, Spec spec, const Layout&) {
            for (const int64_t low_res_col_tokens : {0, 1, 2}) {
                spec.tokens.low_res_col_tokens = low_res_col_tokens;
                const Layout layout = make_layout(spec, knob_of(spec), {70, 100});
                const std::vector<int32_t> expected = written_tokens(spec, feature_grids(spec, layout));
                ASSERT_EQ(layout.sequence_tokens, static_cast<int64_t>(expected.size()));
                const auto out = exact<int32_t>(layout.sequence_tokens);
                const int32_t ids[4] = {10, 11, 12, 13};
                image_tokens(spec, layout, ids, out.get());
                ASSERT_TRUE(std::equal(expected.begin(), expected.end(), out.get()));
            }
        });
    }
}

// Positions of the feature tokens, dealt out to the crops that own them: rows of the map pass through the crops.
TEST(IndexTensors, FeaturePositionsDealTheTokensToTheirOwners) {
    int cases = 0;
    for_index_cases(false, [&](const CropCase& crop, const Spec& spec, const Layout& layout) {
        // With a pooling that does not divide a window, who owns a feature is no question of patches.
        const int64_t p = spec.crop.pooling_rows, q = spec.crop.pooling_cols;
        if (crop.patches % p != 0 || crop.patches % q != 0 || !spec.crop.global_first) return;
        const int64_t rows = crop.patches / p, cols = crop.patches / q;
        std::vector<int32_t> positions;
        const std::vector<int32_t> tokens = written_tokens(spec, feature_grids(spec, layout));
        for (size_t i = 0; i < tokens.size(); ++i) {
            if (tokens[i] == 10) positions.push_back(500 + static_cast<int32_t>(i));
        }
        std::vector<int32_t> expected(static_cast<size_t>(layout.num_crops * rows * cols), -100);
        auto next = positions.begin();
        for (int64_t i = 0; i < rows * cols; ++i) expected[static_cast<size_t>(i)] = *next++;
        for (int64_t i = 0; i < layout.grid.rows * rows; ++i) {
            for (int64_t j = 0; j < layout.grid.cols * cols; ++j) {
                const int64_t row = i / rows, col = j / cols;
                if (!owned(crop, i % rows * p, row, layout.grid.rows)) continue;
                if (!owned(crop, j % cols * q, col, layout.grid.cols)) continue;
                const int64_t at = (1 + row * layout.grid.cols + col) * rows * cols + i % rows * cols + j % cols;
                expected[static_cast<size_t>(at)] = *next++;
            }
        }
        ASSERT_TRUE(next == positions.end());
        const auto out = exact<int32_t>(static_cast<int64_t>(expected.size()));
        feature_positions(spec, layout, 500, -100, out.get());
        ASSERT_TRUE(std::equal(expected.begin(), expected.end(), out.get()));
        ++cases;
    });
    EXPECT_GT(cases, 500);
}

TEST(IndexTensors, FeaturePositionsNameEachFeatureTokenOnce) {
    for_index_cases(false, [](const CropCase& crop, const Spec& spec, const Layout& layout) {
        const int64_t features =
            ceil_div(crop.patches, spec.crop.pooling_rows) * ceil_div(crop.patches, spec.crop.pooling_cols);
        std::vector<int32_t> positions(static_cast<size_t>(layout.num_crops * features));
        if (layout.has_global && layout.grid.count() > 0 && !spec.crop.global_first) {
            EXPECT_THROW(feature_positions(spec, layout, 0, -1, positions.data()), std::invalid_argument);
            return;
        }
        feature_positions(spec, layout, 0, -1, positions.data());
        std::vector<int32_t> used, expected;
        std::copy_if(positions.begin(), positions.end(), std::back_inserter(used), [](int32_t at) { return at >= 0; });
        std::sort(used.begin(), used.end());
        const std::vector<int32_t> tokens = written_tokens(spec, feature_grids(spec, layout));
        for (size_t i = 0; i < tokens.size(); ++i) {
            if (tokens[i] == 10) expected.push_back(static_cast<int32_t>(i));
        }
        ASSERT_EQ(used, expected);
    });
}

TEST(IndexTensors, RefuseTokensThatTheLayoutDoesNotCount) {
    const Spec good = index_spec({5, 0, 0}, 1, 1, {2, 2}, true, false);
    std::vector<Spec> specs(5, good);
    specs[0].tokens.map_extra = 0;
    specs[1].tokens.global_extra = 1;
    specs[2].tokens.image_extra = 1;
    specs[3].tokens.unpad = Unpad::kByRatio;
    specs[3].crop.fit = Fit::kLetterboxTrunc;
    specs[4].grid.policy = GridPolicy::kBestResolution;
    specs[4].grid.resolutions = {{13, 15}};  // crops that reach over the canvas
    for (const Spec& spec : specs) {
        validate(spec);
        const Layout layout = make_layout(spec, knob_of(spec), {30, 100});
        int32_t out[1000];
        const int32_t ids[4] = {0, 1, 2, 3};
        EXPECT_THROW(image_tokens(spec, layout, ids, out), std::invalid_argument);
        EXPECT_THROW(feature_positions(spec, layout, 0, -1, out), std::invalid_argument);
    }
    int32_t out[1000];
    const int32_t ids[4] = {0, 1, 2, 3};
    EXPECT_NO_THROW(image_tokens(good, make_layout(good, knob_of(good), {30, 100}), ids, out));
}

TEST(IndexTensors, PatchMasksCountPixels) {
    for (const Fit fit : {Fit::kStretch, Fit::kLetterboxTrunc, Fit::kLetterboxCeil}) {
        for (const bool global_first : {true, false}) {
            for (const Grid grid : {Grid{0, 0}, Grid{1, 1}, Grid{2, 3}, Grid{6, 1}}) {
                for (const Size size : {Size{70, 100}, Size{3, 200}, Size{97, 1}, Size{1, 1}}) {
                    Spec spec = index_spec({5, 1, 1}, 1, 1, grid, global_first, true);
                    spec.crop.patch_size = 7;
                    spec.crop.crop_size = 35;
                    spec.crop.fit = spec.crop.global_fit = fit;
                    const Layout layout = make_layout(spec, knob_of(spec), size);
                    std::vector<float> expected;
                    for (const View& view : layout.views()) {
                        if (view.is_global && grid.count() > 0) continue;
                        const Box& box = view.content;
                        for (const Box& crop : view.crops) {
                            for (int64_t patch = 0; patch < 25; ++patch) {
                                int pixels = 0;
                                for (int64_t i = 0; i < 49; ++i) {
                                    const int64_t y = crop.top + patch / 5 * 7 + i / 7 - box.top;
                                    const int64_t x = crop.left + patch % 5 * 7 + i % 7 - box.left;
                                    pixels += y >= 0 && y < box.height && x >= 0 && x < box.width;
                                }
                                expected.push_back(static_cast<float>(pixels) / 49.0F);
                            }
                        }
                    }
                    if (grid.count() > 0) expected.resize(expected.size() + 25, -1.0F);
                    const auto out = exact<float>(layout.num_crops * 25);
                    ASSERT_EQ(static_cast<int64_t>(expected.size()), layout.num_crops * 25);
                    patch_masks(layout, out.get());
                    ASSERT_TRUE(std::equal(expected.begin(), expected.end(), out.get()));
                }
            }
        }
    }
}

}  // namespace
}  // namespace maxcrops_test
