// Many tensors as one launch: the table that goes to the device, and how much of everything a launch needs.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "core/tensor_view.h"
#include "cuda/records.h"
#include "cuda/tuning.h"

namespace fastlog::cuda {

// Tensors are cut into chunks of T::kChunkValues values, numbered through.
struct TensorEntry {
  std::uint64_t address;
  std::int64_t count;
  std::uint64_t multiplier;  // address of a float on the device, 0 for none
  std::uint64_t record;      // address, in pinned memory
  std::int32_t first_chunk;
  std::int32_t chunks;
  std::int32_t dtype;
  std::int32_t wide_counts;
};

// Sizes are in bytes.
struct LaunchPlan {
  std::int64_t tensors = 0;
  std::int64_t chunks = 0;
  int grid = 0;
  int run = 0;  // chunks that a block takes at a time
  std::size_t table_bytes = 0;
  std::size_t scratch_bytes = 0;  // counters, next chunk, moments of chunks, moments of warps
  std::size_t records_bytes = 0;
};

// Of one launch. The first bounds scratch and records; the second is petabytes.
inline constexpr std::int64_t kMaxTensors = 1024;
inline constexpr std::int64_t kMaxChunks = 0x7fffffff;

inline std::int64_t chunks_of(std::int64_t count, std::int64_t chunk_values) {
  return count / chunk_values + (count % chunk_values != 0);
}

// Where the parts of the scratch memory lie.
inline std::size_t counters_bytes(std::int64_t tensors) {
  return static_cast<std::size_t>(tensors) * kSlotCounters * 8;
}
// Of the scratch memory, what is zero before a launch: the counters, and the number of the next chunk that is free.
inline std::size_t cleared_bytes(std::int64_t tensors) { return counters_bytes(tensors) + 8; }
template <class T>
std::size_t warp_moments_bytes(int grid) {
  return static_cast<std::size_t>(grid) * T::kMaxRun * (T::kThreads / 32) * sizeof(SplitMoments);
}

// Throws std::invalid_argument for views that no launch can take.
template <class T>
LaunchPlan plan_launch(const std::vector<TensorView>& views, int multiprocessors) {
  LaunchPlan plan;
  plan.tensors = static_cast<std::int64_t>(views.size());
  if (plan.tensors > kMaxTensors) throw std::invalid_argument("fastlog: too many tensors for one launch");
  for (const TensorView& view : views) {
    const std::size_t size = item_size(view.dtype);
    if (view.count < 0) throw std::invalid_argument("fastlog: a tensor's count is negative");
    if (reinterpret_cast<std::uintptr_t>(view.data) % size) {
      throw std::invalid_argument("fastlog: a tensor's address is not a multiple of its element size");
    }
    plan.chunks += chunks_of(view.count, T::kChunkValues);
    plan.records_bytes += record_capacity(view.dtype, view.count);
  }
  if (plan.chunks > kMaxChunks) throw std::invalid_argument("fastlog: too many values for one launch");
  plan.grid = static_cast<int>(std::max<std::int64_t>(1, std::min<std::int64_t>(multiprocessors, plan.chunks)));
  // Long enough that flushing is little, short enough that blocks end together.
  plan.run =
      static_cast<int>(std::max<std::int64_t>(1, std::min<std::int64_t>(T::kMaxRun, plan.chunks / (plan.grid * 8))));
  plan.table_bytes = static_cast<std::size_t>(plan.tensors) * sizeof(TensorEntry);
  plan.scratch_bytes = cleared_bytes(plan.tensors) + static_cast<std::size_t>(plan.chunks) * sizeof(SplitMoments) +
                       warp_moments_bytes<T>(plan.grid);
  return plan;
}

// Writes the table for `views` into `table` (plan.table_bytes); their records lie one behind the other at `records`.
template <class T>
void pack_table(const std::vector<TensorView>& views, std::uint64_t records, std::uint8_t* table) {
  std::int64_t chunk = 0;
  std::uint8_t* at = table;
  for (const TensorView& view : views) {
    const std::int64_t chunks = chunks_of(view.count, T::kChunkValues);
    const TensorEntry entry{reinterpret_cast<std::uintptr_t>(view.data),
                            view.count,
                            reinterpret_cast<std::uintptr_t>(view.multiplier),
                            records,
                            static_cast<std::int32_t>(chunk),
                            static_cast<std::int32_t>(chunks),
                            static_cast<std::int32_t>(view.dtype),
                            has_wide_counts(view.count)};
    std::memcpy(at, &entry, sizeof(entry));
    at += sizeof(entry);
    // What lies there from an earlier launch must not pass for this one's.
    reinterpret_cast<RecordHead*>(records)->written = 0;
    chunk += chunks;
    records += record_capacity(view.dtype, view.count);
  }
}

}  // namespace fastlog::cuda
