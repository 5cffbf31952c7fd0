// What the kernels leave of each tensor, and the summary that the host makes of it.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>

#include "core/bins.h"
#include "core/tensor_view.h"

namespace fastlog::cuda {

// A tensor's counters on the device: its slots (core/bins.h), those of negative numbers at kSignStride; in the gap
// between the signs those of values above the largest numbers of e4m3, e5m2 and fp16. Tensors of one-byte elements
// without exception count their 256 patterns instead.
inline constexpr int kSlotCounters = kSignStride + kSlots;
inline constexpr int kAboveE4M3 = kSlots;
inline constexpr int kAboveE5M2 = kSlots + 1;
inline constexpr int kAboveFp16 = kSlots + 2;
inline constexpr int kPatterns = 256;
static_assert(kAboveFp16 < kSignStride && kPatterns <= kSlotCounters);

// Moments of the finite values, the sum in two parts.
struct SplitMoments {
  double min;
  double max;
  double sum;  // of magnitudes up to kHuge
  double sum_squares;
  double huge;  // sum of the others, times kHugeScale: partial sums cannot overflow where the sum does not
};
inline constexpr double kHuge = 0x1p960;
inline constexpr double kHugeScale = 0x1p-64;

// In pinned memory, written by finish_kernel: this head, then the counts of the two spans, 32 bits each, or 64
// where the tensor has 2^32 values or more.
struct RecordHead {
  SplitMoments moments;
  std::int64_t above[3];
  float multiplier;
  std::int32_t written;   // 1: complete
  std::int32_t first[2];  // of the span of occupied counters, by sign (patterns: the first span alone)
  std::int32_t length[2];
};

inline bool counts_patterns(DType dtype) {
  return visit_dtype(dtype, [](auto tag) { return sizeof(typename decltype(tag)::Storage) == 1; });
}
inline bool has_wide_counts(std::int64_t count) { return count > std::int64_t{0xffffffff}; }

// The most that a tensor's record takes, a multiple of 16.
inline std::size_t record_capacity(DType dtype, std::int64_t count) {
  const std::size_t counters = counts_patterns(dtype) ? kPatterns : 2 * kSlots;
  const std::size_t bytes = sizeof(RecordHead) + counters * (has_wide_counts(count) ? 8 : 4);
  return (bytes + 15) / 16 * 16;
}

// Counts value x, n times, and its moments.
inline void add_value(double x, std::int64_t n, std::int64_t* slots, Summary& into) {
  static const std::vector<std::uint64_t> cells = make_cell_table<double>();
  constexpr int kShift = Cells<double>::kShift;
  const auto bits = bit_cast<std::uint64_t>(x);
  slots[slot_of(bits, cells[bits >> kShift], kShift)] += n;
  if (!std::isfinite(x)) return;
  into.min = std::fmin(into.min, x);
  into.max = std::fmax(into.max, x);
  into.sum += static_cast<double>(n) * x;
  into.sum_squares += static_cast<double>(n) * (x * x);
  const double magnitude = std::fabs(x);
  into.above_e4m3 += magnitude > kLargestE4M3 ? n : 0;
  into.above_e5m2 += magnitude > kLargestE5M2 ? n : 0;
  into.above_fp16 += magnitude > kLargestFp16 ? n : 0;
}

// The summary of the tensor `view` from its record. Throws std::runtime_error for a record that was not written.
inline Summary read_record(const TensorView& view, const std::uint8_t* record) {
  RecordHead head;
  std::memcpy(&head, record, sizeof(head));
  if (head.written != 1) throw std::runtime_error("fastlog: the device has not written this record");
  std::int64_t counters[kSlotCounters] = {};
  const std::uint8_t* at = record + sizeof(head);
  for (int sign = 0; sign < 2; ++sign) {
    const bool within = head.first[sign] >= 0 && head.length[sign] >= 0 && head.first[sign] <= kSlots &&
                        head.length[sign] <= kSlots - head.first[sign];
    if (!within) throw std::runtime_error("fastlog: a record from the device is damaged");
    for (int i = 0; i < head.length[sign]; ++i) {
      std::int64_t& count = counters[sign * kSignStride + head.first[sign] + i];
      if (has_wide_counts(view.count)) {
        std::memcpy(&count, at, 8);
        at += 8;
      } else {
        std::uint32_t narrow = 0;
        std::memcpy(&narrow, at, 4);
        count = narrow;
        at += 4;
      }
    }
  }
  Summary summary;
  if (counts_patterns(view.dtype)) {
    std::int64_t slots[kSlotCounters] = {};
    visit_dtype(view.dtype, [&](auto tag) {
      using Tag = decltype(tag);
      if constexpr (sizeof(typename Tag::Storage) == 1) {
        for (int pattern = 0; pattern < kPatterns; ++pattern) {
          if (counters[pattern] == 0) continue;
          const auto x = static_cast<double>(Tag::widen(static_cast<typename Tag::Storage>(pattern)));
          add_value(x * static_cast<double>(head.multiplier), counters[pattern], slots, summary);
        }
      }
    });
    std::memcpy(counters, slots, sizeof(counters));
  } else {
    summary.min = head.moments.min;
    summary.max = head.moments.max;
    summary.sum = head.moments.sum;
    if (head.moments.huge != 0) summary.sum = (head.moments.huge + summary.sum * kHugeScale) / kHugeScale;
    summary.sum_squares = head.moments.sum_squares;
    summary.above_e4m3 = head.above[0];
    summary.above_e5m2 = head.above[1];
    summary.above_fp16 = head.above[2];
  }
  if (view.implicit_zeros)
    add_value(0.0 * static_cast<double>(head.multiplier), view.implicit_zeros, counters, summary);
  add_slots(counters, summary);
  summary.min += 0.0;  // -0.0 is 0.0, as the other engines say
  summary.max += 0.0;
  if (summary.num_finite) summary.abs_max = std::fmax(-summary.min, summary.max);
  return summary;
}

}  // namespace fastlog::cuda
