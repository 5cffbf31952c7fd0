// Counting float32 values that lie within eight octaves of each other without a counter in memory for each: a byte
// names the slot of a value within such a window, and a count of bits says how often each byte occurs.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/kernels.h"

namespace fastlog::cpu {

// A code is six bits of slot within the window and, above them, the sign.
inline constexpr int kCodes = 128;
inline constexpr int kCodeSign = 64;
inline constexpr int kCodeZero = 62;    // exact zeros, in loops that look for them
inline constexpr int kCodeEscape = 63;  // outside the window or too near a boundary: the cell table decides

// The slots of the magnitudes in eight octaves, by the cells of core/bins.h (sixteenths of an octave).
struct Window {
  static constexpr int kOctaves = 8;
  static constexpr int kCells = 16 * kOctaves;
  alignas(64) std::uint8_t slot[kCells];      // where the cell begins, counted from first_slot
  alignas(64) std::uint8_t boundary[kCells];  // the bits behind the cell's name at which the next slot begins
  std::uint16_t first_word;                   // upper half of the smallest magnitude
  std::uint16_t first_slot;
};

// Eight lanes of counts for each code. A chunk's values fit: each lane gets an eighth of them at most.
struct CodeCounts {
  alignas(64) std::uint64_t lanes[kCodes][8];
};

// The window that holds most of a chunk.
struct WindowChoice {
  const Window* window;  // null where more than a quarter is outside of every window, which costs more than it saves
  bool zeros;            // whether to look for exact zeros
};
inline constexpr int kWindowSamples = 64;
WindowChoice choose_window(const float (&samples)[kWindowSamples]);

// Counts the kBlock values of a block and gives their moments as `lane_moments` does.
Moments count_block_vbmi(const float* values, WindowChoice choice, CodeCounts& counts, SlotCounters& counters);

// Adds what was counted in a window since `counts` was made.
void drain_codes(const CodeCounts& counts, const Window& window, SlotCounters& counters);

}  // namespace fastlog::cpu
