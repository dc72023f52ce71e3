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

// Checks shapes, resolves the knob and runs one of the core's batch functions without the GIL.
template <typename Out, typename Batch>
void run(const Spec& spec, const Sizes& sizes, const Out& out, std::optional<int64_t> max_crops, const Batch& batch) {
    if (sizes.shape(0) != out.shape(0)) throw nb::value_error("[batch] out must have as many rows as sizes");
    const Knob knob = resolve_knob(spec, max_crops);
    const Isa isa = active_isa();  // reads the environment, which Python changes under the GIL
    nb::gil_scoped_release release;
    batch(spec, knob, sizes.data(), static_cast<int64_t>(sizes.shape(0)), out.data(), isa);
}

}  // namespace

void bind_counting(nb::module_& m) {
    m.def(
        "count_batch",
        [](const Spec& spec, Sizes sizes, Counts out, Count count, std::optional<int64_t> max_crops, int num_threads) {
            run(spec, sizes, out, max_crops, [&](auto& s, auto& knob, auto* in, int64_t n, auto* to, Isa isa) {
                count_batch(s, knob, count, in, n, num_threads, to, isa);
            });
        },
        nb::arg("spec"), nb::arg("sizes"), nb::arg("out"), nb::arg("count"), nb::arg("max_crops").none(),
        nb::arg("num_threads"));
    m.def(
        "grid_batch",
        [](const Spec& spec, Sizes sizes, Grids out, std::optional<int64_t> max_crops, int num_threads) {
            run(spec, sizes, out, max_crops, [&](auto& s, auto& knob, auto* in, int64_t n, auto* to, Isa isa) {
                grid_batch(s, knob, in, n, num_threads, to, isa);
            });
        },
        nb::arg("spec"), nb::arg("sizes"), nb::arg("out"), nb::arg("max_crops").none(), nb::arg("num_threads"));
    m.def(
        "scale_batch",
        [](const Spec& spec, Sizes sizes, Scales out, std::optional<int64_t> max_crops, int num_threads) {
            run(spec, sizes, out, max_crops, [&](auto& s, auto& knob, auto* in, int64_t n, auto* to, Isa) {
                scale_batch(s, knob, in, n, num_threads, to);
            });
        },
        nb::arg("spec"), nb::arg("sizes"), nb::arg("out"), nb::arg("max_crops").none(), nb::arg("num_threads"));
}

}  // namespace maxcrops::bindings
