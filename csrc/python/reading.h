// Registers what reads event files.
#pragma once

#include <pybind11/pybind11.h>

namespace fastlog::python {

void register_reading(pybind11::module_& module);

}  // namespace fastlog::python
