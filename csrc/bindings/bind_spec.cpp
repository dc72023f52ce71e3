#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <utility>
#include <vector>

#include "bindings.h"
#include "spec.h"

namespace nb = nanobind;

namespace maxcrops::bindings {
namespace {

using Pairs = std::vector<std::pair<int64_t, int64_t>>;

Pairs to_pairs(const std::vector<Size>& sizes) {
    Pairs pairs;
    for (const Size& size : sizes) pairs.emplace_back(size.height, size.width);
    return pairs;
}

}  // namespace

void bind_spec(nb::module_& m) {
    nb::enum_<GridPolicy>(m, "GridPolicy")
        .value("FIXED", GridPolicy::kFixed)
        .value("SCALE_FIT", GridPolicy::kScaleFit)
        .value("CLOSEST_RATIO", GridPolicy::kClosestRatio)
        .value("BEST_RESOLUTION", GridPolicy::kBestResolution)
        .value("CEIL_GRID", GridPolicy::kCeilGrid);
    nb::enum_<GlobalCrop>(m, "GlobalCrop")
        .value("NEVER", GlobalCrop::kNever)
        .value("WHEN_SPLIT", GlobalCrop::kWhenSplit)
        .value("ALWAYS", GlobalCrop::kAlways);
    nb::enum_<Fit>(m, "Fit")
        .value("STRETCH", Fit::kStretch)
        .value("LETTERBOX_TRUNC", Fit::kLetterboxTrunc)
        .value("LETTERBOX_CEIL", Fit::kLetterboxCeil);
    nb::enum_<TokenShape>(m, "TokenShape").value("TILED", TokenShape::kTiled).value("STITCHED", TokenShape::kStitched);
    nb::enum_<Count>(m, "Count")
        .value("SEQUENCE_TOKENS", Count::kSequenceTokens)
        .value("CONNECTOR_OUTPUTS", Count::kConnectorOutputs)
        .value("VIT_PATCHES", Count::kVitPatches)
        .value("CROPS", Count::kCrops);

    nb::class_<GridRule>(m, "GridRule")
        .def(nb::init<>())
        .def_rw("policy", &GridRule::policy)
        .def_rw("max_crops", &GridRule::max_crops)
        .def_rw("min_crops", &GridRule::min_crops)
        .def_rw("clamp_reduced_sides", &GridRule::clamp_reduced_sides)
        .def_rw("longest_edge", &GridRule::longest_edge)
        .def_rw("longest_edge_limit", &GridRule::longest_edge_limit)
        .def_prop_rw(
            "resolutions",
            [](const GridRule& rule) { return to_pairs(rule.resolutions); },
            [](GridRule& rule, const Pairs& pairs) {
                rule.resolutions.clear();
                for (const auto& [height, width] : pairs) rule.resolutions.push_back({height, width});
            })
        .def_prop_rw(
            "rows", [](const GridRule& rule) { return rule.fixed_grid.rows; },
            [](GridRule& rule, int64_t rows) { rule.fixed_grid.rows = rows; })
        .def_prop_rw(
            "cols", [](const GridRule& rule) { return rule.fixed_grid.cols; },
            [](GridRule& rule, int64_t cols) { rule.fixed_grid.cols = cols; });
    nb::class_<CropRule>(m, "CropRule")
        .def(nb::init<>())
        .def_rw("crop_size", &CropRule::crop_size)
        .def_rw("patch_size", &CropRule::patch_size)
        .def_rw("pooling_rows", &CropRule::pooling_rows)
        .def_rw("pooling_cols", &CropRule::pooling_cols)
        .def_rw("left_margin", &CropRule::left_margin)
        .def_rw("right_margin", &CropRule::right_margin)
        .def_rw("global_crop", &CropRule::global_crop)
        .def_rw("global_first", &CropRule::global_first)
        .def_rw("fit", &CropRule::fit)
        .def_rw("global_fit", &CropRule::global_fit);
    nb::class_<TokenRule>(m, "TokenRule")
        .def(nb::init<>())
        .def_rw("shape", &TokenRule::shape)
        .def_rw("image_extra", &TokenRule::image_extra)
        .def_rw("tokens_per_crop", &TokenRule::tokens_per_crop)
        .def_rw("crop_extra", &TokenRule::crop_extra)
        .def_rw("row_end", &TokenRule::row_end)
        .def_rw("row_separator", &TokenRule::row_separator)
        .def_rw("global_tokens", &TokenRule::global_tokens)
        .def_rw("global_extra", &TokenRule::global_extra)
        .def_rw("split_extra", &TokenRule::split_extra)
        .def_rw("col_tokens", &TokenRule::col_tokens)
        .def_rw("map_extra", &TokenRule::map_extra)
        .def_rw("low_res_col_tokens", &TokenRule::low_res_col_tokens)
        .def_rw("pool_across_crops", &TokenRule::pool_across_crops)
        .def_rw("unpad", &TokenRule::unpad);

    nb::class_<Spec>(m, "Spec", "A validated specification; raises ValueError, naming the field, when it is not.")
        .def(
            "__init__",
            [](Spec* self, const std::string& name, const GridRule& grid, const CropRule& crop,
               const TokenRule& tokens) {
                Spec spec{name, grid, crop, tokens};
                validate(spec);
                new (self) Spec(std::move(spec));
            },
            nb::arg("name"), nb::arg("grid"), nb::arg("crop"), nb::arg("tokens"))
        .def_prop_ro("default_max_crops", [](const Spec& spec) { return default_max_crops(spec); })
        .def(
            "longest_edge_at",
            [](const Spec& spec, int64_t max_crops) { return resolve_knob(spec, max_crops).longest_edge; },
            nb::arg("max_crops"))
        .def(
            "resolutions_at",
            [](const Spec& spec, int64_t max_crops) {
                return to_pairs(kept_resolutions(spec, resolve_knob(spec, max_crops)));
            },
            nb::arg("max_crops"))
        .def_prop_ro("knob_range", [](const Spec& spec) {
            const KnobRange range = knob_range(spec);
            return std::pair(range.first, range.last);
        });
}

}  // namespace maxcrops::bindings
