// The pass over the values: every byte is read once, for counts and moments together.
//
// A block takes the next run of chunks, and again until none is left; what it counts lies in shared memory until the
// tensor changes or the run is over. Counts are integers and reach a tensor's counters by atomic additions, which
// commute. Moments are folded in an order that only the chunk gives: thread, warp, chunk. So nothing depends on the
// grid or on who takes what.
#pragma once

#include <type_traits>

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
  Moments* chunk_moments;
  Moments* warp_moments;  // of one flush, for each block
  const DeviceTables* tables;
};

// Chunks of one tensor that a block counts between two flushes. It lies in shared memory: registers are few.
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

// The device's exact widening; half precision has an instruction for it.
template <class Tag>
__device__ inline typename Tag::Wide widened(typename Tag::Storage stored) {
#if defined(__CUDA_ARCH__)
  if constexpr (std::is_same_v<Tag, Float16>) {
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(stored));
    return wide;
  }
#endif
  return Tag::widen(stored);
}

__device__ inline float smaller(float a, float b) { return fminf(a, b); }
__device__ inline float larger(float a, float b) { return fmaxf(a, b); }
// Without fmin's care for NaN, which is many instructions: no NaN comes here.
__device__ inline double smaller(double a, double b) { return b < a ? b : a; }
__device__ inline double larger(double a, double b) { return b > a ? b : a; }

// Counts and moments of one thread.
template <class Wide, int kCopies>
struct Accumulator {
  using Bits = typename Cells<Wide>::Bits;
  static constexpr int kShift = Cells<Wide>::kShift;

  // A counter is named by its place in bytes: its copies are that many bytes wide.
  static constexpr std::uint32_t kCounterBytes = 4 * kCopies;
  static constexpr int kLogCounterBytes = kCopies == 8 ? 5 : 4;
  static_assert(kCounterBytes == 1u << kLogCounterBytes);

  const Bits* cells;
  unsigned char* counters;
  std::uint32_t copy;  // the place of this thread's copy within a counter
  Wide low;
  Wide high;
  double sum;
  double squares;
  double huge;

  __device__ void reset() {
    const Wide infinity = static_cast<Wide>(bit_cast<float>(0x7f800000u));
    low = infinity;
    high = -infinity;
    sum = 0.0;
    squares = 0.0;
    huge = 0.0;
  }

  __device__ Moments moments() const {
    return {static_cast<double>(low), static_cast<double>(high), sum, squares, huge};
  }

  __device__ std::uint32_t counter_of(Wide x) const {
    const Bits bits = bit_cast<Bits>(x);
    Bits entry;
    if constexpr (std::is_same_v<Wide, float>) {
      entry = cells[bits >> kShift];  // shared memory
    } else {
      entry = __ldg(cells + (bits >> kShift));
    }
    // The slot times kCounterBytes, below it bits of the value.
    const auto place = static_cast<std::uint32_t>(slot_of(bits, entry, kShift - kLogCounterBytes));
    return (place & ~(kCounterBytes - 1)) | copy;
  }

  __device__ void increment(std::uint32_t counter) {
    atomicAdd(reinterpret_cast<std::uint32_t*>(counters + counter), 1u);
  }

  __device__ void add_to_sum(double x) {
    if constexpr (std::is_same_v<Wide, double>) {
      if (x > kHuge || x < -kHuge) {
        huge += x * kHugeScale;
        return;
      }
    }
    sum += x;
  }

  // Moments of any value, and the counters of large ones.
  __device__ void add_checked(Wide x) {
    const Wide magnitude = x < Wide{0} ? -x : x;
    if (!(magnitude < static_cast<Wide>(bit_cast<float>(0x7f800000u)))) return;
    low = smaller(low, x);
    high = larger(high, x);
    const double wide = static_cast<double>(x);
    add_to_sum(wide);
    squares = fma(wide, wide, squares);
    if (magnitude > Wide{kLargestE4M3}) increment(kAboveE4M3 * kCounterBytes | copy);
    if (magnitude > Wide{kLargestE5M2}) increment(kAboveE5M2 * kCounterBytes | copy);
    if (magnitude > Wide{kLargestFp16}) increment(kAboveFp16 * kCounterBytes | copy);
  }

  template <int n>
  __device__ void add(const Wide (&x)[n]) {
    // All loads from the table before the first addition: the compiler cannot know that they do not overlap.
    std::uint32_t counter[n];
    for (int i = 0; i < n; ++i) counter[i] = counter_of(x[i]);
    double group_sum = static_cast<double>(x[0]);
    double group_squares = group_sum * group_sum;
    increment(counter[0]);
    for (int i = 1; i < n; ++i) {
      increment(counter[i]);
      const double wide = static_cast<double>(x[i]);
      group_sum += wide;
      group_squares = fma(wide, wide, group_squares);
    }
    // A group that holds NaN, an infinity or a magnitude above kLargestE4M3 has more squares than this, or NaN.
    if (group_squares <= 1.0 * kLargestE4M3 * kLargestE4M3) {
      sum += group_sum;
      squares += group_squares;
      for (int i = 0; i < n; ++i) {
        low = smaller(low, x[i]);
        high = larger(high, x[i]);
      }
    } else {
      for (int i = 0; i < n; ++i) add_checked(x[i]);
    }
  }
};

template <class Storage>
__device__ inline void unpack_vector(const uint4& vector, Storage (&stored)[16 / sizeof(Storage)]) {
  if constexpr (sizeof(Storage) == 2) {
    // By shifts, which fold into the widening.
    constexpr int kPerWord = 4 / sizeof(Storage);
    const unsigned words[4] = {vector.x, vector.y, vector.z, vector.w};
    for (int i = 0; i < 4 * kPerWord; ++i) {
      stored[i] = static_cast<Storage>(words[i / kPerWord] >> (i % kPerWord * 8 * sizeof(Storage)));
    }
  } else {
    std::memcpy(stored, &vector, sizeof(vector));
  }
}

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
__device__ inline Moments* warp_moments(const Workspace& work, int i) {
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
    const Moments of_warp = fold_warp(mine.moments());
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
    const Moments of_chunk = fold_warp(lane < kWarps ? warp_moments<T>(work, i)[lane] : no_moments());
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
