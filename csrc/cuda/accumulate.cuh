// What one thread does: it counts values and keeps their moments.
#pragma once

#include <cstring>
#include <type_traits>

#include "cuda/block.cuh"

namespace fastlog::cuda {

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

  __device__ SplitMoments moments() const {
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

}  // namespace fastlog::cuda
