// What one block does with a stretch: chunks of one tensor, between two flushes.
#pragma once

#include <type_traits>

#include "cuda/accumulate.cuh"
#include "cuda/block.cuh"
#include "cuda/chunk_table.h"

namespace fastlog::cuda {

// Where a launch reads and writes, all in device memory.
struct Workspace {
  const TensorEntry* entries;
  int tensors;
  int chunks;
  int run;
  unsigned long long* counters;  // kSlotCounters for each tensor, zero before the launch
  unsigned* next_chunk;          // the first that no block has taken, zero before the launch
  SplitMoments* chunk_moments;
  SplitMoments* warp_moments;  // of one flush, for each block
  const DeviceTables* tables;
};

// The block's stretch. It lies in shared memory: registers are few.
struct Stretch {
  TensorEntry entry;
  int tensor;
  int first;
  int last;  // one past; none are left where it is not above `first`
  int end;   // of the block's run
};

template <class T>
struct SummarizeShared {
  // A quarter of the copies serves patterns: 256 x 32 copies, one bank for each lane.
  static constexpr int kPatternCopies = 4 * T::kCopies;
  static constexpr int kSlotWords = kSlotCounters * T::kCopies;
  static constexpr int kPatternWords = kPatterns * kPatternCopies;
  static constexpr int kWords = kSlotWords > kPatternWords ? kSlotWords : kPatternWords;
  std::uint32_t cells[2 * Cells<float>::kPerSign];
  std::uint32_t counters[kWords];  // the copies of a counter lie side by side, in different banks
  Stretch stretch;
};

// Calls `one` for the values of an array that precede and follow its 16-byte vectors, and `many` for the vectors,
// shared out over the block.
template <class Storage, int kThreads, class One, class Many>
__device__ inline void for_each_vector(const Storage* data, int count, One one, Many many) {
  constexpr int kPerVector = 16 / sizeof(Storage);
  const int thread = static_cast<int>(threadIdx.x);
  const auto address = reinterpret_cast<std::uintptr_t>(data);
  const int unaligned = static_cast<int>((16 - address % 16) % 16 / sizeof(Storage));
  const int head = unaligned < count ? unaligned : count;
  const int vectors = (count - head) / kPerVector;
  const int tail = count - head - vectors * kPerVector;
  const auto* vector = reinterpret_cast<const uint4*>(data + head);
  if (thread < head + tail) one(data[thread < head ? thread : count - tail + (thread - head)]);
  // The next vector is on its way while one is counted.
  uint4 next{};
  if (thread < vectors) next = __ldcs(vector + thread);
  for (int v = thread; v < vectors; v += kThreads) {
    const uint4 current = next;
    if (v + kThreads < vectors) next = __ldcs(vector + v + kThreads);
    many(current);
  }
}

// Room for the moments of each warp in the block's i-th chunk of a stretch.
template <class T>
__device__ inline SplitMoments* warp_moments(const Workspace& work, int i) {
  return work.warp_moments + (static_cast<std::int64_t>(blockIdx.x) * T::kMaxRun + i) * (T::kThreads / 32);
}

template <class Storage>
struct ChunkOf {
  const Storage* data;
  int count;
};
template <class T, class Storage>
__device__ inline ChunkOf<Storage> chunk_of(const TensorEntry& entry, int chunk) {
  const std::int64_t begin = (chunk - entry.first_chunk) * T::kChunkValues;
  const std::int64_t left = entry.count - begin;
  return {reinterpret_cast<const Storage*>(entry.address) + begin,
          static_cast<int>(left < T::kChunkValues ? left : T::kChunkValues)};
}

// Leaves the counts of a stretch in shared memory, and the moments of its warps.
template <class T, class Tag, bool kScaled>
__device__ inline void count_slots(SummarizeShared<T>& shared, const Workspace& work) {
  using Storage = typename Tag::Storage;
  using Wide = std::conditional_t<kScaled, double, typename Tag::Wide>;
  Accumulator<Wide, T::kCopies> mine;
  if constexpr (std::is_same_v<Wide, float>) {
    mine.cells = shared.cells;
  } else {
    mine.cells = work.tables->cells64;
  }
  mine.counters = reinterpret_cast<unsigned char*>(shared.counters);
  mine.copy = threadIdx.x % T::kCopies * 4;
  double scale = 1.0;
  if constexpr (kScaled) scale = static_cast<double>(*reinterpret_cast<const float*>(shared.stretch.entry.multiplier));
  const auto value = [scale](Storage stored) -> Wide {
    if constexpr (kScaled) {
      return static_cast<double>(widened<Tag>(stored)) * scale;
    } else {
      return widened<Tag>(stored);
    }
  };
  for (int chunk = shared.stretch.first; chunk < shared.stretch.last; ++chunk) {
    const ChunkOf<Storage> values = chunk_of<T, Storage>(shared.stretch.entry, chunk);
    mine.reset();
    for_each_vector<Storage, T::kThreads>(
        values.data, values.count,
        [&](Storage stored) {
          const Wide x = value(stored);
          mine.increment(mine.counter_of(x));
          mine.add_checked(x);
        },
        [&](const uint4& vector) {
          constexpr int kPerVector = 16 / sizeof(Storage);
          constexpr int kGroup = sizeof(Wide) == 8 && kPerVector > 4 ? 4 : kPerVector;  // registers are few
          Storage stored[kPerVector];
          unpack_vector(vector, stored);
          for (int group = 0; group < kPerVector; group += kGroup) {
            Wide x[kGroup];
            for (int i = 0; i < kGroup; ++i) x[i] = value(stored[group + i]);
            mine.add(x);
          }
        });
    const SplitMoments of_warp = fold_warp(mine.moments());
    if (threadIdx.x % 32 == 0) warp_moments<T>(work, chunk - shared.stretch.first)[threadIdx.x / 32] = of_warp;
  }
}

// The same for elements of one byte: only their patterns are counted, the host knows what they stand for.
template <class T>
__device__ inline void count_patterns(SummarizeShared<T>& shared) {
  constexpr int kCopies = SummarizeShared<T>::kPatternCopies;
  std::uint32_t* const counters = shared.counters + threadIdx.x % kCopies;
  const auto count = [counters](std::uint8_t pattern) { atomicAdd(counters + pattern * kCopies, 1u); };
  for (int chunk = shared.stretch.first; chunk < shared.stretch.last; ++chunk) {
    const ChunkOf<std::uint8_t> values = chunk_of<T, std::uint8_t>(shared.stretch.entry, chunk);
    for_each_vector<std::uint8_t, T::kThreads>(values.data, values.count, count, [count](const uint4& vector) {
      std::uint8_t stored[16];
      unpack_vector(vector, stored);
      for (int i = 0; i < 16; ++i) count(stored[i]);
    });
  }
}

// Adds the block's counts to the tensor's and clears them.
template <int kCopies, int kThreads>
__device__ inline void flush_counters(std::uint32_t* shared, int counters, unsigned long long* totals) {
  for (int i = static_cast<int>(threadIdx.x); i < counters; i += kThreads) {
    unsigned long long total = 0;
    for (int copy = 0; copy < kCopies; ++copy) {
      total += shared[i * kCopies + copy];
      shared[i * kCopies + copy] = 0;
    }
    if (total) atomicAdd(totals + i, total);
  }
}

}  // namespace fastlog::cuda
