#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>

#include <optional>

#include "batch.h"
#include "bindings.h"

namespace nb = nanobind;

namespace maxcrops::bindings {
namespace {

using Sizes = nb::ndarray<const int64_t, nb::shape<-1, 2>, nb::c_contig, nb::device::cpu>;
using Counts = nb::ndarray<int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Grids = nb::ndarray<int64_t, nb::shape<-1, 2>, nb::c_contig, nb::device::cpu>;
using Scales = nb::ndarray<double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

template <typename Out>
int64_t common_length(const Sizes& sizes, const Out& out) {
    if (sizes.shape(0) != out.shape(0)) throw nb::value_error("[batch] out must have as many rows as sizes");
    return static_cast<int64_t>(sizes.shape(0));
}

}  // namespace

void bind_counting(nb::module_& m) {
    m.def(
        "count_batch",
        [](const Spec& spec, Sizes sizes, Counts out, Count count, std::optional<int64_t> max_crops, int num_threads) {
            const int64_t n = common_length(sizes, out);
            const Knob knob = resolve_knob(spec, max_crops);
            nb::gil_scoped_release release;
            count_batch(spec, knob, count, sizes.data(), n, num_threads, out.data());
        },
        nb::arg("spec"), nb::arg("sizes"), nb::arg("out"), nb::arg("count"), nb::arg("max_crops").none(),
        nb::arg("num_threads"));
    m.def(
        "grid_batch",
        [](const Spec& spec, Sizes sizes, Grids out, std::optional<int64_t> max_crops, int num_threads) {
            const int64_t n = common_length(sizes, out);
            const Knob knob = resolve_knob(spec, max_crops);
            nb::gil_scoped_release release;
            grid_batch(spec, knob, sizes.data(), n, num_threads, out.data());
        },
        nb::arg("spec"), nb::arg("sizes"), nb::arg("out"), nb::arg("max_crops").none(), nb::arg("num_threads"));
    m.def(
        "scale_batch",
        [](const Spec& spec, Sizes sizes, Scales out, std::optional<int64_t> max_crops, int num_threads) {
            const int64_t n = common_length(sizes, out);
            const Knob knob = resolve_knob(spec, max_crops);
            nb::gil_scoped_release release;
            scale_batch(spec, knob, sizes.data(), n, num_threads, out.data());
        },
        nb::arg("spec"), nb::arg("sizes"), nb::arg("out"), nb::arg("max_crops").none(), nb::arg("num_threads"));
}

}  // namespace maxcrops::bindings
