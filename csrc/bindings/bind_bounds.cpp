#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>

#include <optional>

#include "bindings.h"
#include "bounds.h"

namespace nb = nanobind;

namespace maxcrops::bindings {

void bind_bounds(nb::module_& m) {
    m.def(
        "worst_case",
        [](const Spec& spec, std::optional<int64_t> max_crops, Count count) {
            const Bound bound = worst_case(spec, resolve_knob(spec, max_crops), count);
            return nb::make_tuple(bound.count, bound.layout);
        },
        nb::arg("spec"), nb::arg("max_crops").none(), nb::arg("count"),
        nb::sig("def worst_case(spec: Spec, max_crops: int | None, count: Count) -> tuple[int, Layout]"));
    m.def(
        "largest_max_crops",
        [](const Spec& spec, Count count, int64_t max_count) { return largest_max_crops(spec, count, max_count); },
        nb::arg("spec"), nb::arg("count"), nb::arg("max_count"));
}

}  // namespace maxcrops::bindings
