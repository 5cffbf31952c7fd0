// Slots of float32 values (core/bins.h) by arithmetic: a slot is a linear function of log2|x|, which the exponent
// and a quadratic per sixteenth of an octave give to within 2^-12 of a slot. Where that is too close to a boundary
// to tell, and beyond the outermost edge, the cell table decides; so the slots are exact whatever the rounding.
// Gathers from the table itself are far slower than this on current CPUs.
#if defined(__x86_64__)

// GCC 12 takes the undefined operands inside its own intrinsics for ours (bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

#include <cmath>
#include <cstdint>

#include "cpu/chunk.h"
#include "cpu/lanes_avx512.h"

namespace fastlog::cpu {
namespace {

#define FASTLOG_AVX512 __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,bmi,bmi2")))

// Positions are in units of 2^-21 slots: ten bits of slot below the sign bit of an int32.
constexpr int kFraction = 21;
constexpr double kUnit = 1 << kFraction;
constexpr double kMargin = 0x1p-12;  // of a slot; about twice the largest error over all floats

// What the loop needs in memory: one broadcast load each is cheaper than a register that is spilled.
struct LogTables {
  float square[16], linear[16], constant[16];  // of the mantissa 1 <= m < 2, by its first four bits
  float per_bit;                               // positions per unit of the bit pattern
  float lowest = static_cast<float>((kSlotTiny + 0.5) * kUnit);
  float highest = static_cast<float>((kSlotOverflow - 2) * kUnit);  // no fraction: the table decides
  std::int32_t smallest_normal = 0x00800000;
  std::int32_t split_fp16 = 0x38800000;  // 2^-14 and 2^-6 each begin a slot within a bin
  std::int32_t split_e4m3 = 0x3c800000;
  std::int32_t one_slot = 1 << kFraction;
  std::int32_t one_slot_less = (1 << kFraction) - 1;
  std::int32_t two_slots_less = (2 << kFraction) - 1;
  std::int32_t near_boundary = ((1 << kFraction) - 1) & ~((1 << (kFraction - 11)) - 1);  // fraction under 2 kMargin

  LogTables() {
    const double slots_per_octave = 1 / std::log2(1.1);
    per_bit = static_cast<float>(kUnit * slots_per_octave / 0x1p23);
    // bits / 2^23 - 127 = exponent + m - 1; the quadratics add log2(m) - (m - 1) and the rest of the constants.
    const double origin = kSlotTiny + 1 + kMargin + slots_per_octave * (12 * std::log2(10.0) - 127);
    for (int i = 0; i < 16; ++i) {
      double m[3];
      double at[3];
      for (int k = 0; k < 3; ++k) {  // interpolated at Chebyshev nodes
        m[k] = 1 + (i + 0.5 + 0.5 * std::cos((2 * k + 1) * std::acos(-1.0) / 6)) / 16;
        at[k] = kUnit * (origin + slots_per_octave * (std::log2(m[k]) - (m[k] - 1)));
      }
      const double slope = (at[1] - at[0]) / (m[1] - m[0]);
      const double bend = ((at[2] - at[1]) / (m[2] - m[1]) - slope) / (m[2] - m[0]);
      square[i] = static_cast<float>(bend);
      linear[i] = static_cast<float>(slope - bend * (m[0] + m[1]));
      constant[i] = static_cast<float>(at[0] - slope * m[0] + bend * m[0] * m[1]);
    }
  }
};
alignas(64) const LogTables kLog;

struct Positions {
  __m512i magnitude;  // bits without the sign
  __m512 position;
};

FASTLOG_AVX512 FASTLOG_INLINE Positions positions_of(__m512 x, const LogTables& log) {
  const __m512i magnitude = _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fffffff));
  const __m512i part = _mm512_srli_epi32(magnitude, 19);  // the permutations look at its last four bits
  const __m512 m = _mm512_castsi512_ps(
      _mm512_ternarylogic_epi32(magnitude, _mm512_set1_epi32(0x007fffff), _mm512_set1_epi32(0x3f800000), 0xea));
  __m512 y = _mm512_fmadd_ps(_mm512_permutexvar_ps(part, _mm512_load_ps(log.square)), m,
                             _mm512_permutexvar_ps(part, _mm512_load_ps(log.linear)));
  y = _mm512_fmadd_ps(y, m, _mm512_permutexvar_ps(part, _mm512_load_ps(log.constant)));
  y = _mm512_fmadd_ps(_mm512_cvtepi32_ps(magnitude), _mm512_set1_ps(log.per_bit), y);
  y = _mm512_min_ps(_mm512_max_ps(y, _mm512_set1_ps(log.lowest)), _mm512_set1_ps(log.highest));
  return {magnitude, y};
}

// The sign in bit 31 and the slot below it; `unsure` gets a bit for each value that the cell table has to decide.
FASTLOG_AVX512 FASTLOG_INLINE __m512i slots_of(__m512i bits, const Positions& at, const LogTables& log,
                                               __mmask16& unsure) {
  const __m512i below_normal =  // slot 0 for zero, slot 1 for subnormals
      _mm512_min_epu32(_mm512_add_epi32(at.magnitude, _mm512_set1_epi32(log.one_slot_less)),
                       _mm512_set1_epi32(log.two_slots_less));
  const __mmask16 normal = _mm512_cmpge_epi32_mask(at.magnitude, _mm512_set1_epi32(log.smallest_normal));
  __m512i slot = _mm512_mask_cvttps_epi32(below_normal, normal, at.position);
  unsure = _mm512_mask_testn_epi32_mask(normal, slot, _mm512_set1_epi32(log.near_boundary));
  for (const std::int32_t* split : {&log.split_fp16, &log.split_e4m3}) {
    slot = _mm512_mask_add_epi32(slot, _mm512_cmpge_epi32_mask(at.magnitude, _mm512_set1_epi32(*split)), slot,
                                 _mm512_set1_epi32(log.one_slot));
  }
  return _mm512_ternarylogic_epi32(_mm512_set1_epi32(0x7fffffff), slot, bits, 0xce);  // slot | sign
}

// Where the slots of 32 values lie among their 32 words: the second 16 values in the odd words.
FASTLOG_INLINE int word_of(int value) { return 2 * (value % 16) + value / 16; }

// As count_slots and lane_moments. What bounds the counting is one store a cycle. The arithmetic runs kLag values ahead
// of it in the same loop and is nearly free as long as its chains are short enough for the CPU to look past them.
template <int kCopies>
FASTLOG_AVX512 Moments count_in_copies(const float* values, int n, SlotCounters& counters) {
  constexpr int kGroup = 32;
  constexpr int kLag = 64;
  alignas(64) std::uint16_t words[kBlock];
  std::uint32_t unsure[kBlock / kGroup];
  LaneMoments<float, 16> moments;
  const LogTables& log = kLog;
  const int whole = n / kGroup * kGroup;
  const auto count_group = [&](int i) __attribute__((always_inline)) {
    std::uint16_t* const group = words + i;
    for (std::uint32_t left = unsure[i / kGroup]; left != 0; left &= left - 1) {
      const int value = __builtin_ctz(left);
      group[word_of(value)] = static_cast<std::uint16_t>(exact_slot(values[i + value]));
    }
    for (int at = 0; at < kGroup; at += 4) {
      std::uint64_t four;
      std::memcpy(&four, group + at, sizeof(four));
      std::uint16_t* const slots = counters.slots + at % kCopies * kSlotCopyStride;
      ++slots[four & 0xffff];
      ++slots[1 * kSlotCopyStride + (four >> 16 & 0xffff)];
      ++slots[2 * kSlotCopyStride + (four >> 32 & 0xffff)];
      ++slots[3 * kSlotCopyStride + (four >> 48)];
    }
  };
  for (int i = 0; i < whole; i += kGroup) {
    asm volatile("" ::: "memory");  // or the compiler holds all constants in registers and spills the sums
    __m512 x[2];
    __m512i slot[2];
    __mmask16 near[2];
    Positions at[2];
    for (int half = 0; half < 2; ++half) {
      x[half] = _mm512_loadu_ps(values + i + 16 * half);
      at[half] = positions_of(x[half], log);
    }
    for (int half = 0; half < 2; ++half) {
      slot[half] = slots_of(_mm512_castps_si512(x[half]), at[half], log, near[half]);
      add_lanes(x[half], values + i + 16 * half, moments);
    }
    _mm512_store_si512(words + i, _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(slot[0], kFraction),
                                                          _mm512_srli_epi32(slot[1], kFraction - 16)));
    unsure[i / kGroup] = near[0] | static_cast<std::uint32_t>(near[1]) << 16;
    if (i >= kLag) count_group(i - kLag);
  }
  for (int i = std::max(whole - kLag, 0); i < whole; i += kGroup) count_group(i);
  count_slots<1>(values + whole, n - whole, counters);
  int i = whole;
  if (i + kLanes <= n) {
    moments.add(values + i);
    i += kLanes;
  }
  return moments.fold(values + i, n - i);
}

}  // namespace

Moments count_block_avx512(const float* values, int n, SlotCounters& counters) {
  return n == kBlock ? count_in_copies<kSlotCopies>(values, n, counters)
                     : count_in_copies<kFewSlotCopies>(values, n, counters);
}

}  // namespace fastlog::cpu

#endif
