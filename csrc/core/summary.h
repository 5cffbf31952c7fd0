// The record that everything turns on. Mirrored by SUMMARY_DTYPE in fastlog/summaries/summary.py.
#pragma once

#include <cstdint>
#include <limits>
#include <type_traits>

#include "core/hd.h"

namespace fastlog {

// tensorboardX's default edges: +-(1e-12 * 1.1 * 1.1 ... < 1e20) and 0, made by its own loop.
inline constexpr int kMagnitudes = 774;
inline constexpr int kEdges = 2 * kMagnitudes + 1;
inline constexpr int kBins = kEdges - 1;

struct Summary {
  std::int64_t counts[kBins] = {};
  // Finite values below the first and above the last edge; NaN; infinities. With `counts` they add up to `num`.
  std::int64_t underflow = 0;
  std::int64_t overflow = 0;
  std::int64_t nan = 0;
  std::int64_t pos_inf = 0;
  std::int64_t neg_inf = 0;
  // These overlap the bins: exact zeros; nonzero |x| under 2^-126, 2^-14, 2^-6 (the smallest normal numbers of
  // fp32 and bf16, of fp16 and e5m2, of e4m3); finite |x| over 448, 57344, 65504 (the largest of e4m3, e5m2, fp16).
  std::int64_t zeros = 0;
  std::int64_t below_fp32 = 0;
  std::int64_t below_fp16 = 0;
  std::int64_t below_e4m3 = 0;
  std::int64_t above_e4m3 = 0;
  std::int64_t above_e5m2 = 0;
  std::int64_t above_fp16 = 0;
  std::int64_t num = 0;
  std::int64_t num_finite = 0;
  // Over the finite values; these are the identities of merge where there is none.
  double min = std::numeric_limits<double>::infinity();
  double max = -std::numeric_limits<double>::infinity();
  double abs_max = 0;
  double sum = 0;
  double sum_squares = 0;
};
inline constexpr int kCounters = 14;  // underflow .. num_finite
inline constexpr int kMoments = 5;    // min .. sum_squares
static_assert(std::is_trivially_copyable_v<Summary>);
static_assert(sizeof(Summary) == 8 * (kBins + kCounters + kMoments));

}  // namespace fastlog
