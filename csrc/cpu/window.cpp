#include "cpu/window.h"

#include <algorithm>
#include <numeric>
#include <stdexcept>

#include "core/bins.h"
#include "cpu/chunk.h"

namespace fastlog::cpu {
namespace {

constexpr int kShift = Cells<float>::kShift;
constexpr int kFirstExponent = 1;  // of normal numbers; 255 is that of infinity
constexpr int kWindows = 255 - Window::kOctaves;

// A boundary is known by the 8 bits behind its cell's name. A value with other bits there is on a known side of it, for
// either sign: an edge is at most one pattern higher for negative numbers.
Window make_window(const std::vector<std::uint32_t>& cells, int exponent) {
  Window window{};
  const std::uint32_t first_cell = static_cast<std::uint32_t>(exponent) << (23 - kShift);
  for (std::uint32_t i = 0; i < Window::kCells; ++i) {
    const std::uint32_t begin = (first_cell + i) << kShift;
    const std::uint32_t entry = cells[first_cell + i];
    const std::uint32_t slot = slot_of(begin, entry, kShift);
    const std::uint32_t to_boundary = ((slot + 1) << kShift) - entry - begin;  // 2^kShift or more: none in this cell
    if (i == 0) window.first_slot = static_cast<std::uint16_t>(slot);
    if (slot + 1 - window.first_slot >= static_cast<std::uint32_t>(kCodeZero)) {
      throw std::logic_error("fastlog: a window holds too many slots");
    }
    window.slot[i] = static_cast<std::uint8_t>(slot - window.first_slot);
    window.boundary[i] = static_cast<std::uint8_t>(std::min(to_boundary >> (kShift - 8), 255u));
  }
  window.first_word = static_cast<std::uint16_t>(exponent << 7);
  return window;
}

const Window& window_from(int exponent) {
  static const std::vector<Window> windows = [] {
    const std::vector<std::uint32_t> cells = make_cell_table<float>();
    std::vector<Window> made;
    for (int i = 0; i < kWindows; ++i) made.push_back(make_window(cells, kFirstExponent + i));
    return made;
  }();
  return windows[static_cast<std::size_t>(exponent - kFirstExponent)];
}

}  // namespace

WindowChoice choose_window(const float (&samples)[kWindowSamples]) {
  int exponents[256] = {};
  int zeros = 0;
  for (const float x : samples) {
    ++exponents[bit_cast<std::uint32_t>(x) >> 23 & 0xff];
    zeros += x == 0;
  }
  int inside = std::accumulate(exponents + kFirstExponent, exponents + kFirstExponent + Window::kOctaves, 0);
  int most = inside;
  int best = kFirstExponent;
  for (int first = kFirstExponent + 1; first < kFirstExponent + kWindows; ++first) {
    inside += exponents[first + Window::kOctaves - 1] - exponents[first - 1];
    if (inside > most) {
      most = inside;
      best = first;
    }
  }
  const bool look_for_zeros = zeros >= 2;
  const int outside = kWindowSamples - most - (look_for_zeros ? zeros : 0);
  return {outside > kWindowSamples / 4 ? nullptr : &window_from(best), look_for_zeros};
}

void drain_codes(const CodeCounts& counts, const Window& window, SlotCounters& counters) {
  counters.has_wide = true;
  for (int code = 0; code < kCodes; ++code) {
    const auto& lanes = counts.lanes[code];
    const auto n = static_cast<std::uint32_t>(std::accumulate(lanes, lanes + 8, std::uint64_t{0}));
    const int slot = code % kCodeSign;
    if (slot == kCodeEscape) continue;
    const int sign = code >= kCodeSign ? kSignStride : 0;
    counters.wide[sign + (slot == kCodeZero ? kSlotZero : window.first_slot + slot)] += n;
  }
}

}  // namespace fastlog::cpu
