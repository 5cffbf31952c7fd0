// From counters and the moments of chunks to records: one block for each tensor, results in pinned memory.
#pragma once

#include "cuda/summarize.cuh"

namespace fastlog::cuda {

template <int kThreads>
struct FinishShared {
  SplitMoments moments[kThreads];
  int first[2];
  int end[2];
};

template <int kThreads>
__global__ void __launch_bounds__(kThreads, 4) finish_kernel(Workspace work) {
  FASTLOG_SHARED(FinishShared<kThreads>, shared);
  const int thread = static_cast<int>(threadIdx.x);
  const TensorEntry entry = work.entries[blockIdx.x];
  const unsigned long long* const counters = work.counters + static_cast<std::int64_t>(blockIdx.x) * kSlotCounters;
  const bool patterns = has_one_byte(entry.dtype);
  if (thread < 2) {
    shared.first[thread] = kSlots;
    shared.end[thread] = 0;
  }
  __syncthreads();

  // The occupied spans.
  const int per_sign = patterns ? kPatterns : kSlots;
  for (int sign = 0; sign < (patterns ? 1 : 2); ++sign) {
    for (int i = thread; i < per_sign; i += kThreads) {
      if (counters[sign * kSignStride + i] == 0) continue;
      atomicMin(&shared.first[sign], i);
      atomicMax(&shared.end[sign], i + 1);
    }
  }
  SplitMoments mine = no_moments();
  if (!patterns) {
    for (int c = thread; c < entry.chunks; c += kThreads) {
      mine = folded(mine, work.chunk_moments[entry.first_chunk + c]);
    }
  }
  shared.moments[thread] = mine;
  __syncthreads();
  for (int half = kThreads / 2; half > 0; half /= 2) {
    if (thread < half) shared.moments[thread] = folded(shared.moments[thread], shared.moments[thread + half]);
    __syncthreads();
  }

  auto* const head = reinterpret_cast<RecordHead*>(entry.record);
  auto* const narrow = reinterpret_cast<std::uint32_t*>(head + 1);
  auto* const wide = reinterpret_cast<unsigned long long*>(head + 1);
  int written = 0;
  for (int sign = 0; sign < 2; ++sign) {
    const int first = shared.first[sign];
    const int length = shared.end[sign] > first ? shared.end[sign] - first : 0;
    for (int i = thread; i < length; i += kThreads) {
      const unsigned long long count = counters[sign * kSignStride + first + i];
      if (entry.wide_counts) {
        wide[written + i] = count;
      } else {
        narrow[written + i] = static_cast<std::uint32_t>(count);
      }
    }
    if (thread == 0) {
      head->first[sign] = length ? first : 0;
      head->length[sign] = length;
    }
    written += length;
  }
  if (thread == 0) {
    head->moments = shared.moments[0];
    head->above[0] = static_cast<std::int64_t>(patterns ? 0 : counters[kAboveE4M3]);
    head->above[1] = static_cast<std::int64_t>(patterns ? 0 : counters[kAboveE5M2]);
    head->above[2] = static_cast<std::int64_t>(patterns ? 0 : counters[kAboveFp16]);
    head->multiplier = entry.multiplier ? *reinterpret_cast<const float*>(entry.multiplier) : 1.0f;
    head->written = 1;
  }
}

}  // namespace fastlog::cuda
