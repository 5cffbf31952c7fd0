// What encodes events, for the module that has it.
#pragma once

#include <pybind11/pybind11.h>

namespace fastlog {

// Adds encode_events, masked_crc32c and crc32c_path to the module.
void register_events(pybind11::module_& module);

}  // namespace fastlog
