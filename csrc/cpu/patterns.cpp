#include "cpu/patterns.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "core/bins.h"
#include "cpu/chunk.h"
#include "cpu/compensated_sum.h"

namespace fastlog::cpu {
namespace {

constexpr std::int64_t kWidePatternsFrom = 1 << 17;

// Several tables, so that a hot pattern is not one chain of store-to-load forwards; of the large ones two are
// what a second-level cache likes. The odd stride keeps them out of each other's cache sets.
template <class Storage>
struct Tables {
  static constexpr int kPatterns = 1 << (8 * sizeof(Storage));
  static constexpr int kCopies = sizeof(Storage) == 1 ? 8 : 2;
  static constexpr int kStride = kPatterns + 16;
};

template <class Storage>
void count_patterns(const Storage* values, std::int64_t n, std::vector<std::uint32_t>& tables) {
  using T = Tables<Storage>;
  tables.resize(T::kCopies * T::kStride);
  std::uint32_t* const counts = tables.data();
  std::int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) ++counts[(j % T::kCopies) * T::kStride + values[i + j]];
  }
  for (; i < n; ++i) ++counts[values[i]];
}

template <class Storage>
void drain_tables(std::vector<std::uint32_t>& tables, PatternTotals& totals) {
  using T = Tables<Storage>;
  if (tables.empty()) return;
  for (int copy = 0; copy < T::kCopies; ++copy) {
    std::uint32_t* const counts = tables.data() + copy * T::kStride;
    for (int p = 0; p < T::kPatterns; ++p) totals[p] += counts[p];
    std::fill(counts, counts + T::kPatterns, 0u);
  }
}

template <class Tag>
void summarize_as(const PatternTotals& totals, Summary& summary) {
  using Storage = typename Tag::Storage;
  using Pattern = std::make_unsigned_t<Storage>;
  std::int64_t slots[kSignStride + kSlots] = {};
  CompensatedSum sum;
  CompensatedSum squares;
  for (std::size_t p = 0; p < totals.size(); ++p) {
    if (totals[p] == 0) continue;
    const float value = Tag::widen(bit_cast<Storage>(static_cast<Pattern>(p)));
    const auto bits = bit_cast<std::uint32_t>(value);
    slots[slot_of(bits, kCells32[bits >> Cells<float>::kShift], Cells<float>::kShift)] += totals[p];
    if (!std::isfinite(value)) continue;
    const double wide = value;
    const double count = static_cast<double>(totals[p]);
    sum.add(wide * count);
    squares.add(wide * wide * count);
    summary.min = std::min(summary.min, wide);
    summary.max = std::max(summary.max, wide);
    const double magnitude = std::fabs(wide);
    if (magnitude > kLargestE4M3) summary.above_e4m3 += totals[p];
    if (magnitude > kLargestE5M2) summary.above_e5m2 += totals[p];
    if (magnitude > kLargestFp16) summary.above_fp16 += totals[p];
  }
  add_slots(slots, summary);
  summary.sum = sum.value();
  summary.sum_squares = squares.value();
}

}  // namespace

int pattern_count(const TensorView& view) {
  if (view.multiplier != nullptr) return 0;
  const int patterns = visit_dtype(view.dtype, [](auto tag) { return decltype(tag)::kPatterns; });
  return patterns > 256 && view.count < kWidePatternsFrom ? 0 : patterns;
}

bool patterns_would_stall(const TensorView& view, std::int64_t begin, std::int64_t end) {
  if (item_size(view.dtype) == 1) return false;  // small tables have copies enough
  constexpr int kSamples = 64;
  const auto* values = static_cast<const std::uint16_t*>(view.data) + begin;
  const std::int64_t stride = (end - begin) / kSamples;
  int repeated = 0;
  for (int i = 1; i < kSamples; ++i) repeated += values[i * stride] == values[(i - 1) * stride];
  // One value alone is forwarded from store to load; it is the unforeseeable change that stalls.
  return repeated >= kSamples / 8 && repeated < kSamples - 1;
}

void PatternCounters::count(const TensorView& view, std::int64_t begin, std::int64_t end) {
  if (item_size(view.dtype) == 1) {
    count_patterns(static_cast<const std::uint8_t*>(view.data) + begin, end - begin, narrow_);
  } else {
    count_patterns(static_cast<const std::uint16_t*>(view.data) + begin, end - begin, wide_);
  }
}

void PatternCounters::drain_into(PatternTotals& totals) {
  if (totals.size() == Tables<std::uint8_t>::kPatterns) {
    drain_tables<std::uint8_t>(narrow_, totals);
  } else {
    drain_tables<std::uint16_t>(wide_, totals);
  }
}

void summarize_patterns(const PatternTotals& totals, DType dtype, Summary& summary) {
  visit_dtype(dtype, [&](auto tag) {
    if constexpr (decltype(tag)::kPatterns > 0) summarize_as<decltype(tag)>(totals, summary);
  });
}

}  // namespace fastlog::cpu
