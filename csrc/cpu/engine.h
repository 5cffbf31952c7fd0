// Summaries of tensors in host memory.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/tensor_view.h"

namespace fastlog::cpu {

// One packed summary (core/pack.h) per view, in order. The bytes depend on the values alone: not on `threads`,
// not on the instruction set. Values are read once; nothing is copied but blocks that need conversion.
std::vector<std::string> summarize(const std::vector<TensorView>& views, int threads);

// Below this many values in all, a call stays on the calling thread.
inline constexpr std::int64_t kParallelFrom = 1 << 17;

}  // namespace fastlog::cpu
