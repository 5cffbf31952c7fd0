// LaneMoments of float32 values in AVX-512 registers, for the loops that hold the values in registers already.
#pragma once

#if defined(__x86_64__)

#include <immintrin.h>

#include "cpu/chunk.h"

namespace fastlog::cpu {

// As LaneMoments::add of the 16 values in `x`, which lie at `values`. The squares round once as well: the product of
// two float32 is exact in float64.
__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,bmi,bmi2"))) FASTLOG_INLINE void add_lanes(
    __m512 x, const float* values, LaneMoments<float, 16>& moments) {
  moments.low[0] = _mm512_min_ps(x, moments.low[0]);
  moments.high[0] = _mm512_max_ps(x, moments.high[0]);
  const __m512d wide[2] = {_mm512_cvtps_pd(_mm512_castps512_ps256(x)), _mm512_cvtps_pd(_mm256_loadu_ps(values + 8))};
  for (int r = 0; r < 2; ++r) {
    moments.sum[r] += wide[r];
    moments.squares[r] = _mm512_fmadd_pd(wide[r], wide[r], moments.squares[r]);
  }
}

}  // namespace fastlog::cpu

#endif
