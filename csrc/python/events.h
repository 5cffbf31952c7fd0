// What encodes events, for the module that has it.
#pragma once

#include <pybind11/pybind11.h>

namespace fastlog::python {

// Adds the kinds of events and the functions that encode them to the module.
void register_events(pybind11::module_& module);

}  // namespace fastlog::python
