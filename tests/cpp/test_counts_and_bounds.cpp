// Counts against sums that walk through every crop, row and feature; bounds against all small images.
#include "fixtures.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "bounds.h"
#include "bounds_within.h"
#include "grid_policies.h"
#include "reach.h"

namespace maxcrops_test {
namespace {

int64_t naive_tiled(const Spec& spec, Grid grid, Count what) {
    const TokenRule& t = spec.tokens;
    const int64_t patches = spec.crop.crop_patches() * spec.crop.crop_patches();
    const bool sequence = what == Count::kSequenceTokens;
    const auto of_crop = [&](int64_t features, int64_t extra) {
        if (what == Count::kCrops) return int64_t{1};
        if (what == Count::kCrossAttentionKeys) return t.cross_attention_keys;
        const int64_t keys = what == Count::kConnectorOutputs ? t.cross_attention_keys : 0;
        return what == Count::kVitPatches ? patches : features + keys + (sequence ? extra : 0);
    };
    int64_t sum = sequence ? t.image_extra : 0;
    for (int64_t row = 0; row < grid.rows; ++row) {
        if (sequence && row > 0) sum += t.row_separator;
        for (int64_t col = 0; col < grid.cols; ++col) sum += of_crop(t.tokens_per_crop, t.crop_extra);
        if (sequence) sum += t.row_end;
    }
    if (sequence && grid.count() > 1) sum += t.split_extra;
    if (spec.crop.has_global(grid)) sum += of_crop(t.global_tokens, t.global_extra);
    return sum;
}

// Features along one side of the stitched map: the outer margins of the first and last crop and the windows between.
int64_t naive_map_side(const CropRule& crop, bool across, int64_t crops, int64_t pooling) {
    if (crops == 0) return 0;
    int64_t features = 0;
    int64_t stitched = 0;
    const auto segment = [&](int64_t patches) {
        for (int64_t i = 0; i < patches; ++i, ++stitched) {
            if ((across ? stitched : i) % pooling == 0) ++features;
        }
    };
    segment(crop.left_margin);
    for (int64_t i = 0; i < crops; ++i) segment(crop.crop_patches() - crop.left_margin - crop.right_margin);
    segment(crop.right_margin);
    return features;
}

int64_t naive_stitched(const Spec& spec, Grid grid, Count what) {
    const TokenRule& t = spec.tokens;
    const CropRule& crop = spec.crop;
    const auto pooled = [&](int64_t patches, int64_t pooling) {
        int64_t features = 0;
        for (int64_t patch = 0; patch < patches; patch += pooling) ++features;
        return features;
    };
    const int64_t rows = pooled(crop.crop_patches(), crop.pooling_rows);
    const int64_t cols = pooled(crop.crop_patches(), crop.pooling_cols);
    const int64_t map_rows = naive_map_side(crop, t.pool_across_crops, grid.rows, crop.pooling_rows);
    const int64_t map_cols = naive_map_side(crop, t.pool_across_crops, grid.cols, crop.pooling_cols);
    const bool global = crop.has_global(grid);
    if (what == Count::kConnectorOutputs) {
        const int64_t local = t.pool_across_crops ? map_rows * map_cols : grid.count() * rows * cols;
        return local + (global ? rows * cols : 0);
    }
    int64_t sum = t.image_extra;
    if (global) sum += rows * (cols + t.low_res_col_tokens) + t.global_extra;
    if (grid.count() > 0) sum += t.map_extra;
    for (int64_t row = 0; row < map_rows; ++row) sum += map_cols + t.col_tokens;
    return sum;
}

int64_t naive_count(const Spec& spec, Grid grid, Count what) {
    const bool stitched = spec.tokens.shape == TokenShape::kStitched;
    const bool features = what == Count::kSequenceTokens || what == Count::kConnectorOutputs;
    return stitched && features ? naive_stitched(spec, grid, what) : naive_tiled(spec, grid, what);
}

// Random small rules that validate() accepts, of one policy.
Spec random_spec(Random& random, GridPolicy policy) {
    const bool overlaps = (policy == GridPolicy::kScaleFit || policy == GridPolicy::kFixed) && random.coin();
    Spec spec;
    spec.name = "random";
    CropRule& crop = spec.crop;
    crop.patch_size = random(1, 2);
    crop.crop_size = random(3, 7) * crop.patch_size;
    crop.pooling_rows = random(1, 2);
    crop.pooling_cols = random(1, 2);
    crop.left_margin = overlaps ? random(0, 1) : 0;
    crop.right_margin = overlaps ? random(0, 1) : 0;
    crop.global_crop = GlobalCrop(random(0, 3));
    crop.global_first = random.coin();
    TokenRule& t = spec.tokens;
    for (int64_t* field : {&t.image_extra, &t.global_extra, &t.tokens_per_crop, &t.crop_extra, &t.row_end,
                           &t.row_separator, &t.global_tokens, &t.split_extra, &t.col_tokens, &t.map_extra,
                           &t.low_res_col_tokens, &t.cross_attention_keys}) {
        *field = random.coin() ? random(1, 9) : 0;
    }
    const bool in_parts = policy == GridPolicy::kPanAndScan || policy == GridPolicy::kWindowSnap;
    t.shape = !in_parts && random.coin() ? TokenShape::kStitched : TokenShape::kTiled;
    const bool divisible = crop.margin_patches() == 0 || (crop.pooling_rows == 1 && crop.pooling_cols == 1);
    t.pool_across_crops = !divisible || random.coin();
    GridRule& grid = spec.grid;
    grid.policy = policy;
    grid.max_crops = random(1, 10);
    grid.min_crops = random(1, 3);
    grid.clamp_reduced_sides = random.coin();
    grid.largest_upscaling = random.coin();
    grid.split = SplitGate(random(0, 3));
    grid.split_tolerance = static_cast<double>(random(0, 20)) / 10.0;
    crop.max_features = random(1, 9);
    grid.compensated_sum = random.coin();
    grid.max_grid_side = random.coin() ? random(1, 6) : 0;
    grid.covering_threshold = static_cast<double>(random(3, 9)) / 10.0;
    grid.transposed = random.coin();
    grid.min_slice_size = random(1, 9);
    grid.min_ratio = 1.0 + static_cast<double>(random(0, 30)) / 10.0;
    grid.max_image_size = random(1, 60);
    grid.fixed_grid = {random(1, 3), random(1, 3)};
    if (policy == GridPolicy::kFixed && random(0, 3) == 0) grid.fixed_grid = {0, 0};
    grid.longest_edge = random(1, 5 * crop.crop_size);
    grid.longest_edge_limit = random(1, 5 * crop.crop_size);
    const bool listed = policy == GridPolicy::kBestResolution;
    const bool can_unpad = policy == GridPolicy::kScaleFit || policy == GridPolicy::kClosestRatio || listed;
    const bool unpads = t.shape == TokenShape::kStitched && can_unpad && crop.margin_patches() == 0 && random.coin();
    if (unpads && random.coin()) {
        t.unpad = Unpad::kByPatches;
        crop.fit = Fit::kTopLeft;
    } else if (unpads) {
        t.unpad = Unpad::kByRatio;
        crop.fit = Fit::kLetterboxCeil;
        crop.pooling_cols = crop.pooling_rows;
        if (listed && random.coin()) t.max_map_crops = random(1, 3);
    }
    for (int64_t i = listed ? random(1, 5) : 0; i > 0; --i) {
        Size entry{random(1, 4) * crop.crop_size, random(1, 4) * crop.crop_size};
        if (random(0, 2) == 0) entry.height += random(0, 3);
        if (random(0, 2) == 0) entry.width += random(0, 3);
        grid.resolutions.push_back(entry);
    }
    const bool is_gated = grid.split == SplitGate::kAboveCrop || grid.split == SplitGate::kAboveArea;
    const bool unsplit = in_parts || policy == GridPolicy::kCeilGrid || policy == GridPolicy::kLogRatio ||
                         (policy == GridPolicy::kFixed && grid.fixed_grid.rows == 0) ||
                         (policy == GridPolicy::kClosestRatio && is_gated);
    if (unsplit && crop.global_crop == GlobalCrop::kNever) crop.global_crop = GlobalCrop::kAlways;
    validate(spec);
    return spec;
}

TEST(Counts, EqualSumsOverCropsAndFeatures) {
    Random random(1);
    for (int round = 0; round < 3000; ++round) {
        const Spec spec = random_spec(random, GridPolicy::kFixed);
        const Layout layout = make_layout(spec, knob_of(spec), {random(1, 50), random(1, 50)});
        for (const Count what : kAllCounts) {
            ASSERT_EQ(count_in(layout, what), naive_count(spec, layout.grid, what)) << "round " << round;
        }
    }
    for (const Spec& spec : all_specs()) {
        const bool has_own_size = spec.crop.sizing != Sizing::kSquare || spec.crop.global_sizing != Sizing::kSquare;
        if (spec.tokens.unpad != Unpad::kNever || has_own_size) continue;
        for (int i = 0; i < 300; ++i) {
            const Layout layout = make_layout(spec, knob_of(spec), {random(1, 4000), random(1, 4000)});
            for (const Count what : kAllCounts) {
                ASSERT_EQ(count_in(layout, what), naive_count(spec, layout.grid, what)) << spec.name;
            }
        }
    }
}

TEST(Counts, KnownFormulas) {
    const auto tokens = [](const Spec& spec, Grid grid) {
        return count_of(spec, count_formula(spec, {}, Count::kSequenceTokens), {grid, {}, {}, {}, {}}, {1, 1});
    };
    for (int64_t r = 1; r <= 12; ++r) {
        for (int64_t c = 1; c <= 12; ++c) {
            EXPECT_EQ(tokens(overlapping_stitched(), {r, c}), 158 + 2 + (8 * r + 4) * (8 * c + 4 + 1));
            const int64_t map_rows = (19 * r + 8 + 1) / 2, map_cols = (19 * c + 8 + 1) / 2;
            EXPECT_EQ(tokens(overlapping_pooled_across(), {r, c}), 198 + 2 + map_rows * (map_cols + 1));
            EXPECT_EQ(tokens(tiled_scale_fit(), {r, c}), r * c == 1 ? 259 : 2 + 257 * (r * c + 1));
            EXPECT_EQ(tokens(tiled_closest_ratio(), {r, c}), r * c == 1 ? 258 : 2 + 256 * (r * c + 1));
            EXPECT_EQ(tokens(tiled_ceil_grid(), {r, c}), 172 + r * (171 * c + 1));
        }
    }
    EXPECT_EQ(tokens(tiled_ceil_grid(), {0, 0}), 172);
}

// int(round(v, 7)): to 7 decimals of the exact binary value, back to the nearest double, truncated.
int64_t decimal_int_round_7(double value) {
    char text[400];
    std::snprintf(text, sizeof text, "%.7f", value);
    return static_cast<int64_t>(std::strtod(text, nullptr));
}

Grid naive_unpad(Grid map, Size image) {
    const double h = static_cast<double>(image.height), w = static_cast<double>(image.width);
    const double R = static_cast<double>(map.rows), C = static_cast<double>(map.cols);
    if (w / h > C / R) {
        map.rows -= 2 * ((map.rows - decimal_int_round_7(h * (C / w))) / 2);
    } else {
        map.cols -= 2 * ((map.cols - decimal_int_round_7(w * (R / h))) / 2);
    }
    return map;
}

TEST(Unpad, EqualsDecimalRounding) {
    Random random(2);
    std::vector<std::pair<Grid, Size>> cases;
    for (int i = 0; i < 100000; ++i) {
        cases.push_back({{24 * random(1, 6), 24 * random(1, 6)}, {random(1, 4000), random(1, 4000)}});
        cases.push_back({{random(1, 300), random(1, 300)}, {random(1, kMaxSide), random(1, kMaxSide)}});
    }
    for (const int64_t side : {24, 27, 48, 72, 1000}) {  // a whole number of rows or columns, or nearly so
        for (int64_t k = 1; k <= side; ++k) {
            for (const int64_t m : {int64_t{1}, int64_t{7}, int64_t{99}, int64_t{12345}, int64_t{2000000}}) {
                for (int64_t off = -1; off <= 1; ++off) {
                    cases.push_back({{side, side}, {side * m, std::max<int64_t>(1, k * m + off)}});
                    cases.push_back({{side, side}, {std::max<int64_t>(1, k * m + off), side * m}});
                }
            }
        }
    }
    for (int64_t d = 0; d <= 100; ++d) {  // d * 1e-9 are missing to one of two rows, and half of 1e-7 decides
        cases.push_back({{2, 2}, {1000000000 - d, 2000000000}});
        cases.push_back({{2, 2}, {2000000000, 1000000000 - d}});
    }
    for (const auto& [map, image] : cases) {
        ASSERT_EQ(unpad(map, image), naive_unpad(map, image))
            << map.rows << "x" << map.cols << " features, " << image.height << "x" << image.width << " px";
    }
}

TEST(Unpad, DropsPaddingFromTheMapOfTheCanvas) {
    const Spec spec = stitched_best_resolution();
    const auto tokens = [&](Size image) { return make_layout(spec, knob_of(spec), image).sequence_tokens; };
    EXPECT_EQ(tokens({672, 672}), 576 + 48 * 49);
    EXPECT_EQ(tokens({600, 500}), 576 + 48 * 41);  // 40 columns are used
    EXPECT_EQ(tokens({336, 1008}), 576 + 24 * 73);
    EXPECT_EQ(make_layout(spec, knob_of(spec), {600, 500}).connector_outputs, 5 * 576);
}

// Small images of every shape, and thin ones.
std::vector<Size> images_to_cover(int64_t side) {
    std::vector<Size> images;
    for (int64_t height = 1; height <= side; ++height) {
        for (int64_t width = 1; width <= side; ++width) images.push_back({height, width});
        for (const int64_t thin : {int64_t{1000}, int64_t{123457}, kMaxSide}) {
            images.push_back({height, thin});
            images.push_back({thin, height});
        }
    }
    return images;
}

constexpr GridPolicy kPolicies[] = {GridPolicy::kFixed, GridPolicy::kScaleFit, GridPolicy::kClosestRatio,
                                    GridPolicy::kBestResolution, GridPolicy::kCeilGrid, GridPolicy::kLogRatio,
                                    GridPolicy::kCoveringArea, GridPolicy::kLargestCanvas, GridPolicy::kPanAndScan};

TEST(Bounds, NoImageExceedsThemAndTheWitnessAttainsThem) {
    Random random(3);
    const std::vector<Size> images = images_to_cover(72);
    for (const GridPolicy policy : kPolicies) {
        for (int round = 0; round < 24; ++round) {
            const Spec spec = random_spec(random, policy);
            const KnobRange range = knob_range(spec);
            const int64_t max_crops = random(range.first, std::max(range.first, std::min<int64_t>(range.last, 16)));
            const Knob knob = round % 3 == 0 ? knob_of(spec) : resolve_knob(spec, max_crops);
            int64_t most[] = {-1, -1, -1, -1, -1};
            for (const Size& image : images) {
                const Layout layout = make_layout(spec, knob, image);
                for (size_t i = 0; i < 5; ++i) most[i] = std::max(most[i], count_in(layout, kAllCounts[i]));
            }
            for (size_t i = 0; i < 5; ++i) {
                const Bound bound = worst_case(spec, knob, kAllCounts[i]);
                const std::string where = "policy " + std::to_string(int(policy)) + " round " + std::to_string(round);
                ASSERT_LE(most[i], bound.count) << where << " count " << i;
                ASSERT_EQ(count_in(bound.layout, kAllCounts[i]), bound.count) << where << " count " << i;
                const Layout again = make_layout(spec, knob, bound.layout.image);
                ASSERT_EQ(count_in(again, kAllCounts[i]), bound.count) << where << " count " << i;
            }
        }
    }
}

TEST(Bounds, WithinALimitTheyAreTheMaximumOverAllOfIt) {
    for (const Spec& spec : {sized_by_area(), sized_by_features(), tiled_search(GridPolicy::kWindowSnap)}) {
        EXPECT_FALSE(is_bounded(spec, Count::kSequenceTokens)) << spec.name;
        EXPECT_THROW(worst_case(spec, knob_of(spec), Count::kSequenceTokens), std::invalid_argument) << spec.name;
        int64_t most = 0, most_square = 0;
        for (int64_t height = 1; height <= 900; ++height) {
            for (int64_t width = 1; width <= 900; ++width) {
                const int64_t tokens = make_layout(spec, knob_of(spec), {height, width}).sequence_tokens;
                most = std::max(most, tokens);
                if (std::max(height, width) <= 2 * std::min(height, width)) most_square = std::max(most_square, tokens);
            }
        }
        for (const int num_threads : {1, 3}) {
            const auto within = [&](double max_ratio) {
                return worst_cases(spec, knob_of(spec), {Count::kSequenceTokens}, {900, max_ratio, num_threads})[0];
            };
            EXPECT_EQ(within(0).count, most) << spec.name;
            EXPECT_EQ(within(0).layout.sequence_tokens, most) << spec.name;
            EXPECT_EQ(within(2).count, most_square) << spec.name;
        }
    }
}

// The same with crops of the image's own size, where the rules allow it.
Spec random_sized_spec(Random& random, GridPolicy policy) {
    while (true) {
        Spec spec = random_spec(random, policy);
        if (!Reach::covers(spec, knob_of(spec))) continue;
        if (policy == GridPolicy::kWindowSnap || spec.tokens.shape == TokenShape::kStitched || random.coin()) return spec;
        spec.crop.sizing = random.coin() ? Sizing::kArea : Sizing::kSquare;
        spec.crop.global_sizing = Sizing(random(0, 3));
        spec.crop.global_pooling_rows = random(0, 2);
        spec.crop.global_pooling_cols = random(0, 2);
        spec.crop.min_features = random(1, 20);
        spec.crop.max_features = spec.crop.min_features + random(0, 20);
        spec.crop.shortest_edge = random(1, 30);
        spec.crop.longest_crop_edge = spec.crop.shortest_edge + random(0, 30);
        spec.tokens.counts_features = spec.crop.sizing == Sizing::kArea;
        spec.tokens.counts_global_features =
            spec.crop.global_sizing == Sizing::kArea || spec.crop.global_sizing == Sizing::kFeatures;
        validate(spec);
        return spec;
    }
}

constexpr GridPolicy kReachable[] = {GridPolicy::kClosestRatio, GridPolicy::kLogRatio, GridPolicy::kWindowSnap};

TEST(Reach, NoImageOfARangeCostsMore) {
    Random random(31);
    const auto side = [&] { return random(1, int64_t{1} << random(0, 12)); };
    for (const GridPolicy policy : kReachable) {
        for (int round = 0; round < 2000; ++round) {
            const Spec spec = random_sized_spec(random, policy);
            const Knob knob = knob_of(spec);
            for (const Count what : kAllCounts) {
                const CountFormula formula = count_formula(spec, knob, what);
                const Reach reach(spec, knob, formula);
                const Size low{side(), side()};
                const Size high{low.height + random(0, 1) * side(), low.width + random(0, 1) * side()};
                const double most = reach.most({low, high});
                for (int i = 0; i < 20; ++i) {
                    const Size image{i < 4 ? (i % 2 ? low : high).height : random(low.height, high.height),
                                     i < 4 ? (i / 2 ? low : high).width : random(low.width, high.width)};
                    const int64_t count = count_of(spec, formula, cut_image(spec, knob, image), image);
                    ASSERT_LE(static_cast<double>(count), most)
                        << "policy " << int(policy) << " round " << round << " count " << int(what) << " " << image.height << "x" << image.width;
                }
            }
        }
    }
}

TEST(Reach, FindsTheMaximumThatTryingEverySizeFinds) {
    Random random(32);
    for (const GridPolicy policy : kReachable) {
        for (int round = 0; round < 150; ++round) {
            const Spec spec = random_sized_spec(random, policy);
            const Knob knob = knob_of(spec);
            const SizeLimit limit{random(1, 120), random.coin() ? 0.0 : 1.0 + static_cast<double>(random(0, 80)) / 10.0, 1};
            for (const Count what : kAllCounts) {
                const CountFormula formula = count_formula(spec, knob, what);
                const Worst found = worst_by_reach(spec, knob, formula, limit);
                ASSERT_EQ(found.count, worst_of_all(spec, knob, {formula}, limit)[0].count) << "policy " << int(policy);
                ASSERT_TRUE(is_within(limit, found.image));
                ASSERT_EQ(count_in(make_layout(spec, knob, found.image), what), found.count);
            }
        }
    }
}

TEST(Bounds, KnownMaxima) {
    const auto most = [](const Spec& spec) { return worst_case(spec, knob_of(spec), Count::kSequenceTokens).count; };
    EXPECT_EQ(most(overlapping_stitched(12)), 1460);
    EXPECT_EQ(most(overlapping_stitched(36)), 3956);
    EXPECT_EQ(most(overlapping_pooled_across(8)), 1400);
    EXPECT_EQ(most(tiled_scale_fit()), 3343);
    EXPECT_EQ(most(tiled_closest_ratio()), 3330);
    EXPECT_EQ(most(stitched_best_resolution()), 2928);
    EXPECT_EQ(most(tiled_ceil_grid()), 172 + 4 * (171 * 4 + 1));
    EXPECT_EQ(worst_case(overlapping_stitched(12), {12, 0, {}}, Count::kSequenceTokens).layout.grid, (Grid{12, 1}));
}

TEST(Bounds, TheLargestKnobOfTheLargestCropsHasAWitness) {
    for (const int64_t crop_size : {2, 2047, 2048, 1 << 14}) {
        for (const Spec& spec : {tiled_scale_fit(crop_size), tiled_closest_ratio(12, 1, crop_size)}) {
            const int64_t last = knob_range(spec).last;
            const Bound bound = worst_case(spec, resolve_knob(spec, last), Count::kCrops);
            EXPECT_EQ(bound.count, last + 1) << spec.name << " " << crop_size;
            EXPECT_EQ(bound.layout.num_crops, last + 1) << spec.name << " " << crop_size;
        }
    }
}

TEST(Bounds, TheLargestKnobIsTheInverse) {
    Random random(4);
    for (const GridPolicy policy : kPolicies) {
        for (int round = 0; round < 30; ++round) {
            const Spec spec = random_spec(random, policy);
            const KnobRange range = knob_range(spec);
            const int64_t last = std::min<int64_t>(range.last, range.last == 512 ? 40 : 400);  // lists of all grids are slow
            for (const Count what : kAllCounts) {
                const auto bound = [&](int64_t n) { return worst_case(spec, resolve_knob(spec, n), what).count; };
                for (int64_t n = range.first; n < last; n += 7) ASSERT_LE(bound(n), bound(n + 1));
                const int64_t limit = bound(random(range.first, last)) + random(-3, 3);
                const std::optional<int64_t> best = largest_max_crops(spec, what, limit);
                ASSERT_EQ(best.has_value(), bound(range.first) <= limit);
                if (!best) continue;
                ASSERT_TRUE(*best >= range.first && *best <= range.last);
                ASSERT_LE(bound(*best), limit);
                if (*best < range.last) {
                    ASSERT_GT(bound(*best + 1), limit);
                }
            }
        }
    }
    EXPECT_EQ(largest_max_crops(overlapping_stitched(), Count::kSequenceTokens, 4096), std::optional<int64_t>(37));
    EXPECT_EQ(largest_max_crops(overlapping_stitched(), Count::kSequenceTokens, 1), std::nullopt);
    EXPECT_EQ(largest_max_crops(tiled_scale_fit(), Count::kCrops, int64_t{1} << 60), kMaxCropsLimit);
}

// Python's // on floats takes the remainder first. It matters where a side is a whole multiple of the scale.
TEST(Counts, ScaledDownDividesLikePython) {
    const auto floor_divide = [](double x, double y) {
        return static_cast<int64_t>(std::nearbyint((x - std::fmod(x, y)) / y));
    };
    Random random(21);
    for (int i = 0; i < 200000; ++i) {
        const int64_t times = random(2, 5);
        const Grid map{random(1, 200) * times, random(1, 200) * times};
        const int64_t part = map.count() / (times * times);
        const double features = static_cast<double>(random.coin() ? part : random(1, map.count()));
        const double scale = std::sqrt(static_cast<double>(map.rows) * static_cast<double>(map.cols) / features);
        const auto side = [&](int64_t x) { return scale > 1.1 ? floor_divide(static_cast<double>(x), scale) : x; };
        ASSERT_EQ(scaled_down(map, features), (Grid{side(map.rows), side(map.cols)}))
            << map.rows << "x" << map.cols << " in " << features;
    }
}

}  // namespace
}  // namespace maxcrops_test
