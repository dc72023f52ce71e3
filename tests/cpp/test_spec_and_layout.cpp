// What a spec and a knob may be, and the views that a layout is executed from.
#include "fixtures.h"

#include "placement.h"

#include <functional>
#include <stdexcept>
#include <string>

namespace maxcrops_test {
namespace {

std::string error_of(const std::function<void()>& action) {
    try {
        action();
    } catch (const std::invalid_argument& error) {
        return error.what();
    }
    return "";
}

void expect_rejected(Spec spec, const std::string& named, const std::function<void(Spec&)>& change) {
    ASSERT_EQ(error_of([&] { validate(spec); }), "");
    change(spec);
    const std::string message = error_of([&] { validate(spec); });
    EXPECT_NE(message.find(named), std::string::npos) << "expected an error that names '" << named << "', got '"
                                                      << message << "'";
    EXPECT_NE(message.find(spec.name), std::string::npos) << message;
}

TEST(Validate, AcceptsEveryFixture) {
    for (const Spec& spec : all_specs()) EXPECT_NO_THROW(validate(spec)) << spec.name;
}

TEST(Validate, NamesTheCropField) {
    const Spec spec = overlapping_stitched();
    for (const int64_t bad : {-1, 0, 1, (1 << 14) + 1}) {
        expect_rejected(spec, "crop_size", [&](Spec& s) { s.crop.crop_size = bad; });
    }
    for (const int64_t bad : {-1, 0, 337}) {
        expect_rejected(spec, "patch_size", [&](Spec& s) { s.crop.patch_size = bad; });
    }
    for (const int64_t bad : {-1, 0, 25}) {
        expect_rejected(spec, "pooling", [&](Spec& s) { s.crop.pooling_rows = bad; });
        expect_rejected(spec, "pooling", [&](Spec& s) { s.crop.pooling_cols = bad; });
    }
    for (const int64_t bad : {-1, 20, 24, 25}) {  // 20 + 4 patches of margin leave no window
        expect_rejected(spec, "overlap_margins", [&](Spec& s) { s.crop.left_margin = bad; });
        expect_rejected(spec, "overlap_margins", [&](Spec& s) { s.crop.right_margin = bad; });
    }
    expect_rejected(spec, "multiple of patch_size", [](Spec& s) { s.crop.crop_size = 340; });
    expect_rejected(spec, "multiples of pooling", [](Spec& s) { s.crop.left_margin = 3; });
    expect_rejected(spec, "multiples of pooling", [](Spec& s) { s.crop.pooling_cols = 3; });
}

TEST(Validate, NamesTheGridField) {
    for (const int64_t bad : {int64_t{-1}, int64_t{0}, kMaxCropsLimit + 1}) {
        expect_rejected(overlapping_stitched(), "max_crops", [&](Spec& s) { s.grid.max_crops = bad; });
        expect_rejected(tiled_closest_ratio(), "max_crops", [&](Spec& s) { s.grid.max_crops = bad; });
        expect_rejected(tiled_closest_ratio(), "min_crops", [&](Spec& s) { s.grid.min_crops = bad; });
        expect_rejected(tiled_ceil_grid(), "longest_edge", [&](Spec& s) { s.grid.longest_edge = bad; });
        expect_rejected(tiled_ceil_grid(), "longest_edge_limit", [&](Spec& s) { s.grid.longest_edge_limit = bad; });
    }
    expect_rejected(tiled_fixed({2, 2}), "rows", [](Spec& s) { s.grid.fixed_grid.rows = 1025; });
    expect_rejected(tiled_fixed({2, 2}), "cols", [](Spec& s) { s.grid.fixed_grid.cols = -1; });
    expect_rejected(tiled_fixed({2, 2}), "rows and cols", [](Spec& s) { s.grid.fixed_grid = {0, 1}; });
    const Spec listed = stitched_best_resolution();
    expect_rejected(listed, "resolutions", [](Spec& s) { s.grid.resolutions.clear(); });
    expect_rejected(listed, "too many", [](Spec& s) { s.grid.resolutions.assign((1 << 14) + 1, {336, 336}); });
    for (const int64_t bad : {-1, 0, 335, (1 << 20) + 1}) {
        expect_rejected(listed, "height in resolutions", [&](Spec& s) { s.grid.resolutions.push_back({bad, 336}); });
        expect_rejected(listed, "width in resolutions", [&](Spec& s) { s.grid.resolutions.push_back({336, bad}); });
    }
    expect_rejected(listed, "crops of a resolution", [](Spec& s) { s.grid.resolutions = {{1 << 20, 1 << 20}}; });
    for (const Spec& spec : {tiled_closest_ratio(), listed, tiled_ceil_grid()}) {
        expect_rejected(spec, "overlap_margins", [](Spec& s) { s.crop.left_margin = 1; });
    }
    for (const double bad : {-1.0, 1025.0, 1e300}) {
        expect_rejected(sized_by_features(), "split_tolerance", [&](Spec& s) { s.grid.split_tolerance = bad; });
        expect_rejected(tiled_search(GridPolicy::kPanAndScan), "min_ratio", [&](Spec& s) { s.grid.min_ratio = bad; });
    }
    for (const Spec& spec : {tiled_ceil_grid(), tiled_fixed({0, 0})}) {
        expect_rejected(spec, "global_crop", [](Spec& s) { s.crop.global_crop = GlobalCrop::kNever; });
    }
}

TEST(Validate, NamesTheTokenField) {
    const std::vector<std::pair<std::string, int64_t TokenRule::*>> tiled = {
        {"global_extra_tokens", &TokenRule::global_extra}, {"tokens_per_crop", &TokenRule::tokens_per_crop},
        {"crop_extra_tokens", &TokenRule::crop_extra},     {"row_end_tokens", &TokenRule::row_end},
        {"row_separator_tokens", &TokenRule::row_separator}, {"global_tokens", &TokenRule::global_tokens},
        {"split_extra_tokens", &TokenRule::split_extra}};
    const std::vector<std::pair<std::string, int64_t TokenRule::*>> stitched = {
        {"col_tokens", &TokenRule::col_tokens}, {"start_end_tokens", &TokenRule::map_extra},
        {"low_res_col_tokens", &TokenRule::low_res_col_tokens}, {"global_extra_tokens", &TokenRule::global_extra}};
    for (const int64_t bad : {-1, (1 << 24) + 1}) {
        for (const auto& [name, field] : tiled) {
            expect_rejected(tiled_scale_fit(), name, [&, f = field](Spec& s) { s.tokens.*f = bad; });
        }
        for (const auto& [name, field] : stitched) {
            expect_rejected(overlapping_stitched(), name, [&, f = field](Spec& s) { s.tokens.*f = bad; });
        }
    }
    for (const int64_t bad : {-2, (1 << 24) + 1}) {
        expect_rejected(tiled_scale_fit(), "image_extra_tokens", [&](Spec& s) { s.tokens.image_extra = bad; });
    }
    Spec drops_one = tiled_scale_fit();
    drops_one.tokens.image_extra = -1;
    EXPECT_NO_THROW(validate(drops_one));
    expect_rejected(stitched_best_resolution(), "unpad", [](Spec& s) { s.crop.fit = Fit::kStretch; });
    expect_rejected(overlapping_stitched(), "unpad", [](Spec& s) { s.tokens.unpad = Unpad::kByRatio; });
}

void expect_range(const Spec& spec, int64_t first, int64_t last, int64_t usual) {
    EXPECT_EQ(knob_range(spec).first, first) << spec.name;
    EXPECT_EQ(knob_range(spec).last, last) << spec.name;
    EXPECT_EQ(default_max_crops(spec), usual) << spec.name;
    // A fixed grid has no knob, so that every number leaves it as it is.
    const int64_t least = spec.grid.policy == GridPolicy::kFixed ? 1 : first;
    for (const int64_t bad : {least - 1, int64_t{0}, int64_t{-5}, kMaxCropsLimit + 1}) {
        const std::string message = error_of([&] { (void)resolve_knob(spec, bad); });
        EXPECT_NE(message.find("max_crops must be in " + std::to_string(least) + ".."), std::string::npos) << message;
        EXPECT_NE(message.find(spec.name), std::string::npos) << message;
    }
    EXPECT_EQ(resolve_knob(spec, first).max_crops, first);
    EXPECT_EQ(resolve_knob(spec, kMaxCropsLimit).max_crops, kMaxCropsLimit);
    Random random(1);
    for (int i = 0; i < 2000; ++i) {
        const Size image{random(1, 3000), random(1, 3000)};
        EXPECT_LE(make_layout(spec, knob_of(spec), image).grid.count(), usual) << spec.name;
        if (spec.grid.policy == GridPolicy::kFixed) continue;
        const int64_t max_crops = random(first, 50);
        EXPECT_LE(make_layout(spec, resolve_knob(spec, max_crops), image).grid.count(), max_crops) << spec.name;
    }
}

TEST(Knob, RangesDefaultsAndErrors) {
    expect_range(overlapping_stitched(), 1, kMaxCropsLimit, 12);
    expect_range(tiled_closest_ratio(), 1, kMaxCropsLimit, 12);
    expect_range(stitched_best_resolution(), 2, 4, 4);
    expect_range(tiled_ceil_grid(), 1, 144, 16);
    expect_range(tiled_ceil_grid(5, 21, 33), 1, 49, 25);
    expect_range(tiled_ceil_grid(5, 1000, 33), 1, 49, 49);
    expect_range(tiled_fixed({2, 3}), 6, 6, 6);
    expect_range(tiled_fixed({0, 0}), 1, 1, 1);
}

TEST(Knob, CeilGridTakesTheLargestSquareAndStaysEven) {
    for (int64_t n = 1; n <= 150; ++n) {
        const int64_t side = std::min<int64_t>(floor_sqrt(n), 12);
        EXPECT_EQ(resolve_knob(tiled_ceil_grid(), n).edge, side * 364);
        EXPECT_EQ(resolve_knob(tiled_ceil_grid(5, 20, 60), n).edge, side * 5 / 2 * 2);
        const Spec odd = tiled_ceil_grid(5, 20, 60);
        const Layout square = make_layout(odd, resolve_knob(odd, n), {9, 9});
        EXPECT_EQ(square.grid.count(), side == 1 ? 0 : side * side);
    }
}

TEST(Layout, RejectsSidesOutOfRange) {
    const Spec spec = overlapping_stitched();
    for (const int64_t bad : {int64_t{-1}, int64_t{0}, kMaxSide + 1}) {
        EXPECT_NE(error_of([&] { make_layout(spec, knob_of(spec), {bad, 5}); }).find("height"), std::string::npos);
        EXPECT_NE(error_of([&] { make_layout(spec, knob_of(spec), {5, bad}); }).find("width"), std::string::npos);
    }
    EXPECT_NO_THROW(make_layout(spec, knob_of(spec), {kMaxSide, 1}));
}

void expect_inside(const Box& box, Size canvas) {
    EXPECT_TRUE(box.top >= 0 && box.left >= 0 && box.height >= 0 && box.width >= 0);
    EXPECT_TRUE(box.top + box.height <= canvas.height && box.left + box.width <= canvas.width);
}

// Each side of the canvas is covered by its crops in order, and neighbours share exactly the margins.
void expect_chain(const std::vector<std::pair<int64_t, int64_t>>& spans, int64_t length, int64_t margins) {
    EXPECT_EQ(spans.front().first, 0);
    EXPECT_EQ(spans.back().first + spans.back().second, length);
    for (size_t i = 1; i < spans.size(); ++i) {
        EXPECT_EQ(spans[i - 1].first + spans[i - 1].second - spans[i].first, margins);
    }
}

void expect_views(const Spec& spec, const Layout& layout) {
    const std::vector<View> views = layout.views();
    const Box whole{0, 0, layout.image.height, layout.image.width};
    int64_t crops = 0;
    int64_t covered = 0;  // of the image by crops that are cut from it, pixels
    for (const View& view : views) {
        crops += static_cast<int64_t>(view.crops.size());
        expect_inside(view.content, view.canvas);
        ASSERT_FALSE(view.resizes.empty());
        EXPECT_EQ(view.resizes.back(), (Size{view.content.height, view.content.width}));
        const Fit fit = view.is_global ? spec.crop.global_fit : spec.crop.fit;
        EXPECT_TRUE(fit != Fit::kStretch || view.resizes.back() == view.canvas);
        const int64_t above = view.content.top, below = view.canvas.height - view.content.height - above;
        const int64_t left = view.content.left, right = view.canvas.width - view.content.width - left;
        EXPECT_TRUE(below - above >= 0 && below - above <= 1 && right - left >= 0 && right - left <= 1);
        for (const Box& box : view.crops) expect_inside(box, view.canvas);
        if (view.is_global) {
            EXPECT_EQ(view.canvas, global_canvas(spec.crop, layout.image));
            EXPECT_TRUE(view.source == whole);
            EXPECT_EQ(view.crops.size(), 1u);
            EXPECT_EQ(&view == &views.front(), spec.crop.global_first || views.size() == 1);
            continue;
        }
        if (layout.from_parts) {
            expect_inside(view.source, layout.image);
            covered += view.source.height * view.source.width;
            continue;
        }
        EXPECT_TRUE(view.source == whole);
        EXPECT_EQ(view.canvas, layout.canvas);
        ASSERT_EQ(static_cast<int64_t>(view.crops.size()), layout.grid.count());
        std::vector<std::pair<int64_t, int64_t>> rows, cols;
        for (int64_t i = 0; i < layout.grid.count(); ++i) {
            const Box& box = view.crops[static_cast<size_t>(i)];
            const Box& row_head = view.crops[static_cast<size_t>(i / layout.grid.cols * layout.grid.cols)];
            EXPECT_TRUE(box.top == row_head.top && box.height == row_head.height);
            if (i % layout.grid.cols == 0) rows.push_back({box.top, box.height});
            if (i < layout.grid.cols) cols.push_back({box.left, box.width});
        }
        expect_chain(rows, view.canvas.height, spec.crop.margin_size());
        expect_chain(cols, view.canvas.width, spec.crop.margin_size());
    }
    EXPECT_EQ(crops, layout.num_crops);
    if (layout.from_parts) {
        EXPECT_EQ(covered, whole.height * whole.width);
        EXPECT_EQ(static_cast<int64_t>(views.size()), layout.num_crops);
        return;
    }
    EXPECT_EQ(views.size(), size_t{layout.has_global} + size_t{layout.grid.count() > 0});
}

TEST(Layout, ViewsCoverTheCanvasWithOverlapAndKeepTheContentInside) {
    std::vector<Spec> specs = all_specs();
    Spec ragged = stitched_best_resolution();
    ragged.tokens.unpad = Unpad::kNever;
    ragged.grid.resolutions = {{400, 700}, {1000, 336}};
    specs.push_back(ragged);
    Random random(2);
    for (const Spec& spec : specs) {
        for (int i = 0; i < 500; ++i) {
            const int64_t most = i % 10 == 0 ? kMaxSide : 3000;
            const Size image{random(1, most), random(1, i % 7 == 0 ? 5 : most)};
            expect_views(spec, make_layout(spec, knob_of(spec), image));
            ASSERT_FALSE(HasFailure()) << spec.name << " " << image.height << "x" << image.width;
        }
    }
}

TEST(Layout, ResizesThroughTheIntermediateSize) {
    const Layout layout = make_layout(tiled_ceil_grid(), knob_of(tiled_ceil_grid()), {700, 1000});
    EXPECT_EQ(layout.intermediate, (Size{1020, 1456}));  // 1456 / (1000 / 700) = 1019.2, made even
    const std::vector<View> views = layout.views();
    ASSERT_EQ(views.size(), 2u);
    EXPECT_EQ(views[0].resizes, (std::vector<Size>{{1020, 1456}, {1092, 1456}}));
    EXPECT_TRUE(views[1].is_global && views[1].from_local_canvas && !views[0].from_local_canvas);
    EXPECT_EQ(views[1].resizes, (std::vector<Size>{{364, 364}}));
    EXPECT_DOUBLE_EQ(layout.scale(), 1.456);
    const std::vector<View> whole = make_layout(tiled_ceil_grid(), resolve_knob(tiled_ceil_grid(), 1), {9, 9}).views();
    ASSERT_EQ(whole.size(), 1u);
    EXPECT_TRUE(whole[0].is_global && !whole[0].from_local_canvas);
    EXPECT_EQ(whole[0].resizes, (std::vector<Size>{{364, 364}, {364, 364}}));
}

}  // namespace
}  // namespace maxcrops_test
