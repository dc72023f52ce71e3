#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "bindings.h"
#include "pixels/device_plan.h"
#include "pixels/preprocess.h"

namespace nb = nanobind;

namespace maxcrops::bindings {
namespace {

using Words = nb::ndarray<int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// (address, row, column and channel stride in bytes).
using Source = std::array<int64_t, 4>;

DevicePlan device_plan(const Preprocessor& preprocessor, const std::vector<Source>& sources,
                       const std::vector<const Layout*>& layouts, int64_t tile_rows, int64_t tile_values) {
    if (sources.size() != layouts.size()) throw nb::value_error("[preprocess] there must be a layout for each image");
    if (std::min(tile_rows, tile_values) < 1) {
        throw nb::value_error("[preprocess] tile_rows and tile_values must be at least 1");
    }
    std::vector<DeviceImage> images;
    for (size_t i = 0; i < sources.size(); ++i) {
        const auto [address, row, col, channel] = sources[i];
        const auto* data = reinterpret_cast<const uint8_t*>(static_cast<uintptr_t>(address));
        images.push_back({{data, layouts[i]->image, row, col, channel}, layouts[i]});
    }
    const nb::gil_scoped_release release;
    return preprocessor.device_plan(images, {tile_rows, tile_values});
}

void write(const DevicePlan& plan, const Words& words) {
    if (static_cast<int64_t>(words.size()) != plan.num_words()) {
        throw nb::value_error(("[preprocess] words must have " + std::to_string(plan.num_words()) + " elements, got " +
                               std::to_string(words.size())).c_str());
    }
    plan.write(words.data());
}

}  // namespace

void bind_device(nb::module_& m) {
    nb::enum_<ViewWord>(m, "ViewWord", nb::is_arithmetic(), "Words of a view in a DevicePlan, in order.")
        .value("ADDRESS", ViewWord::kAddress)
        .value("ROW_STRIDE", ViewWord::kRowStride)
        .value("COL_STRIDE", ViewWord::kColStride)
        .value("CHANNEL_STRIDE", ViewWord::kChannelStride)
        .value("HEIGHT", ViewWord::kHeight)
        .value("WIDTH", ViewWord::kWidth)
        .value("TOP", ViewWord::kTop)
        .value("LEFT", ViewWord::kLeft)
        .value("CONTENT_HEIGHT", ViewWord::kContentHeight)
        .value("CONTENT_WIDTH", ViewWord::kContentWidth)
        .value("ROWS", ViewWord::kRows)
        .value("COLS", ViewWord::kCols)
        .value("ROW_TAPS", ViewWord::kRowTaps)
        .value("COL_TAPS", ViewWord::kColTaps)
        .value("ROW_WEIGHTS", ViewWord::kRowWeights)
        .value("COL_WEIGHTS", ViewWord::kColWeights)
        .value("CHAINED", ViewWord::kChained)
        .value("WORKSPACE", ViewWord::kWorkspace)
        .value("FIRST_TILE", ViewWord::kFirstTile)
        .value("END", ViewWord::kEnd);
    nb::enum_<CropWord>(m, "CropWord", nb::is_arithmetic(), "Words of a crop in a DevicePlan, in order.")
        .value("VIEW", CropWord::kView)
        .value("TOP", CropWord::kTop)
        .value("LEFT", CropWord::kLeft)
        .value("OUTPUT", CropWord::kOutput)
        .value("END", CropWord::kEnd);

    nb::class_<DevicePlan>(m, "DevicePlan",
                           "All that a device needs to execute the layouts of a batch, as one block of 64-bit words:\n"
                           "14 float constants, views, crops, axes.")
        .def(nb::new_(&device_plan), nb::arg("preprocessor"), nb::arg("sources"), nb::arg("layouts"),
             nb::arg("tile_rows"), nb::arg("tile_values"),
             "sources: (address, row, column and channel stride in bytes) of each image on the device.\n"
             "tile_rows, tile_values: horizontally resized rows that one program makes, and values of each.")
        .def_prop_ro("num_words", &DevicePlan::num_words, "Length of the block.")
        .def_prop_ro("num_views", &DevicePlan::num_views)
        .def_prop_ro("num_crops", &DevicePlan::num_crops)
        .def_prop_ro("first_view_word", &DevicePlan::first_view_word, "Where the views begin.")
        .def_prop_ro("first_crop_word", &DevicePlan::first_crop_word, "Where the crops begin.")
        .def_prop_ro("is_rounded", &DevicePlan::is_rounded, "Whether pixels are rounded to 8 bits, and not antialiased.")
        .def_prop_ro("num_tiles", &DevicePlan::num_tiles, "Of the horizontal pass; 0 where no view needs one.")
        .def_prop_ro("workspace_floats", &DevicePlan::workspace_floats, "What the horizontal pass writes.")
        .def_prop_ro("by_arithmetic", &DevicePlan::by_arithmetic,
                     "Whether the reciprocals give what the division gives.")
        .def("write", &write, nb::arg("words"), nb::sig("def write(self, words: NDArray[numpy.int64]) -> None"),
             "Into int64 [num_words].");
}

}  // namespace maxcrops::bindings
