#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <vector>

#include "bindings.h"
#include "bounds.h"

namespace nb = nanobind;

namespace maxcrops::bindings {

void bind_bounds(nb::module_& m) {
    nb::class_<SizeLimit>(m, "SizeLimit")
        .def(nb::init<int64_t, double, int>(), nb::arg("max_side"), nb::arg("max_ratio"), nb::arg("num_threads"));
    m.def("is_bounded", &is_bounded, nb::arg("spec"), nb::arg("count"));
    m.def(
        "worst_case",
        [](const Spec& spec, std::optional<int64_t> max_crops, Count count) {
            const Bound bound = worst_case(spec, resolve_knob(spec, max_crops), count);
            return nb::make_tuple(bound.count, bound.layout);
        },
        nb::arg("spec"), nb::arg("max_crops").none(), nb::arg("count"),
        nb::sig("def worst_case(spec: Spec, max_crops: int | None, count: Count) -> tuple[int, Layout]"));
    m.def(
        "worst_cases",
        [](const Spec& spec, std::optional<int64_t> max_crops, const std::vector<Count>& counts, const SizeLimit& limit) {
            const Knob knob = resolve_knob(spec, max_crops);
            std::vector<Bound> bounds;
            {
                nb::gil_scoped_release release;
                bounds = worst_cases(spec, knob, counts, limit);
            }
            nb::list list;
            for (const Bound& bound : bounds) list.append(nb::make_tuple(bound.count, bound.layout));
            return list;
        },
        nb::arg("spec"), nb::arg("max_crops").none(), nb::arg("counts"), nb::arg("limit"),
        nb::sig("def worst_cases(spec: Spec, max_crops: int | None, counts: Sequence[Count], limit: SizeLimit)"
                " -> list[tuple[int, Layout]]"));
    m.def(
        "largest_max_crops",
        [](const Spec& spec, Count count, int64_t max_count, const std::optional<SizeLimit>& limit) {
            nb::gil_scoped_release release;
            return largest_max_crops(spec, count, max_count, limit);
        },
        nb::arg("spec"), nb::arg("count"), nb::arg("max_count"), nb::arg("limit").none());
}

}  // namespace maxcrops::bindings
