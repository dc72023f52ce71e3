#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "bindings.h"
#include "layout.h"

namespace nb = nanobind;

namespace maxcrops::bindings {
namespace {

nb::tuple to_tuple(Size s) { return nb::make_tuple(s.height, s.width); }
nb::tuple to_tuple(const Box& b) { return nb::make_tuple(b.top, b.left, b.height, b.width); }

std::string text(Size s) { return std::to_string(s.height) + "x" + std::to_string(s.width); }

template <typename T>
nb::list to_list(const std::vector<T>& items) {
    nb::list list;
    for (const T& item : items) list.append(to_tuple(item));
    return list;
}

}  // namespace

void bind_layout(nb::module_& m) {
    nb::class_<View>(m, "View", "One resize of the image onto a canvas from which crops are cut. Sizes in pixels.")
        .def_prop_ro("source", [](const View& v) { return to_tuple(v.source); },
                     nb::sig("def source(self) -> tuple[int, int, int, int]"),
                     "(top, left, height, width) of the part of the image that is resized; all of it in most models.")
        .def_ro("is_global", &View::is_global, "Whether this is the low-resolution view of the whole image.")
        .def_ro("from_local_canvas", &View::from_local_canvas,
                "Whether the source is the local view's canvas instead of the image.")
        .def_prop_ro("resizes", [](const View& v) { return to_list(v.resizes); },
                     nb::sig("def resizes(self) -> list[tuple[int, int]]"),
                     "(height, width) of each resize, in order; the last is the content's size.")
        .def_prop_ro("canvas", [](const View& v) { return to_tuple(v.canvas); },
                     nb::sig("def canvas(self) -> tuple[int, int]"), "(height, width).")
        .def_prop_ro("content", [](const View& v) { return to_tuple(v.content); },
                     nb::sig("def content(self) -> tuple[int, int, int, int]"),
                     "(top, left, height, width) of the image on the canvas; the rest is padding.")
        .def_prop_ro("crops", [](const View& v) { return to_list(v.crops); },
                     nb::sig("def crops(self) -> list[tuple[int, int, int, int]]"),
                     "(top, left, height, width) of each crop on the canvas, margins included, in the encoder's order.")
        .def("__repr__", [](const View& v) {
            return std::string("View(") + (v.is_global ? "global, " : "local, ") + std::to_string(v.crops.size()) +
                   " crops on a canvas of " + text(v.canvas) + " px)";
        });

    nb::class_<Layout>(m, "Layout", "What happens to one image: grid, canvas, views, crop order and counts.")
        .def_prop_ro("height", [](const Layout& l) { return l.image.height; }, "Of the image, pixels.")
        .def_prop_ro("width", [](const Layout& l) { return l.image.width; }, "Of the image, pixels.")
        .def_prop_ro("grid", [](const Layout& l) { return nb::make_tuple(l.grid.rows, l.grid.cols); },
                     nb::sig("def grid(self) -> tuple[int, int]"),
                     "(rows, cols) of local crops; (0, 0) when only the global crop exists.")
        .def_prop_ro("canvas", [](const Layout& l) { return to_tuple(l.canvas); },
                     nb::sig("def canvas(self) -> tuple[int, int]"), "(height, width) of the local view, pixels.")
        .def_prop_ro("content", [](const Layout& l) { return to_tuple(l.content); },
                     nb::sig("def content(self) -> tuple[int, int, int, int]"),
                     "(top, left, height, width) of the image on the canvas, pixels.")
        .def_ro("has_global", &Layout::has_global, "Whether a global crop exists.")
        .def_ro("is_refused", &Layout::is_refused,
                "Whether the model's own processor raises for an image of this size; counts go on as if it did not.")
        .def_ro("num_crops", &Layout::num_crops, "Crops that the encoder sees, the global one included.")
        .def_ro("sequence_tokens", &Layout::sequence_tokens, "Positions in the language model's sequence.")
        .def_ro("connector_outputs", &Layout::connector_outputs, "Features that the adapter computes.")
        .def_ro("vit_patches", &Layout::vit_patches, "Patches that the vision encoder computes.")
        .def_ro("cross_attention_keys", &Layout::cross_attention_keys,
                "Keys that the image gives the language model's cross-attention layers; 0 without such layers.")
        .def_prop_ro("scale", &Layout::scale,
                     "Linear scale of the image's detail, the smaller of both axes; below 1, detail is lost.")
        .def_prop_ro("margins",
                     [](const Layout& l) {
                         return nb::make_tuple(l.crop.left_margin * l.crop.patch_size, l.crop.right_margin * l.crop.patch_size);
                     },
                     nb::sig("def margins(self) -> tuple[int, int]"),
                     "(before, behind): what a crop shares with its neighbours on either side, pixels.")
        .def_prop_ro("patch_size", [](const Layout& l) { return l.crop.patch_size; }, "Side of a ViT patch, pixels.")
        .def_prop_ro("views", &Layout::views, "In the order in which the crops reach the encoder.")
        .def("__repr__", [](const Layout& l) {
            return "Layout(" + text(l.image) + " px: grid " + text({l.grid.rows, l.grid.cols}) + ", " +
                   std::to_string(l.num_crops) + " crops, " + std::to_string(l.sequence_tokens) + " sequence tokens)";
        });

    m.def(
        "layout",
        [](const Spec& spec, int64_t height, int64_t width, std::optional<int64_t> max_crops) {
            return make_layout(spec, resolve_knob(spec, max_crops), {height, width});
        },
        nb::arg("spec"), nb::arg("height"), nb::arg("width"), nb::arg("max_crops").none() = nb::none());
}

}  // namespace maxcrops::bindings
