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
        .value("CEIL_GRID", GridPolicy::kCeilGrid)
        .value("LOG_RATIO", GridPolicy::kLogRatio)
        .value("COVERING_AREA", GridPolicy::kCoveringArea)
        .value("LARGEST_CANVAS", GridPolicy::kLargestCanvas)
        .value("PAN_AND_SCAN", GridPolicy::kPanAndScan)
        .value("WINDOW_SNAP", GridPolicy::kWindowSnap);
    nb::enum_<SplitGate>(m, "SplitGate")
        .value("ALWAYS", SplitGate::kAlways)
        .value("ABOVE_CROP", SplitGate::kAboveCrop)
        .value("ABOVE_AREA", SplitGate::kAboveArea)
        .value("ABOVE_GRID", SplitGate::kAboveGrid);
    nb::enum_<Sizing>(m, "Sizing")
        .value("SQUARE", Sizing::kSquare)
        .value("FEATURES", Sizing::kFeatures)
        .value("AREA", Sizing::kArea)
        .value("EDGES", Sizing::kEdges);
    nb::enum_<Unpad>(m, "Unpad")
        .value("NEVER", Unpad::kNever)
        .value("BY_RATIO", Unpad::kByRatio)
        .value("BY_PATCHES", Unpad::kByPatches);
    nb::enum_<GlobalCrop>(m, "GlobalCrop")
        .value("NEVER", GlobalCrop::kNever)
        .value("WHEN_SPLIT", GlobalCrop::kWhenSplit)
        .value("WHEN_UNSPLIT", GlobalCrop::kWhenUnsplit)
        .value("ALWAYS", GlobalCrop::kAlways);
    nb::enum_<Fit>(m, "Fit")
        .value("STRETCH", Fit::kStretch)
        .value("LETTERBOX_TRUNC", Fit::kLetterboxTrunc)
        .value("LETTERBOX_CEIL", Fit::kLetterboxCeil)
        .value("LETTERBOX_ROUND", Fit::kLetterboxRound)
        .value("TOP_LEFT", Fit::kTopLeft)
        .value("TOP_LEFT_NO_UPSCALE", Fit::kTopLeftNoUpscale);
    nb::enum_<TokenShape>(m, "TokenShape").value("TILED", TokenShape::kTiled).value("STITCHED", TokenShape::kStitched);
    nb::enum_<Count>(m, "Count")
        .value("SEQUENCE_TOKENS", Count::kSequenceTokens)
        .value("CONNECTOR_OUTPUTS", Count::kConnectorOutputs)
        .value("VIT_PATCHES", Count::kVitPatches)
        .value("CROPS", Count::kCrops)
        .value("CROSS_ATTENTION_KEYS", Count::kCrossAttentionKeys);

    nb::class_<GridRule>(m, "GridRule")
        .def(nb::init<>())
        .def_rw("policy", &GridRule::policy)
        .def_rw("max_crops", &GridRule::max_crops)
        .def_rw("min_crops", &GridRule::min_crops)
        .def_rw("clamp_reduced_sides", &GridRule::clamp_reduced_sides)
        .def_rw("max_grid_side", &GridRule::max_grid_side)
        .def_rw("split", &GridRule::split)
        .def_rw("split_tolerance", &GridRule::split_tolerance)
        .def_rw("compensated_sum", &GridRule::compensated_sum)
        .def_rw("largest_upscaling", &GridRule::largest_upscaling)
        .def_rw("covering_threshold", &GridRule::covering_threshold)
        .def_rw("transposed", &GridRule::transposed)
        .def_rw("min_slice_size", &GridRule::min_slice_size)
        .def_rw("min_ratio", &GridRule::min_ratio)
        .def_rw("max_image_size", &GridRule::max_image_size)
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
        .def_rw("global_crop_size", &CropRule::global_crop_size)
        .def_rw("patch_size", &CropRule::patch_size)
        .def_rw("global_pooling_rows", &CropRule::global_pooling_rows)
        .def_rw("global_pooling_cols", &CropRule::global_pooling_cols)
        .def_rw("pooling_rows", &CropRule::pooling_rows)
        .def_rw("pooling_cols", &CropRule::pooling_cols)
        .def_rw("left_margin", &CropRule::left_margin)
        .def_rw("right_margin", &CropRule::right_margin)
        .def_rw("global_crop", &CropRule::global_crop)
        .def_rw("global_first", &CropRule::global_first)
        .def_rw("fit", &CropRule::fit)
        .def_rw("global_fit", &CropRule::global_fit)
        .def_rw("sizing", &CropRule::sizing)
        .def_rw("global_sizing", &CropRule::global_sizing)
        .def_rw("min_features", &CropRule::min_features)
        .def_rw("max_features", &CropRule::max_features)
        .def_rw("shortest_edge", &CropRule::shortest_edge)
        .def_rw("longest_crop_edge", &CropRule::longest_crop_edge)
        .def_rw("fills_batch", &CropRule::fills_batch)
        .def_rw("min_content_side", &CropRule::min_content_side);
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
        .def_rw("counts_features", &TokenRule::counts_features)
        .def_rw("counts_global_features", &TokenRule::counts_global_features)
        .def_rw("cross_attention_keys", &TokenRule::cross_attention_keys)
        .def_rw("max_map_crops", &TokenRule::max_map_crops)
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
            "edge_at",
            [](const Spec& spec, int64_t max_crops) { return resolve_knob(spec, max_crops).edge; },
            nb::arg("max_crops"))
        .def(
            "resolutions_at",
            [](const Spec& spec, int64_t max_crops) {
                return to_pairs(resolve_knob(spec, max_crops).resolutions);
            },
            nb::arg("max_crops"))
        .def_prop_ro("knob_range", [](const Spec& spec) {
            const KnobRange range = knob_range(spec);
            return std::pair(range.first, range.last);
        });
}

}  // namespace maxcrops::bindings
