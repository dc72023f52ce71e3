#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <vector>

#include "bindings.h"
#include "cpu_features.h"
#include "types.h"

namespace nb = nanobind;

NB_MODULE(_core, m) {
    // Specs are cached for the life of the process, and interpreters do not always free such caches at exit.
    nb::set_leak_warnings(false);
    m.doc() = "Geometry and counts of crop-based vision-language models; the documented faces are in maxcrops.";
    m.attr("MAX_SIDE") = maxcrops::kMaxSide;
    m.attr("MAX_CROPS_LIMIT") = maxcrops::kMaxCropsLimit;
    m.def(
        "available_isas",
        [] {
            std::vector<std::string> names;
            for (const maxcrops::Isa isa : maxcrops::available_isas()) names.emplace_back(maxcrops::isa_name(isa));
            return names;
        },
        "Instruction sets that this build can use on this machine, weakest first.");
    m.def(
        "active_isa", [] { return std::string(maxcrops::isa_name(maxcrops::active_isa())); },
        "The instruction set that is used; the environment variable MAXCROPS_CPU_ISA forces one.");
    maxcrops::bindings::bind_spec(m);
    maxcrops::bindings::bind_layout(m);
    maxcrops::bindings::bind_counting(m);
    maxcrops::bindings::bind_bounds(m);
    maxcrops::bindings::bind_preprocess(m);
    maxcrops::bindings::bind_device(m);
}
