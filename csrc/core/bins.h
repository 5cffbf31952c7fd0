// Which bin? One definition, for host and device: a float's own top bits name a cell, no cell holds more than
// one boundary, and one add with carry compares the rest of the bits with it.
//
//   slot = (table[bits >> shift] + bits) >> shift
//
// Slots run upwards in magnitude, for either sign:
//   0 zero | 1 below 2^-126 | 2 below 1e-12 | 3 ... bins, split at 2^-14 and 2^-6 | overflow | infinity | NaN
// so the counters of zeros, of subnormals, of infinities and NaN are sums of slots and cost nothing in a loop.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <iterator>
#include <limits>
#include <stdexcept>
#include <vector>

#include "core/dtype.h"
#include "core/summary.h"

namespace fastlog {

inline constexpr int kSlots = kMagnitudes + 7;  // per sign
inline constexpr int kSlotZero = 0;
inline constexpr int kSlotBelowFp32 = 1;
inline constexpr int kSlotTiny = 2;  // from 2^-126 up to 1e-12
inline constexpr int kSlotOverflow = kSlots - 3;
inline constexpr int kSlotInf = kSlots - 2;
inline constexpr int kSlotNan = kSlots - 1;
inline constexpr int kSignStride = 1024;  // slot of -x = slot of the magnitude + kSignStride

template <class Float>
struct Cells;
template <>
struct Cells<float> {
  using Bits = std::uint32_t;
  static constexpr int kShift = 19;  // 4 mantissa bits: checked to hold at most one boundary
  static constexpr int kPerSign = 1 << 12;
};
template <>
struct Cells<double> {
  using Bits = std::uint64_t;
  static constexpr int kShift = 48;
  static constexpr int kPerSign = 1 << 15;
};

template <class Bits>
FASTLOG_HD inline Bits slot_of(Bits bits, Bits cell_entry, int shift) {
  return (cell_entry + bits) >> shift;
}

// The positive edges as tensorboardX makes them; 1e-12 * 1.1^k computed in one go gives other doubles.
inline const std::array<double, kMagnitudes>& magnitude_edges() {
  static const std::array<double, kMagnitudes> edges = [] {
    std::array<double, kMagnitudes> made{};
    int n = 0;
    for (double v = 1e-12; v < 1e20; v *= 1.1) made[n++] = v;
    return made;
  }();
  return edges;
}

// All edges: those of negative numbers, 0, the positive ones.
inline double edge(int i) {
  const auto& magnitudes = magnitude_edges();
  if (i == kMagnitudes) return 0;
  return i < kMagnitudes ? -magnitudes[kMagnitudes - 1 - i] : magnitudes[i - kMagnitudes - 1];
}

// Entries for all cells of both signs, those of negative numbers behind (their top bit is set).
// An edge belongs to the bin on its right (NumPy), so for negative numbers to the smaller magnitudes; only
// the outermost edges belong to the outermost bins on both sides.
template <class Float>
std::vector<typename Cells<Float>::Bits> make_cell_table() {
  using Bits = typename Cells<Float>::Bits;
  constexpr int kShift = Cells<Float>::kShift;
  constexpr int kPerSign = Cells<Float>::kPerSign;
  constexpr Bits kCell = Bits{1} << kShift;
  const auto first_at_least = [](double edge) {
    Float value = static_cast<Float>(edge);
    if (static_cast<double>(value) < edge) value = std::nextafter(value, std::numeric_limits<Float>::infinity());
    return bit_cast<Bits>(value);
  };
  const auto first_above = [&](double edge) {
    const Bits at_least = first_at_least(edge);
    return at_least + (static_cast<double>(bit_cast<Float>(at_least)) == edge ? 1 : 0);
  };
  std::vector<Bits> table(2 * kPerSign);
  for (int sign = 0; sign < 2; ++sign) {
    std::vector<Bits> first;  // where slot 1, 2, ... begins
    first.push_back(1);
    for (const double normal : kSmallestNormals) first.push_back(first_at_least(normal));
    const auto& edges = magnitude_edges();
    for (int i = 0; i < kMagnitudes; ++i) {
      first.push_back(sign || i == kMagnitudes - 1 ? first_above(edges[i]) : first_at_least(edges[i]));
    }
    const Bits infinity = bit_cast<Bits>(std::numeric_limits<Float>::infinity());
    first.push_back(infinity);
    first.push_back(infinity + 1);
    std::sort(first.begin(), first.end());
    std::size_t passed = 0;  // boundaries at or below the cell's first pattern
    for (int cell = 0; cell < kPerSign; ++cell) {
      const Bits begin = static_cast<Bits>(cell) << kShift;
      while (passed < first.size() && first[passed] <= begin) ++passed;
      const bool inside = passed < first.size() && first[passed] - begin < kCell;
      if (inside && passed + 1 < first.size() && first[passed + 1] - begin < kCell) {
        throw std::logic_error("fastlog: a cell holds two boundaries");
      }
      const Bits below_boundary = inside ? kCell - (first[passed] - begin) : 0;
      const Bits slot = static_cast<Bits>(passed) + (sign ? kSignStride : 0);
      const Bits top = static_cast<Bits>(cell + sign * kPerSign) << kShift;
      table[cell + sign * kPerSign] = (slot << kShift) + below_boundary - top;
    }
  }
  return table;
}

// What the slots mean.
struct SlotMeaning {
  std::int16_t bin[2][kSlots];  // by sign; -1 for overflow, infinity and NaN
  int first_normal_fp16;        // slots from kSlotBelowFp32 up to here hold 0 < |x| < 2^-14
  int first_normal_e4m3;        // and up to here 0 < |x| < 2^-6
};
inline const SlotMeaning& slot_meaning() {
  static const SlotMeaning made = [] {
    const auto& edges = magnitude_edges();
    std::vector<double> lower(edges.begin(), edges.end());
    lower.insert(lower.end(), {0.0, 0.0});
    lower.insert(lower.end(), std::begin(kSmallestNormals), std::end(kSmallestNormals));
    std::sort(lower.begin(), lower.end());
    SlotMeaning meaning{};
    for (int slot = 0; slot < kSlots; ++slot) {
      if (slot >= kSlotOverflow) {
        meaning.bin[0][slot] = meaning.bin[1][slot] = -1;
        continue;
      }
      const auto passed = std::upper_bound(edges.begin(), edges.end(), lower[slot]) - edges.begin();
      meaning.bin[0][slot] = static_cast<std::int16_t>(kMagnitudes + passed);
      meaning.bin[1][slot] = static_cast<std::int16_t>(slot == kSlotZero ? kMagnitudes : kMagnitudes - 1 - passed);
      if (lower[slot] == kSmallestNormals[1]) meaning.first_normal_fp16 = slot;
      if (lower[slot] == kSmallestNormals[2]) meaning.first_normal_e4m3 = slot;
    }
    return meaning;
  }();
  return made;
}

// Adds slot counts (those of negative numbers at +kSignStride) to a summary: bins and every counter but
// above_*, num and num_finite included.
template <class Count>
void add_slots(const Count* slots, Summary& into) {
  constexpr int kTogether = 11;  // most slots are empty
  static_assert(kSlots % kTogether == 0);
  const SlotMeaning& meaning = slot_meaning();
  for (int sign = 0; sign < 2; ++sign) {
    const Count* of_sign = slots + sign * kSignStride;
    for (int begin = 0; begin < kSlotOverflow; begin += kTogether) {
      Count any = 0;
      for (int slot = begin; slot < begin + kTogether; ++slot) any |= of_sign[slot];
      if (any == 0) continue;
      for (int slot = begin; slot < std::min(begin + kTogether, kSlotOverflow); ++slot) {
        const auto n = static_cast<std::int64_t>(of_sign[slot]);
        into.counts[meaning.bin[sign][slot]] += n;
        into.num_finite += n;
        into.num += n;
        if (slot == kSlotZero) {
          into.zeros += n;
        } else if (slot < meaning.first_normal_e4m3) {
          into.below_e4m3 += n;
          if (slot < meaning.first_normal_fp16) into.below_fp16 += n;
          if (slot == kSlotBelowFp32) into.below_fp32 += n;
        }
      }
    }
    const auto beyond = static_cast<std::int64_t>(of_sign[kSlotOverflow]);
    const auto infinite = static_cast<std::int64_t>(of_sign[kSlotInf]);
    const auto nan = static_cast<std::int64_t>(of_sign[kSlotNan]);
    (sign ? into.underflow : into.overflow) += beyond;
    (sign ? into.neg_inf : into.pos_inf) += infinite;
    into.nan += nan;
    into.num_finite += beyond;
    into.num += beyond + infinite + nan;
  }
}

}  // namespace fastlog
