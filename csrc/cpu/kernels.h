// The loops over values, compiled once per instruction set and chosen at run time.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "core/bins.h"
#include "core/tensor_view.h"

namespace fastlog::cpu {

// Extremes and sums of finite values. The identities of `merge` where there is none.
struct Moments {
  double min = std::numeric_limits<double>::infinity();
  double max = -std::numeric_limits<double>::infinity();
  double sum = 0;
  double sum_squares = 0;
};

// Several copies in turn, so that a hot bin is not one chain of store-to-load forwards and values nearby seldom
// meet in a counter. 16 bits keep them in the first-level cache; they are drained before 2^16 values reach one.
// An incomplete block uses a few of them, which are sooner drained.
inline constexpr int kSlotCopies = 16;
inline constexpr int kFewSlotCopies = 4;
inline constexpr int kSlotCopyStride = kSignStride + kSlots + 19;
static_assert(kSlotCopyStride % 16 == 0);

struct SlotCounters {
  std::uint16_t slots[kSlotCopies * kSlotCopyStride];
  int copies;                           // that may hold counts
  std::uint32_t wide[kSlotCopyStride];  // whole chunks' counts
  bool has_wide;
  std::int64_t above_e4m3;
  std::int64_t above_e5m2;
  std::int64_t above_fp16;
};

// Counts the values [begin, end) of a view into `counters` and gives their moments. The operations and their
// order depend on the values alone, never on the instruction set.
using ChunkFunction = void (*)(const TensorView& view, std::int64_t begin, std::int64_t end, SlotCounters& counters,
                               Moments& moments);

struct Kernels {
  const char* name;
  ChunkFunction chunk[kDTypeCount];
};

// The compiled paths that this CPU can run, best last.
const std::vector<const Kernels*>& available_kernels();

// The best one, or the one that FASTLOG_CPU_ISA names. Throws std::invalid_argument on any other name.
const Kernels& chosen_kernels();

// For the tests: switches the path of this process. Throws std::invalid_argument on an unknown name.
void choose_kernels(const std::string& name);

}  // namespace fastlog::cpu
