// What the engines see of a tensor. Owns nothing: whoever makes a view keeps the memory alive.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace fastlog {

struct TensorView {
  const void* data = nullptr;  // `count` dense elements; any alignment that the dtype allows
  std::int64_t count = 0;
  DType dtype = DType::kFloat32;
  std::int64_t implicit_zeros = 0;    // zeros that are not stored (sparse layouts)
  const float* multiplier = nullptr;  // where given, x * *multiplier in float64 is what is summarised
};

}  // namespace fastlog
