// The loop bodies behind kernels.h. Everything here is inlined into functions that carry a target attribute, so
// each instruction set gets its own code from the one source; kLanes fixes the order of every sum.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#if defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "cpu/kernels.h"
#include "cpu/window.h"

#define FASTLOG_MEMBER inline __attribute__((always_inline))
#define FASTLOG_INLINE static FASTLOG_MEMBER

namespace fastlog::cpu {

inline constexpr int kLanes = 16;
inline constexpr int kBlock = 2048;  // values that stay in the first-level cache between the passes

// Cell tables for both signs (core/bins.h), made once.
extern const std::uint32_t* const kCells32;
extern const std::uint64_t* const kCells64;

// Counts n <= kBlock values and gives their moments as `lane_moments` does.
Moments count_block_avx512(const float* values, int n, SlotCounters& counters);

// `kWidth`: float lanes of one register of the instruction set.
template <class Wide, int kWidth>
struct Registers {
  static constexpr int kBytes = 4 * kWidth;
  static constexpr int kSumLanes = kBytes / 8;
  typedef Wide Values __attribute__((vector_size(kBytes)));
  typedef Wide SumPart __attribute__((vector_size(kSumLanes * sizeof(Wide))));
  typedef double Doubles __attribute__((vector_size(kBytes)));
};

// Extremes and sums in kLanes interleaved chains, folded lane by lane at the end: the same operations in the same
// order for every width. The extremes mean nothing when a value is NaN; then, as with any infinity, the sum of
// squares is not finite.
template <class Wide, int kWidth>
struct LaneMoments {
  using R = Registers<Wide, kWidth>;
  static constexpr int kPerValues = R::kBytes / static_cast<int>(sizeof(Wide));
  static constexpr int kValueRegisters = kLanes / kPerValues;
  static constexpr int kSumRegisters = kLanes / R::kSumLanes;
  typename R::Values low[kValueRegisters];
  typename R::Values high[kValueRegisters];
  typename R::Doubles sum[kSumRegisters];
  typename R::Doubles squares[kSumRegisters];

  FASTLOG_MEMBER LaneMoments() : sum{}, squares{} {
    constexpr Wide kInfinity = std::numeric_limits<Wide>::infinity();
    for (int r = 0; r < kValueRegisters; ++r) {
      low[r] = typename R::Values{} + kInfinity;
      high[r] = typename R::Values{} - kInfinity;
    }
  }

  static FASTLOG_MEMBER typename R::Doubles to_doubles(typename R::SumPart part) {
#if defined(__aarch64__)
    // GCC 12 converts vectors of two floats one by one.
    if constexpr (std::is_same_v<Wide, float>) return vcvt_f64_f32(bit_cast<float32x2_t>(part));
#endif
    return __builtin_convertvector(part, typename R::Doubles);
  }

  // Adds kLanes values.
  FASTLOG_MEMBER void add(const Wide* values) {
#pragma GCC unroll 8
    for (int r = 0; r < kValueRegisters; ++r) {
      typename R::Values x;
      std::memcpy(&x, values + r * kPerValues, sizeof(x));
      low[r] = x < low[r] ? x : low[r];
      high[r] = x > high[r] ? x : high[r];
    }
#pragma GCC unroll 8
    for (int r = 0; r < kSumRegisters; ++r) {
      typename R::SumPart part;
      std::memcpy(&part, values + r * R::kSumLanes, sizeof(part));
      const auto x = to_doubles(part);
      sum[r] += x;
      squares[r] += x * x;
    }
  }

  // The moments of all that was added and of the last n < kLanes values.
  FASTLOG_MEMBER Moments fold(const Wide* values, int n) const {
    Wide lane_low[kLanes];
    Wide lane_high[kLanes];
    double lane_sum[kLanes];
    double lane_squares[kLanes];
    std::memcpy(lane_low, low, sizeof(low));
    std::memcpy(lane_high, high, sizeof(high));
    std::memcpy(lane_sum, sum, sizeof(sum));
    std::memcpy(lane_squares, squares, sizeof(squares));
    for (int lane = 0; lane < n; ++lane) {
      const Wide x = values[lane];
      lane_low[lane] = x < lane_low[lane] ? x : lane_low[lane];
      lane_high[lane] = x > lane_high[lane] ? x : lane_high[lane];
      lane_sum[lane] += static_cast<double>(x);
      lane_squares[lane] += static_cast<double>(x) * static_cast<double>(x);
    }
    Moments moments;
    for (int lane = 0; lane < kLanes; ++lane) {
      moments.min = lane_low[lane] < moments.min ? lane_low[lane] : moments.min;
      moments.max = lane_high[lane] > moments.max ? lane_high[lane] : moments.max;
    }
    for (int half = kLanes / 2; half > 0; half /= 2) {
      for (int lane = 0; lane < half; ++lane) {
        lane_sum[lane] += lane_sum[lane + half];
        lane_squares[lane] += lane_squares[lane + half];
      }
    }
    moments.sum = lane_sum[0];
    moments.sum_squares = lane_squares[0];
    return moments;
  }
};

template <class Wide, int kWidth>
FASTLOG_INLINE Moments lane_moments(const Wide* values, int n) {
  LaneMoments<Wide, kWidth> moments;
  int i = 0;
  for (; i + kLanes <= n; i += kLanes) moments.add(values + i);
  return moments.fold(values + i, n - i);
}

template <class Wide>
FASTLOG_INLINE unsigned exact_slot(Wide value) {
  constexpr int kShift = Cells<Wide>::kShift;
  const auto bits = bit_cast<typename Cells<Wide>::Bits>(value);
  if constexpr (std::is_same_v<Wide, float>) {
    return static_cast<unsigned>(slot_of(bits, kCells32[bits >> kShift], kShift));
  } else {
    return static_cast<unsigned>(slot_of(bits, kCells64[bits >> kShift], kShift));
  }
}

template <int kCopies, class Wide>
FASTLOG_INLINE void count_slots(const Wide* values, int n, SlotCounters& counters) {
  int i = 0;
  for (; i + kCopies <= n; i += kCopies) {
#pragma GCC unroll 16
    for (int copy = 0; copy < kCopies; ++copy) {
      ++counters.slots[copy * kSlotCopyStride + exact_slot(values[i + copy])];
    }
  }
  for (; i < n; ++i) ++counters.slots[exact_slot(values[i])];
}

template <class Wide>
FASTLOG_INLINE int count_above(const Wide* values, int n, Wide limit) {
  int above = 0;
  for (int i = 0; i < n; ++i) above += std::fabs(values[i]) > limit;
  return above;
}

template <class Wide, int kWidth>
FASTLOG_INLINE Moments count_block(const Wide* values, int n, SlotCounters& counters) {
  counters.copies = std::max(counters.copies, n == kBlock ? kSlotCopies : kFewSlotCopies);
#if defined(__x86_64__)
  if constexpr (std::is_same_v<Wide, float> && kWidth == 16) return count_block_avx512(values, n, counters);
#endif
  if (n == kBlock) {
    count_slots<kSlotCopies>(values, n, counters);
  } else {
    count_slots<kFewSlotCopies>(values, n, counters);
  }
  return lane_moments<Wide, kWidth>(values, n);
}

// Adds the moments of a block's finite values to `moments`, and counts its large ones. `block`: the moments of all.
template <class Wide, int kWidth>
FASTLOG_INLINE void add_block(const Wide* values, int n, Moments block, SlotCounters& counters, Moments& moments) {
  Wide finite[kBlock];
  if (!std::isfinite(block.sum_squares)) {
    int kept = 0;
    for (int i = 0; i < n; ++i) {
      finite[kept] = values[i];
      kept += std::isfinite(values[i]) ? 1 : 0;
    }
    values = finite;
    n = kept;
    block = lane_moments<Wide, kWidth>(values, n);
  }
  const double magnitude = std::max(block.max, -block.min);
  if (magnitude > kLargestE4M3) counters.above_e4m3 += count_above<Wide>(values, n, kLargestE4M3);
  if (magnitude > kLargestE5M2) counters.above_e5m2 += count_above<Wide>(values, n, kLargestE5M2);
  if (magnitude > kLargestFp16) counters.above_fp16 += count_above<Wide>(values, n, kLargestFp16);
  moments.min = std::min(moments.min, block.min);
  moments.max = std::max(moments.max, block.max);
  moments.sum += block.sum;
  moments.sum_squares += block.sum_squares;
}

// The values of a chunk that lie within a window are counted there, see window.h.
template <class Wide, class Isa>
class ChunkCounter {
 public:
  // `value_at(i)`: a value of the chunk, i < n.
  template <class ValueAt>
  FASTLOG_MEMBER ChunkCounter(SlotCounters& counters, Moments& moments, std::int64_t n, ValueAt value_at)
      : counters_(counters), moments_(moments) {
    if constexpr (kWindowed) {
      if (n < kWindowFrom) return;
      float samples[kWindowSamples];
      for (int i = 0; i < kWindowSamples; ++i) samples[i] = value_at(n / kWindowSamples * i);
      choice_ = choose_window(samples);
      if (choice_.window != nullptr) counts_ = CodeCounts{};
    }
  }

  FASTLOG_MEMBER void count(const Wide* values, int n) {
    if constexpr (kWindowed) {
      if (choice_.window != nullptr && n == kBlock) {
        const Moments block = count_block_vbmi(values, choice_, counts_, counters_);
        return add_block<Wide, Isa::kWidth>(values, n, block, counters_, moments_);
      }
    }
    add_block<Wide, Isa::kWidth>(values, n, count_block<Wide, Isa::kWidth>(values, n, counters_), counters_, moments_);
  }

  FASTLOG_MEMBER void finish() {
    if constexpr (kWindowed) {
      if (choice_.window != nullptr) drain_codes(counts_, *choice_.window, counters_);
    }
  }

 private:
  static constexpr bool kWindowed = Isa::kWindows && std::is_same_v<Wide, float>;
  static constexpr std::int64_t kWindowFrom = 4 * kBlock;  // fewer values do not pay for choosing and draining
  struct Nothing {};
  SlotCounters& counters_;
  Moments& moments_;
  WindowChoice choice_{};
  std::conditional_t<kWindowed, CodeCounts, Nothing> counts_;
};

template <class Tag, class Isa>
FASTLOG_INLINE void process_chunk(const TensorView& view, std::int64_t begin, std::int64_t end, SlotCounters& counters,
                                  Moments& moments) {
  using Storage = typename Tag::Storage;
  using Wide = typename Tag::Wide;
  const auto* data = static_cast<const Storage*>(view.data) + begin;
  const std::int64_t count = end - begin;
  if (view.multiplier != nullptr) {
    const double multiplier = *view.multiplier;
    for (std::int64_t at = 0; at < count; at += kBlock) {
      const int n = static_cast<int>(std::min<std::int64_t>(kBlock, count - at));
      double scaled[kBlock];
      for (int i = 0; i < n; ++i) scaled[i] = static_cast<double>(Tag::widen(data[at + i])) * multiplier;
      add_block<double, Isa::kWidth>(scaled, n, count_block<double, Isa::kWidth>(scaled, n, counters), counters,
                                     moments);
    }
    return;
  }
  ChunkCounter<Wide, Isa> chunk(counters, moments, count, [data](std::int64_t i) { return Tag::widen(data[i]); });
  for (std::int64_t at = 0; at < count; at += kBlock) {
    const int n = static_cast<int>(std::min<std::int64_t>(kBlock, count - at));
    if constexpr (std::is_same_v<Storage, Wide>) {
      chunk.count(data + at, n);
    } else {
      Wide wide[kBlock];
      for (int i = 0; i < n; ++i) wide[i] = Tag::widen(data[at + i]);
      chunk.count(wide, n);
    }
  }
  chunk.finish();
}

}  // namespace fastlog::cpu
