// A dtype of 8 or 16 bits has so few values that counting the bit patterns loses nothing: bins, counters,
// extremes and sums all follow from the counts.
#pragma once

#include <cstdint>
#include <vector>

#include "core/summary.h"
#include "core/tensor_view.h"

namespace fastlog::cpu {

using PatternTotals = std::vector<std::int64_t>;

// The number of patterns if this tensor is to be summarised by counting them, else 0. Depends on the view
// alone: 16-bit dtypes only from a size at which the final pass over all patterns is small.
int pattern_count(const TensorView& view);

// Whether a few values come so often among the values [begin, end) that they would meet in the tables all the time
// and the slots with their many copies are faster. A sample decides, so it depends on the values alone.
bool patterns_would_stall(const TensorView& view, std::int64_t begin, std::int64_t end);

// One thread's counters: zero whenever nothing is being counted.
class PatternCounters {
 public:
  void count(const TensorView& view, std::int64_t begin, std::int64_t end);
  // Adds the counts since the last call and starts again at zero.
  void drain_into(PatternTotals& totals);

 private:
  // The tables of 8-bit and of 16-bit dtypes, several copies behind one another.
  std::vector<std::uint32_t> narrow_;
  std::vector<std::uint32_t> wide_;
};

// Adds to an empty summary all that the counts tell; min and max included.
void summarize_patterns(const PatternTotals& totals, DType dtype, Summary& summary);

}  // namespace fastlog::cpu
