// The numbers that a kernel is built with. Results do not depend on the grid; sums depend on kThreads and
// kChunkValues alone.
#pragma once

#include <cstdint>

namespace fastlog::cuda {

struct Tuning {
  // One block of this size fills a multiprocessor: 64 registers a thread, and one copy of the cell table.
  static constexpr int kThreads = 1024;
  // Every slot is counted in so many places, in different banks, so that a hot bin is not one hot word.
  static constexpr int kCopies = 8;
  static constexpr std::int64_t kChunkValues = 1 << 17;
  // A block takes at most so many chunks at a time, and then flushes: 32-bit counters cannot overflow.
  static constexpr int kMaxRun = 16;
};

// For devices with 64 KiB of shared memory a block (compute capability 7.5, some MIG slices).
struct SmallTuning : Tuning {
  static constexpr int kCopies = 4;
};

inline constexpr int kFinishThreads = 256;

}  // namespace fastlog::cuda
