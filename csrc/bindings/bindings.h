// The binding seam: each file converts and documents one area and computes nothing.
#pragma once

#include <nanobind/nanobind.h>

namespace maxcrops::bindings {

void bind_spec(nanobind::module_& m);
void bind_layout(nanobind::module_& m);
void bind_counting(nanobind::module_& m);
void bind_bounds(nanobind::module_& m);
void bind_preprocess(nanobind::module_& m);
void bind_device(nanobind::module_& m);

}  // namespace maxcrops::bindings
