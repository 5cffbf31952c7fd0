// The only combine rule: summaries of the parts of a tensor add up to the summary of the tensor.
#pragma once

#include <algorithm>

#include "core/summary.h"

namespace fastlog {

// Exact for every counter and extreme; the two sums round once.
inline void merge_into(Summary& into, const Summary& part) {
  for (int i = 0; i < kBins; ++i) into.counts[i] += part.counts[i];
  std::int64_t* counters = &into.underflow;
  const std::int64_t* more = &part.underflow;
  for (int i = 0; i < kCounters; ++i) counters[i] += more[i];
  into.min = std::min(into.min, part.min);
  into.max = std::max(into.max, part.max);
  into.abs_max = std::max(into.abs_max, part.abs_max);
  into.sum += part.sum;
  into.sum_squares += part.sum_squares;
}

}  // namespace fastlog
