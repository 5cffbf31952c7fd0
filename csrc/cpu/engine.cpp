#include "cpu/engine.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <mutex>
#include <utility>

#include "core/bins.h"
#include "core/pack.h"
#include "cpu/compensated_sum.h"
#include "cpu/fp_control.h"
#include "cpu/kernels.h"
#include "cpu/patterns.h"
#include "cpu/thread_pool.h"

namespace fastlog::cpu {
namespace {

// The unit of work and the leaf of the sum tree: part of the promise that equal values give equal bytes.
constexpr std::int64_t kChunk = 1 << 16;
// A thread's counters are drained before they can overflow: a chunk adds kChunk / kSlotCopies at most to a 16-bit
// one of a slot, kChunk to a 32-bit one of a pattern.
constexpr std::int64_t kDrainSlotsEvery = (1 << 16) / (kChunk / kSlotCopies) - 1;
constexpr std::int64_t kDrainPatternsEvery = (std::int64_t{1} << 31) / kChunk;

// A tensor while its chunks are being counted, by any thread, in any order.
struct Accumulator {
  explicit Accumulator(const TensorView& view)
      : moments(static_cast<std::size_t>((view.count + kChunk - 1) / kChunk)),
        patterns(static_cast<std::size_t>(pattern_count(view))),
        chunks_left(static_cast<std::int64_t>(moments.size())) {}

  std::mutex mutex;  // guards all but `moments`, whose elements have one writer each
  Summary summary;
  std::vector<Moments> moments;  // per chunk; none in those whose patterns are counted
  PatternTotals patterns;        // empty where the dtype has too many, or the tensor too few values
  std::int64_t chunks_left;
};

// One thread's counters, zero between two uses.
struct Scratch {
  SlotCounters counters{};
  PatternCounters patterns;

  std::int64_t slot_chunks = 0;     // counted since their counters
  std::int64_t pattern_chunks = 0;  // were drained

  void drain_into(Accumulator& tensor) {
    drain_slots_into(tensor);
    if (pattern_chunks > 0) patterns.drain_into(tensor.patterns);
    pattern_chunks = 0;
  }

  void drain_slots_into(Accumulator& tensor) {
    slot_chunks = 0;
    std::uint32_t slots[kSlotCopyStride] = {};
    for (int copy = 0; copy < counters.copies; ++copy) {
      std::uint16_t* const counted = counters.slots + copy * kSlotCopyStride;
      for (int slot = 0; slot < kSlotCopyStride; ++slot) slots[slot] += counted[slot];
      std::fill(counted, counted + kSlotCopyStride, std::uint16_t{0});
    }
    counters.copies = 0;
    if (std::exchange(counters.has_wide, false)) {
      for (int slot = 0; slot < kSlotCopyStride; ++slot) slots[slot] += std::exchange(counters.wide[slot], 0u);
    }
    add_slots(slots, tensor.summary);
    tensor.summary.above_e4m3 += std::exchange(counters.above_e4m3, 0);
    tensor.summary.above_e5m2 += std::exchange(counters.above_e5m2, 0);
    tensor.summary.above_fp16 += std::exchange(counters.above_fp16, 0);
  }
};

// The sum of float64 values some partial sum of which left float64's range: once more, scaled down.
double rescaled_sum(const TensorView& view) {
  CompensatedSum sum;
  visit_dtype(view.dtype, [&](auto tag) {
    using Tag = decltype(tag);
    const auto* data = static_cast<const typename Tag::Storage*>(view.data);
    const double multiplier = view.multiplier != nullptr ? *view.multiplier : 1.0;
    for (std::int64_t i = 0; i < view.count; ++i) {
      const double value = static_cast<double>(Tag::widen(data[i])) * multiplier;
      if (std::isfinite(value)) sum.add(value * 0x1p-128);
    }
  });
  return sum.value() * 0x1p128;
}

// What the chunks' counts and moments make of the whole tensor.
void finish(const TensorView& view, Accumulator& tensor) {
  Summary& summary = tensor.summary;
  if (!tensor.patterns.empty()) summarize_patterns(tensor.patterns, view.dtype, summary);
  CompensatedSum sum;
  CompensatedSum squares;
  sum.add(summary.sum);
  squares.add(summary.sum_squares);
  for (const Moments& chunk : tensor.moments) {
    summary.min = std::min(summary.min, chunk.min);
    summary.max = std::max(summary.max, chunk.max);
    sum.add(chunk.sum);
    squares.add(chunk.sum_squares);
  }
  summary.sum = std::isfinite(sum.value()) ? sum.value() : rescaled_sum(view);
  summary.sum_squares = std::isfinite(squares.value()) ? squares.value() : std::numeric_limits<double>::infinity();
  if (view.implicit_zeros > 0) {
    summary.counts[kMagnitudes] += view.implicit_zeros;
    summary.zeros += view.implicit_zeros;
    summary.num += view.implicit_zeros;
    summary.num_finite += view.implicit_zeros;
    summary.min = std::min(summary.min, 0.0);
    summary.max = std::max(summary.max, 0.0);
  }
  if (summary.num_finite == 0) return;
  summary.min += 0.0;  // -0.0 becomes 0.0, whichever zero was met first
  summary.max += 0.0;
  summary.abs_max = std::max(std::fabs(summary.min), std::fabs(summary.max));
}

// One call: chunks of all tensors in one row, taken by whoever is free.
class Call {
 public:
  explicit Call(const std::vector<TensorView>& views)
      : views_(views), kernels_(chosen_kernels()), open_(views.size()), packed_(views.size()) {
    first_chunk_.reserve(views.size() + 1);
    for (const TensorView& view : views) {
      first_chunk_.push_back(chunks_);
      chunks_ += (view.count + kChunk - 1) / kChunk;
    }
    first_chunk_.push_back(chunks_);
  }

  std::vector<std::string> run(int threads) {
    for (std::size_t i = 0; i < views_.size(); ++i) {
      if (views_[i].count == 0) close(i, std::make_unique<Accumulator>(views_[i]));
    }
    run_parallel(threads - 1, [this] { take_part(); });
    return std::move(packed_);
  }

 private:
  void take_part() {
    const DefaultFpControl fp;
    static thread_local Scratch scratch;
    std::size_t tensor = 0;
    Accumulator* accumulator = nullptr;
    std::int64_t counted = 0;
    for (std::int64_t chunk; (chunk = next_.fetch_add(1, std::memory_order_relaxed)) < chunks_;) {
      if (accumulator == nullptr || chunk >= first_chunk_[tensor + 1] ||
          scratch.pattern_chunks == kDrainPatternsEvery) {
        leave(tensor, accumulator, scratch, counted);
        while (chunk >= first_chunk_[tensor + 1]) ++tensor;
        accumulator = &open(tensor);
        counted = 0;
      }
      const TensorView& view = views_[tensor];
      const std::int64_t begin = (chunk - first_chunk_[tensor]) * kChunk;
      const std::int64_t end = std::min(begin + kChunk, view.count);
      if (!accumulator->patterns.empty() && !patterns_would_stall(view, begin, end)) {
        scratch.patterns.count(view, begin, end);
        ++scratch.pattern_chunks;
      } else {
        kernels_.chunk[static_cast<int>(view.dtype)](view, begin, end, scratch.counters,
                                                     accumulator->moments[begin / kChunk]);
        if (++scratch.slot_chunks == kDrainSlotsEvery) {
          const std::lock_guard<std::mutex> lock(accumulator->mutex);
          scratch.drain_slots_into(*accumulator);
        }
      }
      ++counted;
    }
    leave(tensor, accumulator, scratch, counted);
  }

  Accumulator& open(std::size_t tensor) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!open_[tensor]) open_[tensor] = std::make_unique<Accumulator>(views_[tensor]);
    return *open_[tensor];
  }

  void leave(std::size_t tensor, Accumulator* accumulator, Scratch& scratch, std::int64_t counted) {
    if (accumulator == nullptr) return;
    bool last = false;
    {
      const std::lock_guard<std::mutex> lock(accumulator->mutex);
      scratch.drain_into(*accumulator);
      last = (accumulator->chunks_left -= counted) == 0;
    }
    if (last) close(tensor, std::move(open_[tensor]));
  }

  void close(std::size_t tensor, std::unique_ptr<Accumulator> accumulator) {
    finish(views_[tensor], *accumulator);
    packed_[tensor] = pack(accumulator->summary);
  }

  const std::vector<TensorView>& views_;
  const Kernels& kernels_;
  std::vector<std::int64_t> first_chunk_;
  std::int64_t chunks_ = 0;
  std::atomic<std::int64_t> next_{0};
  std::mutex mutex_;  // guards `open_` until a tensor's last chunk is in
  std::vector<std::unique_ptr<Accumulator>> open_;
  std::vector<std::string> packed_;
};

}  // namespace

std::vector<std::string> summarize(const std::vector<TensorView>& views, int threads) {
  std::int64_t values = 0;
  for (const TensorView& view : views) values += view.count;
  const DefaultFpControl fp;
  return Call(views).run(values < kParallelFrom ? 1 : threads);
}

}  // namespace fastlog::cpu
