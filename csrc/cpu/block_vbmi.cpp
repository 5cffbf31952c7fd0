// Codes of float32 values within a window (window.h), 64 at a time by byte permutations, and their counts from bit
// planes. Nothing is incremented in memory, so it makes no difference how often a value occurs.
#if defined(__x86_64__)

// GCC 12 takes the undefined operands inside its own intrinsics for ours (bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

#include <cstdint>

#include "cpu/chunk.h"
#include "cpu/lanes_avx512.h"
#include "cpu/window.h"

namespace fastlog::cpu {
namespace {

#define FASTLOG_VBMI \
  __attribute__((    \
      target("avx512f,avx512dq,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,avx512vpopcntdq,gfni,bmi,bmi2,popcnt")))

constexpr int kGroup = 64;   // values whose codes fill a register
constexpr int kPlane = 512;  // codes whose bits fill one
constexpr int kPlanes = 7;
constexpr int kSets = kBlock / kPlane;

// Byte 4 k + b of a group's codes belongs to value k of the register kRegisterOfByte[b].
constexpr int kRegisterOfByte[4] = {0, 2, 1, 3};
struct GroupOrder {
  alignas(64) std::uint16_t value[kGroup];
  GroupOrder() {
    for (int byte = 0; byte < kGroup; ++byte) {
      value[byte] = static_cast<std::uint16_t>(16 * kRegisterOfByte[byte % 4] + byte / 4);
    }
  }
};
const GroupOrder kOrder;

struct EscapeList {
  std::uint16_t at[kBlock + 32];  // places in the block
  int n = 0;

  FASTLOG_VBMI FASTLOG_MEMBER void add(__mmask64 which, int group) {
    for (int half = 0; half < 2; ++half) {
      const auto mask = static_cast<__mmask32>(which >> (32 * half));
      const __m512i order = _mm512_load_si512(kOrder.value + 32 * half);
      const __m512i place = _mm512_add_epi16(order, _mm512_set1_epi16(static_cast<short>(group)));
      _mm512_storeu_si512(at + n, _mm512_maskz_compress_epi16(mask, place));
      n += __builtin_popcount(mask);
    }
  }
};

// The codes of 64 values; `escapes` gets a bit for each byte with kCodeEscape.
template <bool kZeros>
FASTLOG_VBMI FASTLOG_INLINE __m512i codes_of(const __m512i (&x)[4], const Window& window, __mmask64& escapes) {
  const __m512i words[2] = {_mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(x[0], 16), x[1]),
                            _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(x[2], 16), x[3])};
  __m512i cells[2];
  for (int i = 0; i < 2; ++i) {
    const __m512i above = _mm512_sub_epi16(_mm512_and_si512(words[i], _mm512_set1_epi16(0x7fff)),
                                           _mm512_set1_epi16(static_cast<short>(window.first_word)));
    cells[i] = _mm512_min_epu16(_mm512_srli_epi16(above, 3), _mm512_set1_epi16(0xff));
  }
  const __m512i cell = _mm512_or_si512(cells[0], _mm512_slli_epi16(cells[1], 8));
  // Bits 11 to 18 of each value: those behind the cell's name.
  const __m512i from = _mm512_set1_epi64(0x2b2b2b2b0b0b0b0b);
  __m512i rest = _mm512_multishift_epi64_epi8(from, x[0]);
  rest = _mm512_mask_multishift_epi64_epi8(rest, 0x4444444444444444, from, x[1]);
  rest = _mm512_mask_multishift_epi64_epi8(rest, 0x2222222222222222, from, x[2]);
  rest = _mm512_mask_multishift_epi64_epi8(rest, 0x8888888888888888, from, x[3]);

  const __m512i boundary =
      _mm512_permutex2var_epi8(_mm512_load_si512(window.boundary), cell, _mm512_load_si512(window.boundary + 64));
  __m512i code = _mm512_permutex2var_epi8(_mm512_load_si512(window.slot), cell, _mm512_load_si512(window.slot + 64));
  code = _mm512_mask_add_epi8(code, _mm512_cmpgt_epu8_mask(rest, boundary), code, _mm512_set1_epi8(1));
  escapes = _mm512_movepi8_mask(cell) | _mm512_cmpeq_epi8_mask(rest, boundary);
  code = _mm512_mask_mov_epi8(code, escapes, _mm512_set1_epi8(kCodeEscape));
  if constexpr (kZeros) {
    static_assert(kCodeZero == (kCodeEscape ^ 1));
    for (int byte = 0; byte < 4; ++byte) {
      const __mmask16 zero = _mm512_testn_epi32_mask(x[kRegisterOfByte[byte]], _mm512_set1_epi32(0x7fffffff));
      code = _mm512_mask_xor_epi32(code, zero, code, _mm512_set1_epi32(1 << (8 * byte)));
    }
    escapes = _mm512_mask_cmpeq_epi8_mask(escapes, code, _mm512_set1_epi8(kCodeEscape));
  }
  // code | sign, from the words' upper bits
  code = _mm512_ternarylogic_epi32(code, _mm512_srli_epi16(words[0], 9), _mm512_set1_epi16(kCodeSign), 0xf8);
  return _mm512_ternarylogic_epi32(code, _mm512_srli_epi16(words[1], 1),
                                   _mm512_set1_epi16(static_cast<short>(kCodeSign << 8)), 0xf8);
}

// Bit p of 512 codes in planes[p]; the same order of codes in all planes.
FASTLOG_VBMI FASTLOG_INLINE void make_planes(const std::uint8_t* codes, __m512i (&planes)[8]) {
  alignas(64) static constexpr std::uint8_t kByPlane[64] = {
      0,  8,  16, 24, 32, 40, 48, 56, 1,  9,  17, 25, 33, 41, 49, 57, 2,  10, 18, 26, 34, 42,
      50, 58, 3,  11, 19, 27, 35, 43, 51, 59, 4,  12, 20, 28, 36, 44, 52, 60, 5,  13, 21, 29,
      37, 45, 53, 61, 6,  14, 22, 30, 38, 46, 54, 62, 7,  15, 23, 31, 39, 47, 55, 63};
  const __m512i by_plane = _mm512_load_si512(kByPlane);
  const __m512i transpose = _mm512_set1_epi64(static_cast<long long>(0x8040201008040201));
  __m512i row[8];  // 64 codes each: plane p in the p-th quarter word
  for (int i = 0; i < 8; ++i) {
    const __m512i bits = _mm512_gf2p8affine_epi64_epi8(transpose, _mm512_load_si512(codes + kGroup * i), 0);
    row[i] = _mm512_permutexvar_epi8(by_plane, bits);
  }
  __m512i pair[8];
  for (int i = 0; i < 8; i += 2) {
    pair[i] = _mm512_unpacklo_epi64(row[i], row[i + 1]);
    pair[i + 1] = _mm512_unpackhi_epi64(row[i], row[i + 1]);
  }
  __m512i four[8];
  for (int i = 0; i < 8; i += 4) {
    for (int odd = 0; odd < 2; ++odd) {
      four[i + odd] = _mm512_shuffle_i64x2(pair[i + odd], pair[i + 2 + odd], 0x88);      // planes odd, odd + 4
      four[i + 2 + odd] = _mm512_shuffle_i64x2(pair[i + odd], pair[i + 2 + odd], 0xdd);  // planes odd + 2, odd + 6
    }
  }
  for (int odd = 0; odd < 2; ++odd) {
    planes[odd] = _mm512_shuffle_i64x2(four[odd], four[4 + odd], 0x88);
    planes[odd + 4] = _mm512_shuffle_i64x2(four[odd], four[4 + odd], 0xdd);
    planes[odd + 2] = _mm512_shuffle_i64x2(four[2 + odd], four[6 + odd], 0x88);
    planes[odd + 6] = _mm512_shuffle_i64x2(four[2 + odd], four[6 + odd], 0xdd);
  }
}

// The 2^kBits products of some planes or their complements, by the number that the bits make.
template <int kBits>
FASTLOG_VBMI FASTLOG_INLINE void products(const __m512i* planes, __m512i (&made)[1 << kBits][kSets], int set) {
  __m512i product[1 << kBits];
  product[0] = _mm512_set1_epi64(-1);
  for (int bit = 0; bit < kBits; ++bit) {
    for (int i = (1 << bit) - 1; i >= 0; --i) {
      product[i + (1 << bit)] = _mm512_and_si512(planes[bit], product[i]);
      product[i] = _mm512_andnot_si512(planes[bit], product[i]);
    }
  }
  for (int i = 0; i < 1 << kBits; ++i) made[i][set] = product[i];
}

FASTLOG_VBMI void count_codes(const std::uint8_t* codes, CodeCounts& counts) {
  constexpr int kLow = 3;
  __m512i low[1 << kLow][kSets];
  __m512i high[1 << (kPlanes - kLow)][kSets];
  for (int set = 0; set < kSets; ++set) {
    __m512i planes[8];
    make_planes(codes + kPlane * set, planes);
    products<kLow>(planes, low, set);
    products<kPlanes - kLow>(planes + kLow, high, set);
  }
  for (int upper = 0; upper < 1 << (kPlanes - kLow); ++upper) {
    const __m512i any = _mm512_or_si512(_mm512_or_si512(high[upper][0], high[upper][1]),
                                        _mm512_or_si512(high[upper][2], high[upper][3]));
    if (_mm512_test_epi64_mask(any, any) == 0) continue;
    for (int lower = 0; lower < 1 << kLow; ++lower) {
      std::uint64_t* const lanes = counts.lanes[(upper << kLow) + lower];
      __m512i n = _mm512_load_si512(lanes);
      for (int set = 0; set < kSets; ++set) {
        n = _mm512_add_epi64(n, _mm512_popcnt_epi64(_mm512_and_si512(high[upper][set], low[lower][set])));
      }
      _mm512_store_si512(lanes, n);
    }
  }
}
static_assert(kSets == 4);

template <bool kZeros>
FASTLOG_VBMI Moments count_block_in(const float* values, const Window& window, CodeCounts& counts,
                                    SlotCounters& counters) {
  constexpr int kAhead = 1024;  // values; the CPU's own prefetching stops at the end of a page
  alignas(64) std::uint8_t codes[kBlock];
  EscapeList escapes;
  LaneMoments<float, 16> moments;
  for (int i = 0; i < kBlock; i += kGroup) {
    asm volatile("" ::: "memory");  // or the compiler holds all constants in registers and spills the sums
    __m512i x[4];
    for (int r = 0; r < 4; ++r) {
      const float* const at = values + i + 16 * r;
      _mm_prefetch(at + kAhead, _MM_HINT_T0);
      x[r] = _mm512_loadu_si512(at);
      add_lanes(_mm512_castsi512_ps(x[r]), at, moments);
    }
    __mmask64 escaped;
    _mm512_store_si512(codes + i, codes_of<kZeros>(x, window, escaped));
    escapes.add(escaped, i);
  }
  count_codes(codes, counts);
  for (int i = 0; i < escapes.n; ++i) {
    ++counters.slots[i % kSlotCopies * kSlotCopyStride + exact_slot(values[escapes.at[i]])];
  }
  return moments.fold(values + kBlock, 0);
}

}  // namespace

Moments count_block_vbmi(const float* values, WindowChoice choice, CodeCounts& counts, SlotCounters& counters) {
  counters.copies = kSlotCopies;
  return choice.zeros ? count_block_in<true>(values, *choice.window, counts, counters)
                      : count_block_in<false>(values, *choice.window, counts, counters);
}

}  // namespace fastlog::cpu

#endif
