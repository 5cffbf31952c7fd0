// The pass over the values: every byte is read once, for counts and moments together.
//
// A block takes the next run of chunks, and again until none is left; what it counts lies in shared memory until the
// tensor changes or the run is over. Counts are integers and reach a tensor's counters by atomic additions, which
// commute. Moments are folded in an order that only the chunk gives: thread, warp, chunk. So nothing depends on the
// grid or on who takes what.
#pragma once

#include "cuda/stretch.cuh"

namespace fastlog::cuda {

// Calls visitor(Tag{}) for elements of more than one byte.
template <class Visitor>
__device__ inline void visit_wide_dtype(std::int32_t dtype, Visitor&& visitor) {
  switch (static_cast<DType>(dtype)) {
    case DType::kFloat64: return visitor(Float64{});
    case DType::kFloat32: return visitor(Float32{});
    case DType::kFloat16: return visitor(Float16{});
    case DType::kBFloat16: return visitor(BFloat16{});
    case DType::kInt16: return visitor(Integer<std::int16_t, float>{});
    case DType::kInt32: return visitor(Integer<std::int32_t, double>{});
    case DType::kInt64: return visitor(Integer<std::int64_t, double>{});
    case DType::kUInt16: return visitor(Integer<std::uint16_t, float>{});
    case DType::kUInt32: return visitor(Integer<std::uint32_t, double>{});
    case DType::kUInt64: return visitor(Integer<std::uint64_t, double>{});
    default: return;
  }
}

__device__ inline bool has_one_byte(std::int32_t dtype) {
  switch (static_cast<DType>(dtype)) {
    case DType::kFloat8E4M3FN:
    case DType::kFloat8E5M2:
    case DType::kFloat8E4M3FNUZ:
    case DType::kFloat8E5M2FNUZ:
    case DType::kFloat8E8M0FNU:
    case DType::kInt8:
    case DType::kUInt8:
    case DType::kBool: return true;
    default: return false;
  }
}

// What the block has of a stretch goes to device memory.
template <class T>
__device__ inline void flush(SummarizeShared<T>& shared, const Workspace& work) {
  const Stretch& stretch = shared.stretch;
  unsigned long long* const totals = work.counters + static_cast<std::int64_t>(stretch.tensor) * kSlotCounters;
  if (has_one_byte(stretch.entry.dtype)) {
    flush_counters<SummarizeShared<T>::kPatternCopies, T::kThreads>(shared.counters, kPatterns, totals);
    return;
  }
  flush_counters<T::kCopies, T::kThreads>(shared.counters, kSlotCounters, totals);
  constexpr int kWarps = T::kThreads / 32;
  const int lane = static_cast<int>(threadIdx.x % 32);
  for (int i = static_cast<int>(threadIdx.x / 32); i < stretch.last - stretch.first; i += kWarps) {
    const SplitMoments of_chunk = fold_warp(lane < kWarps ? warp_moments<T>(work, i)[lane] : no_moments());
    if (lane == 0) work.chunk_moments[stretch.first + i] = of_chunk;
  }
}

// The tensor that has the chunk, `tensor` or one behind it: by steps that double and then halve. Tensors without
// chunks begin where the next one does, and are passed over.
__device__ inline int holder_of(int chunk, int tensor, const Workspace& work) {
  const auto begins_by = [&](int other) { return other < work.tensors && work.entries[other].first_chunk <= chunk; };
  int step = 1;
  for (; begins_by(tensor + step); step *= 2) tensor += step;
  for (; step > 0; step /= 2) {
    if (begins_by(tensor + step)) tensor += step;
  }
  return tensor;
}

// The stretch behind `stretch.last`: in the block's run, or in the next run that is free.
__device__ inline void advance(Stretch& stretch, const Workspace& work) {
  if (stretch.last == stretch.end) {
    const unsigned taken = atomicAdd(work.next_chunk, static_cast<unsigned>(work.run));
    const int begin = taken < static_cast<unsigned>(work.chunks) ? static_cast<int>(taken) : work.chunks;
    stretch.last = begin;
    stretch.end = work.chunks - begin > work.run ? begin + work.run : work.chunks;
  }
  stretch.first = stretch.last;
  if (stretch.first == work.chunks) return;
  stretch.tensor = holder_of(stretch.first, stretch.tensor, work);
  stretch.entry = work.entries[stretch.tensor];
  const int after = stretch.entry.first_chunk + stretch.entry.chunks;
  stretch.last = after < stretch.end ? after : stretch.end;
}

template <class T>
__global__ void __launch_bounds__(T::kThreads, 1) summarize_kernel(Workspace work) {
  FASTLOG_SHARED(SummarizeShared<T>, shared);
  const int thread = static_cast<int>(threadIdx.x);
  for (int i = thread; i < 2 * Cells<float>::kPerSign; i += T::kThreads) shared.cells[i] = work.tables->cells32[i];
  for (int i = thread; i < SummarizeShared<T>::kWords; i += T::kThreads) shared.counters[i] = 0;
  if (thread == 0) {
    shared.stretch.tensor = shared.stretch.last = shared.stretch.end = 0;
    advance(shared.stretch, work);
  }
  __syncthreads();
  while (shared.stretch.first < shared.stretch.last) {
    const std::int32_t dtype = shared.stretch.entry.dtype;
    if (has_one_byte(dtype)) {
      count_patterns<T>(shared);
    } else if (shared.stretch.entry.multiplier) {
      visit_wide_dtype(dtype, [&](auto tag) { count_slots<T, decltype(tag), true>(shared, work); });
    } else {
      visit_wide_dtype(dtype, [&](auto tag) { count_slots<T, decltype(tag), false>(shared, work); });
    }
    __syncthreads();
    flush<T>(shared, work);
    __syncthreads();
    if (thread == 0) advance(shared.stretch, work);
    __syncthreads();
  }
}

}  // namespace fastlog::cuda
