// Each grid policy against a search written here from its description alone.
#include "fixtures.h"

#include <cmath>
#include <limits>
#include <tuple>

#include "grid_policies.h"

namespace maxcrops_test {
namespace {

// Around the margins of 112 px, around multiples of the windows, and far beyond.
const std::vector<int64_t> kSides = {1,   2,   55,  110, 111, 112, 113, 114, 223, 224,  225,  266,  335,  336,  337,
                                     378, 379, 448, 511, 512, 513, 560, 561, 800, 1024, 1456, 2000, 2353, 4032, 7999};

std::vector<int64_t> max_crops_to_try() {
    std::vector<int64_t> all = {200, 1000};
    for (int64_t n = 1; n <= 64; ++n) all.push_back(n);
    return all;
}

std::vector<Size> sizes_to_try(uint64_t seed, int count) {
    std::vector<Size> sizes;
    for (const int64_t height : kSides) {
        for (const int64_t width : kSides) sizes.push_back({height, width});
    }
    Random random(seed);
    for (int i = 0; i < count; ++i) sizes.push_back({random(1, 5000), random(1, 5000)});
    return sizes;
}

// The same search in float32, where it divides, marks scales below 1 and takes the first minimum.
Grid float32_scale_fit(const std::vector<Grid>& grids, const CropRule& crop, Size image) {
    const auto scale_of_grid = [&](Grid grid) {
        const float h = static_cast<float>(image.height - crop.margin_size());
        const float w = static_cast<float>(image.width - crop.margin_size());
        return std::min(static_cast<float>(grid.rows * crop.window_size()) / h,
                        static_cast<float>(grid.cols * crop.window_size()) / w);
    };
    float most = -std::numeric_limits<float>::infinity();
    for (const Grid& grid : grids) most = std::max(most, scale_of_grid(grid));
    Grid best;
    float least = std::numeric_limits<float>::infinity();
    for (const Grid& grid : grids) {
        const float s = scale_of_grid(grid);
        if (most < 1.0f ? s == most : s >= 1.0f && (s < least || best.rows == 0)) {
            best = grid;
            least = s;
            if (most < 1.0f) break;
        }
    }
    return best;
}

TEST(ScaleFit, EqualsExactSearchAndFloat32Search) {
    const std::vector<Size> sizes = sizes_to_try(1, 100);
    for (const Spec& spec : {overlapping_stitched(), overlapping_pooled_across(), tiled_scale_fit()}) {
        for (const int64_t max_crops : max_crops_to_try()) {
            const std::vector<Grid> grids = grids_up_to(max_crops);
            for (const Size& image : sizes) {
                const Grid got = scale_fit(spec, max_crops, image);
                ASSERT_EQ(got, naive_scale_fit(grids, spec.crop, false, image))
                    << spec.name << " max_crops " << max_crops << " " << image.height << "x" << image.width;
                ASSERT_EQ(got, float32_scale_fit(grids, spec.crop, image))
                    << spec.name << " max_crops " << max_crops << " " << image.height << "x" << image.width;
            }
        }
    }
}

TEST(ScaleFit, ClampedSidesCountAsOnePixel) {
    Spec spec = overlapping_pooled_across();
    spec.grid.clamp_reduced_sides = true;
    for (const int64_t max_crops : {1, 2, 8, 24, 64}) {
        const std::vector<Grid> grids = grids_up_to(max_crops);
        for (const Size& image : sizes_to_try(2, 100)) {
            ASSERT_EQ(scale_fit(spec, max_crops, image), naive_scale_fit(grids, spec.crop, true, image))
                << "max_crops " << max_crops << " " << image.height << "x" << image.width;
        }
    }
}

TEST(ScaleFit, SidesAroundTheMargins) {
    Spec spec = overlapping_pooled_across();
    EXPECT_EQ(scale_fit(spec, 8, {112, 2000}), (Grid{1, 8}));
    EXPECT_EQ(scale_fit(spec, 8, {111, 2000}), (Grid{1, 1}));
    EXPECT_EQ(scale_fit(spec, 8, {112, 112}), (Grid{1, 1}));
    EXPECT_EQ(scale_fit(spec, 8, {112, 1}), (Grid{1, 1}));
    spec.grid.clamp_reduced_sides = true;
    EXPECT_EQ(scale_fit(spec, 8, {100, 2000}), (Grid{1, 8}));
}

TEST(ScaleFit, LargestSidesAndKnobEqualExactSearch) {
    const Spec spec = tiled_scale_fit(224);
    const int64_t max_crops = kMaxCropsLimit;
    Random random(3);
    std::vector<Size> sizes = {{kMaxSide, kMaxSide}, {kMaxSide, 1}, {kMaxSide - 1, kMaxSide}, {kMaxSide, 3000}};
    sizes.push_back({random(1, kMaxSide), random(1, kMaxSide)});
    for (const Size& image : sizes) {
        const Grid got = scale_fit(spec, max_crops, image);
        const auto scale = [&](Grid g) {
            return std::min(scale_of(g.rows * 224, image.height), scale_of(g.cols * 224, image.width));
        };
        const Scale one{1, 1}, chosen = scale(got);
        ASSERT_TRUE(got.rows >= 1 && got.cols >= 1 && got.count() <= max_crops);
        for (int64_t rows = 1; rows <= max_crops; ++rows) {
            for (int64_t cols = 1; cols <= max_crops / rows; ++cols) {
                const Grid other{rows, cols};
                const Scale s = scale(other);
                const bool wins = chosen < one ? chosen < s : (!(s < one) && s < chosen);
                const bool smaller = !(s < chosen) && !(chosen < s) && other.count() < got.count();
                if (wins || smaller) {
                    FAIL() << rows << "x" << cols << " beats " << got.rows << "x" << got.cols << " for "
                           << image.height << "x" << image.width;
                }
            }
        }
    }
}

Grid naive_closest_ratio(const std::vector<Grid>& candidates, int64_t crop_size, Size image) {
    const double h = static_cast<double>(image.height), w = static_cast<double>(image.width);
    const double T = static_cast<double>(crop_size);
    double best_difference = std::numeric_limits<double>::infinity();
    Grid best{1, 1};
    for (const Grid& grid : candidates) {
        const double difference = std::fabs(w / h - static_cast<double>(grid.cols) / static_cast<double>(grid.rows));
        if (difference < best_difference) {
            best_difference = difference;
            best = grid;
        } else if (difference == best_difference && w * h > 0.5 * T * T * static_cast<double>(grid.count())) {
            best = grid;
        }
    }
    return best;
}

// Sizes of exactly the ratio of a grid, around every area at which a multiple of it takes over, and of the mid-points
// between each two ratios that are neighbours.
std::vector<Size> ratio_sizes(int64_t max_crops, int64_t crop_size) {
    std::vector<Grid> ratios;
    for (const Grid& grid : grids_up_to(max_crops)) {
        bool lowest = true;
        for (int64_t d = 2; d <= grid.rows && d <= grid.cols; ++d) lowest &= grid.rows % d != 0 || grid.cols % d != 0;
        if (lowest) ratios.push_back(grid);
    }
    std::sort(ratios.begin(), ratios.end(), [](Grid a, Grid b) { return a.cols * b.rows < b.cols * a.rows; });
    std::vector<Size> sizes;
    const double side = static_cast<double>(crop_size) / std::sqrt(2.0);
    for (size_t i = 0; i < ratios.size(); ++i) {
        const Grid a = ratios[i];
        for (int64_t k = 1; k * k * a.count() <= max_crops; ++k) {
            const int64_t s = static_cast<int64_t>(side * static_cast<double>(k));
            for (const int64_t t : {s, s + 1}) sizes.push_back({a.rows * t, a.cols * t});
        }
        if (i + 1 == ratios.size()) continue;
        const Grid b = ratios[i + 1];
        for (const int64_t k : {1, 3, 10, 50}) {
            sizes.push_back({k * 2 * a.rows * b.rows, k * (a.cols * b.rows + b.cols * a.rows)});
        }
    }
    return sizes;
}

TEST(ClosestRatio, EqualsSequentialSearch) {
    const std::vector<Size> sizes = sizes_to_try(4, 300);
    for (int64_t max_crops = 1; max_crops <= 64; ++max_crops) {
        std::vector<Size> images = ratio_sizes(max_crops, 448);
        images.insert(images.end(), sizes.begin(), sizes.end());
        for (const int64_t min_crops : {1, 2, 3}) {
            const Spec spec = tiled_closest_ratio(max_crops, min_crops);
            const std::vector<Grid> candidates = grids_up_to(max_crops, min_crops, true);
            for (const Size& image : images) {
                ASSERT_EQ(closest_ratio(spec, max_crops, image), naive_closest_ratio(candidates, 448, image))
                    << min_crops << ".." << max_crops << " crops, " << image.height << "x" << image.width;
            }
        }
    }
}

TEST(ClosestRatio, ManyCropsAndLargestSidesEqualSequentialSearch) {
    const int64_t max_crops = 2000;
    std::vector<Size> images = {{kMaxSide, kMaxSide}, {1, kMaxSide}, {kMaxSide, 1}, {kMaxSide, kMaxSide - 1}};
    Random random(5);
    for (int i = 0; i < 100; ++i) images.push_back({random(1, 9000), random(1, 9000)});
    for (int i = 0; i < 20; ++i) images.push_back({random(1, kMaxSide), random(1, kMaxSide)});
    for (const int64_t min_crops : {1, 1000, 1999, 2000, 2001}) {
        const Spec spec = tiled_closest_ratio(max_crops, min_crops);
        const std::vector<Grid> candidates = grids_up_to(max_crops, min_crops, true);
        for (const Size& image : images) {
            ASSERT_EQ(closest_ratio(spec, max_crops, image), naive_closest_ratio(candidates, 448, image))
                << min_crops << " crops at least, " << image.height << "x" << image.width;
        }
    }
}

TEST(ClosestRatio, MostRowsAndColumnsEqualSequentialSearch) {
    for (const int64_t max_crops : {5, 12, 32, 60}) {
        std::vector<Size> images = ratio_sizes(max_crops, 448);
        images.insert(images.end(), {{kMaxSide, 1}, {1, kMaxSide}, {kMaxSide, kMaxSide}, {3, 1000}, {1000, 3}});
        for (const int64_t longest : {1, 3, 7, 16}) {
            for (const int64_t min_crops : {1, 2, 5, 9}) {
                Spec spec = tiled_closest_ratio(max_crops, min_crops);
                spec.grid.max_grid_side = longest;
                std::vector<Grid> candidates;
                for (const Grid& grid : grids_up_to(max_crops, min_crops, true)) {
                    if (std::max(grid.rows, grid.cols) <= longest) candidates.push_back(grid);
                }
                for (const Size& image : images) {
                    ASSERT_EQ(closest_ratio(spec, max_crops, image), naive_closest_ratio(candidates, 448, image))
                        << min_crops << ".." << max_crops << " crops, a side of " << longest << " at most, "
                        << image.height << "x" << image.width;
                }
            }
        }
    }
}

TEST(ClosestRatio, OnlyTheRatioOfASmallImageCounts) {
    EXPECT_EQ(closest_ratio(tiled_closest_ratio(12), 12, {3, 4}), (Grid{3, 4}));
    EXPECT_EQ(closest_ratio(tiled_closest_ratio(12), 12, {400, 400}), (Grid{1, 1}));
    EXPECT_EQ(closest_ratio(tiled_closest_ratio(12), 12, {700, 700}), (Grid{2, 2}));
    EXPECT_EQ(closest_ratio(tiled_closest_ratio(12, 2), 12, {1, 1}), (Grid{2, 2}));
}

// Images around whole crops, squares, ratios of grids, and others.
std::vector<Size> sizes_around_crops(uint64_t seed, int64_t crop_size, int count) {
    std::vector<Size> sizes = sizes_to_try(seed, count);
    Random random(seed);
    const auto side = [&] { return std::max<int64_t>(1, crop_size * random(1, 8) + random(-2, 2)); };
    for (int i = 0; i < count; ++i) {
        const int64_t unit = random(1, 700), square = random(1, 5000);
        sizes.insert(sizes.end(), {{side(), side()}, {square, square}, {unit * random(1, 9), unit * random(1, 9)}});
    }
    sizes.insert(sizes.end(), {{kMaxSide, kMaxSide}, {kMaxSide, 1}, {1, kMaxSide}, {kMaxSide, kMaxSide - 1}});
    return sizes;
}

// sum() of Python 3.12 over floats and, where nothing is scaled, integers.
double python_sum(const std::vector<std::pair<double, bool>>& areas, bool compensated) {
    double sum = 0, lost = 0;
    bool has_float = false;
    for (const auto& [area, is_whole] : areas) {
        const double next = sum + area;
        if (compensated && has_float && !is_whole) {
            lost += std::fabs(sum) >= std::fabs(area) ? (sum - next) + area : (area - next) + sum;
        }
        has_float |= !is_whole;
        sum = next;
    }
    return sum + lost;
}

Grid naive_covering_area(const Spec& spec, int64_t max_crops, Size image) {
    const double T = static_cast<double>(spec.crop.crop_size);
    const double area = static_cast<double>(image.height) * static_cast<double>(image.width);
    Grid fewest, most;
    double share_of_fewest = 0, share_of_most = -1;
    for (const Grid& grid : grids_up_to(max_crops)) {
        const int64_t height = image.height / grid.rows, width = image.width / grid.cols;
        std::vector<std::pair<double, bool>> areas;
        for (int64_t row = 0; row < grid.rows; ++row) {
            for (int64_t col = 0; col < grid.cols; ++col) {
                const double h = static_cast<double>(row + 1 < grid.rows ? height : image.height - row * height);
                const double w = static_cast<double>(col + 1 < grid.cols ? width : image.width - col * width);
                const bool is_whole = std::max(h, w) <= T;
                areas.emplace_back(is_whole ? h * w : T * (std::min(h, w) / std::max(h, w) * T), is_whole);
            }
        }
        const double share = python_sum(areas, spec.grid.compensated_sum) / area;
        const bool fits = share > spec.grid.covering_threshold;
        const bool is_better = fewest.count() == 0 || (grid.count() == fewest.count() && share > share_of_fewest);
        if (fits && is_better) {
            fewest = grid;
            share_of_fewest = share;
        }
        if (share > share_of_most) {
            most = grid;
            share_of_most = share;
        }
    }
    const Grid found = fewest.count() > 0 ? fewest : most;
    return spec.grid.transposed ? Grid{found.cols, found.rows} : found;
}

TEST(CoveringArea, EqualsTheWholeSearch) {
    for (const bool compensated : {false, true}) {
        for (const double threshold : {0.0, 0.25, 0.5, 0.9, 0.999}) {
            for (const int64_t max_crops : {1, 2, 3, 4, 9, 12, 30}) {
                Spec spec = tiled_search(GridPolicy::kCoveringArea, max_crops);
                spec.grid.compensated_sum = compensated;
                spec.grid.covering_threshold = threshold;
                spec.grid.transposed = compensated;
                const Knob knob = knob_of(spec);
                for (const Size& image : sizes_around_crops(9, 448, 100)) {
                    ASSERT_EQ(covering_area(spec, knob, image), naive_covering_area(spec, max_crops, image))
                        << max_crops << " crops, threshold " << threshold << ", " << image.height << "x" << image.width;
                }
            }
        }
    }
}

// Word for word: ratios in a list by the order in which they are met, each with its grids.
Grid naive_largest_canvas(int64_t max_crops, int64_t crop_size, Size image) {
    std::vector<std::pair<double, std::vector<Grid>>> by_ratio;
    for (int64_t count = max_crops; count >= 1; --count) {
        for (int64_t cols = 1; cols <= count; ++cols) {
            if (count % cols != 0) continue;
            const Grid grid{count / cols, cols};
            const double ratio = static_cast<double>(cols) / static_cast<double>(grid.rows);
            const auto met = std::find_if(by_ratio.begin(), by_ratio.end(), [&](const auto& r) { return r.first == ratio; });
            if (met == by_ratio.end()) {
                by_ratio.push_back({ratio, {grid}});
            } else {
                met->second.push_back(grid);
            }
        }
    }
    const double h = static_cast<double>(image.height), w = static_cast<double>(image.width), ratio = w / h;
    Grid best;
    double largest = -1;
    for (const auto& [_, grids] : by_ratio) {
        for (const Grid& grid : grids) {
            const double height = static_cast<double>(grid.rows * crop_size), width = static_cast<double>(grid.cols * crop_size);
            if (width < w || height < h) continue;
            const double factor = std::min(width / w, height / h);
            const double side = ratio > 1 ? std::floor(factor * w / ratio) : ratio < 1 ? std::floor(factor * h * ratio) : factor * h;
            if (side >= largest) {
                best = grid;
                largest = side;
            }
        }
    }
    if (best.count() > 0) return best;
    double least = std::numeric_limits<double>::infinity();
    for (const auto& [other, grids] : by_ratio) {
        if (ratio >= 1 ? other > ratio : other <= ratio) continue;
        const double difference = ratio >= 1 ? std::fabs(other - ratio) : std::fabs(1 / other - 1 / ratio);
        if (difference < least) {
            best = grids.front();
            least = difference;
        }
    }
    return best;
}

TEST(LargestCanvas, EqualsTheWholeSearch) {
    for (const int64_t crop_size : {2, 7, 448}) {
        for (const int64_t max_crops : {1, 2, 3, 4, 7, 9, 16, 36, 60, 512}) {
            Spec spec = tiled_search(GridPolicy::kLargestCanvas, max_crops);
            spec.crop.crop_size = crop_size;
            const Knob knob = knob_of(spec);
            for (const Size& image : sizes_around_crops(10, crop_size, max_crops > 100 ? 3 : 200)) {
                ASSERT_EQ(largest_canvas(spec, knob, image), naive_largest_canvas(max_crops, crop_size, image))
                    << max_crops << " crops of " << crop_size << " px, " << image.height << "x" << image.width;
            }
        }
    }
}

TEST(BestResolution, EqualsSearchByOneKey) {
    Spec spec = stitched_best_resolution();
    Random random(6);
    for (int round = 0; round < 40; ++round) {
        if (round > 0) {
            spec.grid.resolutions.clear();
            const int64_t entries = random(1, 12);
            for (int64_t i = 0; i < entries; ++i) {
                spec.grid.resolutions.push_back({336 * random(1, 5) + random(0, 1), 336 * random(1, 5)});
            }
        }
        const int64_t max_crops = round == 0 ? kMaxCropsLimit : random(knob_range(spec).first, 36);
        const Knob knob = resolve_knob(spec, max_crops);
        for (const Size& image : sizes_to_try(7, 100)) {
            std::tuple<int64_t, int64_t, int64_t> best{-1, 0, 0};  // effective, less waste, earlier
            for (size_t i = 0; i < spec.grid.resolutions.size(); ++i) {
                const Size entry = spec.grid.resolutions[i];
                const double h = static_cast<double>(image.height), w = static_cast<double>(image.width);
                if (((entry.height + 335) / 336) * ((entry.width + 335) / 336) > max_crops) continue;
                const double s = std::min(static_cast<double>(entry.width) / w, static_cast<double>(entry.height) / h);
                const double kept = std::trunc(w * s) * std::trunc(h * s);
                const int64_t effective = static_cast<int64_t>(std::min(kept, w * h));
                best = std::max(best, {effective, effective - entry.height * entry.width, -static_cast<int64_t>(i)});
            }
            ASSERT_EQ(best_resolution(knob, image),
                      spec.grid.resolutions[static_cast<size_t>(-std::get<2>(best))])
                << image.height << "x" << image.width;
        }
    }
}

TEST(BestResolution, EntriesKeepThemselvesAndNoDetailFallsBackToLeastWaste) {
    const Spec spec = stitched_best_resolution();
    const Knob knob = resolve_knob(spec, 4);
    for (const Size& entry : spec.grid.resolutions) EXPECT_EQ(best_resolution(knob, entry), entry);
    EXPECT_EQ(best_resolution(knob, {1, 8000}), (Size{336, 672}));
}

// From the header's description: three steps, every product of a ratio truncated.
Cut naive_ceil_grid(int64_t T, int64_t L, int64_t limit, Size image) {
    const auto real = [](int64_t value) { return static_cast<double>(value); };
    const auto short_side = [&](int64_t length, int64_t h, int64_t w) {  // of the sides h, w scaled to this long side
        const double ratio = real(w) / real(h);
        return static_cast<int64_t>(std::trunc(w >= h ? real(length) / ratio : real(length) * ratio));
    };
    int64_t h = image.height, w = image.width;
    const auto rescale = [&](int64_t length, bool make_even) {
        int64_t other = short_side(length, h, w);
        if (make_even && other % 2 == 1) ++other;
        const bool wide = w >= h;
        w = std::max<int64_t>(1, wide ? length : other);
        h = std::max<int64_t>(1, wide ? other : length);
    };
    rescale(L, true);
    if (std::max(h, w) > limit) rescale(limit, false);
    const Size intermediate{h, w};
    const auto crops = [T](int64_t length) { return (length + T - 1) / T; };
    const int64_t longer = crops(std::max(h, w));
    const int64_t shorter = crops(short_side(longer * T, h, w));
    const Grid grid = w >= h ? Grid{shorter, longer} : Grid{longer, shorter};
    return {grid.count() <= 1 ? Grid{0, 0} : grid, {grid.rows * T, grid.cols * T}, intermediate, {T, T}, {T, T}};
}

TEST(CeilGrid, EqualsTheThreeSteps) {
    std::vector<Size> images = sizes_to_try(8, 2000);
    images.insert(images.end(), {{kMaxSide, kMaxSide}, {1, kMaxSide}, {kMaxSide, 1}, {509, 1456}, {1456, 509}});
    for (const int64_t crop_size : {364, 512, 7}) {
        for (const int64_t edge : {int64_t{1}, crop_size, crop_size + 1, 4 * crop_size, int64_t{1000}, int64_t{5001}}) {
            for (const int64_t limit : {4096, 999, 13}) {
                const Spec spec = tiled_ceil_grid(crop_size, edge, limit);
                for (const Size& image : images) {
                    const Cut got = ceil_grid(spec, edge, image);
                    const Cut want = naive_ceil_grid(crop_size, edge, limit, image);
                    const bool equal = got.grid == want.grid && got.canvas == want.canvas &&
                                       got.intermediate == want.intermediate;
                    ASSERT_TRUE(equal) << crop_size << " px crops, edge " << edge << ", limit " << limit << ", "
                                       << image.height << "x" << image.width;
                }
            }
        }
    }
}

TEST(CeilGrid, OnlyTheRatioCounts) {
    const Spec spec = tiled_ceil_grid();
    EXPECT_EQ(ceil_grid(spec, 1456, {10, 10}).grid, (Grid{4, 4}));
    EXPECT_EQ(ceil_grid(spec, 1456, {4000, 4000}).grid, (Grid{4, 4}));
    EXPECT_EQ(ceil_grid(spec, 364, {4000, 4000}).grid, (Grid{0, 0}));
    EXPECT_EQ(ceil_grid(spec, 364, {4000, 4000}).canvas, (Size{364, 364}));
}

}  // namespace
}  // namespace maxcrops_test
