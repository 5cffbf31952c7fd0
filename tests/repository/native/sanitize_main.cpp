// Several threads summarise and encode at once, for ThreadSanitizer: "right" if all of them got the bytes that one
// thread alone gets. With the argument `race` the pool's threads share a plain counter, which must be reported.
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "core/tensor_view.h"
#include "cpu/engine.h"
#include "cpu/kernels.h"
#include "cpu/thread_pool.h"
#include "events/crc32c.h"
#include "events/encode.h"

namespace {

using fastlog::TensorView;
using fastlog::events::Buckets;

constexpr int kCallers = 4;
constexpr int kMostThreads = 5;
constexpr std::int64_t kCounts[] = {0, 1, 17, 2049, 20011};
constexpr std::int64_t kLarge = 150001;  // one tensor of several chunks

struct Tensors {
  std::vector<std::vector<std::uint64_t>> memory;
  std::vector<TensorView> views;
  float multiplier = 0.37f;

  Tensors() {
    std::mt19937_64 random(7);
    for (int code = 0; code < fastlog::kDTypeCount; ++code) {
      const auto dtype = static_cast<fastlog::DType>(code);
      for (const std::int64_t count : kCounts) add(random, dtype, count);
      if (code % 3 == 1) add(random, dtype, kLarge);
    }
  }

  void add(std::mt19937_64& random, fastlog::DType dtype, std::int64_t count) {
    std::vector<std::uint64_t> words(static_cast<std::size_t>(count) * fastlog::item_size(dtype) / 8 + 1);
    for (std::uint64_t& word : words) word = random();
    memory.push_back(std::move(words));
    const float* scale = count == kCounts[3] ? &multiplier : nullptr;
    views.push_back({memory.back().data(), count, dtype, count % 5, scale});
  }
};

std::string encode(const std::vector<std::string>& packed, Buckets style) {
  std::vector<fastlog::events::EventView> events;
  for (std::size_t i = 0; i < packed.size(); ++i) {
    const auto step = static_cast<std::int64_t>(i);
    events.push_back({fastlog::events::kHistogramEvent, "weights", 0, step, 1.5, packed[i]});
    events.push_back({fastlog::events::kScalarEvent, "loss", 0.1, step, 1.5, {}});
  }
  return fastlog::events::encode_events(events, style);
}

std::string all_bytes(const std::vector<TensorView>& views, int threads) {
  const std::vector<std::string> packed = fastlog::cpu::summarize(views, threads);
  return encode(packed, Buckets::kAll) + encode(packed, Buckets::kCompact);
}

bool concurrent_calls_agree(const Tensors& tensors) {
  // The callers come first: what is made at first use is made while they race.
  std::vector<std::vector<std::string>> results(kCallers);
  std::vector<std::thread> callers;
  for (int caller = 0; caller < kCallers; ++caller) {
    callers.emplace_back([&tensors, caller, &mine = results[caller]] {
      for (int i = 0; i < kMostThreads; ++i) mine.push_back(all_bytes(tensors.views, 1 + (caller + i) % kMostThreads));
    });
  }
  for (std::thread& caller : callers) caller.join();
  const std::string expected = all_bytes(tensors.views, 1);
  for (const auto& mine : results) {
    for (const std::string& bytes : mine) {
      if (bytes != expected) return false;
    }
  }
  return true;
}

void race() {
  int shared = 0;
  std::atomic<int> arrived{0};
  fastlog::cpu::run_parallel(1, [&] {
    arrived.fetch_add(1, std::memory_order_relaxed);
    while (arrived.load(std::memory_order_relaxed) < 2) std::this_thread::yield();
    ++shared;
  });
  std::printf("%d\n", shared);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1 && std::strcmp(argv[1], "race") == 0) {
    race();
    return 0;
  }
  const Tensors tensors;
  bool right = concurrent_calls_agree(tensors);
  for (const auto* kernels : fastlog::cpu::available_kernels()) {
    fastlog::cpu::choose_kernels(kernels->name);
    right = concurrent_calls_agree(tensors) && right;
  }
  std::puts(right ? "right" : "wrong");
  return right ? 0 : 1;
}
