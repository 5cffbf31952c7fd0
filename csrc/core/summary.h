// The record that everything turns on. Python learns its layout from the names below.
#pragma once

#include <cstdint>
#include <iterator>
#include <limits>
#include <type_traits>

#include "core/host_device.h"

namespace fastlog {

// tensorboardX's default edges: +-(1e-12 * 1.1 * 1.1 ... < 1e20) and 0, made by its own loop.
inline constexpr int kMagnitudes = 774;
inline constexpr int kEdges = 2 * kMagnitudes + 1;
inline constexpr int kBins = kEdges - 1;

// The smallest normal numbers of fp32 and bf16, of fp16 and e5m2, of e4m3.
inline constexpr double kSmallestNormals[] = {0x1p-126, 0x1p-14, 0x1p-6};
// The largest finite numbers.
inline constexpr int kLargestE4M3 = 448;
inline constexpr int kLargestE5M2 = 57344;
inline constexpr int kLargestFp16 = 65504;

struct Counts {
  std::int64_t counts[kBins] = {};
};

// All of a summary but the counts of its bins: what its packed form begins with.
struct SummaryHead {
  // Finite values below the first and above the last edge; NaN; infinities. With `counts` they add up to `num`.
  std::int64_t underflow = 0;
  std::int64_t overflow = 0;
  std::int64_t nan = 0;
  std::int64_t pos_inf = 0;
  std::int64_t neg_inf = 0;
  // These overlap the bins: exact zeros; nonzero |x| under the smallest normal numbers; finite |x| over the largest.
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

// The fields of SummaryHead by name, in its order: int64, then double.
inline constexpr const char* kCounterNames[] = {
    "underflow",  "overflow",   "nan",        "pos_inf",    "neg_inf",    "zeros", "below_fp32",
    "below_fp16", "below_e4m3", "above_e4m3", "above_e5m2", "above_fp16", "num",   "num_finite",
};
inline constexpr const char* kMomentNames[] = {"min", "max", "abs_max", "sum", "sum_squares"};
static_assert(sizeof(SummaryHead) == 8 * (std::size(kCounterNames) + std::size(kMomentNames)));

struct Summary : Counts, SummaryHead {};
static_assert(std::is_trivially_copyable_v<Summary>);
static_assert(sizeof(Summary) == sizeof(Counts) + sizeof(SummaryHead));

}  // namespace fastlog
