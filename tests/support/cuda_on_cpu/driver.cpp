// Runs the kernels on the tensors of a case file and writes what the host makes of their records.
//
//   driver CASE RESULT TUNING GRID SEED RESIDENT
//
// CASE: int64 tensors, then for each: int64 dtype, count, misalignment (bytes), implicit zeros, scaled;
// float64 multiplier; the elements. RESULT: one record of core/summary.h for each tensor.
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/launch.cuh"

namespace {

using namespace fastlog;
using namespace fastlog::cuda;

// Few threads and short chunks: many chunks, flushes and blocks from little data.
struct Little : Tuning {
  static constexpr int kThreads = 64;
  static constexpr int kCopies = 4;
  static constexpr std::int64_t kChunkValues = 2048;
  static constexpr int kMaxRun = 2;
};
#ifndef ONLY_LITTLE  // sanitizers compile slowly
struct Middling : Tuning {
  static constexpr int kThreads = 256;
  static constexpr std::int64_t kChunkValues = 8192;
};
#endif

// Heap memory that begins `misalignment` bytes after a multiple of 16 and has red zones of its own.
struct Memory {
  Memory(std::size_t bytes, std::size_t misalignment) : held(new unsigned char[bytes + misalignment]) {
    data = held.get() + misalignment;
  }
  std::unique_ptr<unsigned char[]> held;
  unsigned char* data;
};

struct Case {
  std::vector<TensorView> views;
  std::vector<Memory> memory;
  std::vector<std::unique_ptr<float>> multipliers;
};

Case read_case(const char* path) {
  std::ifstream in(path, std::ios::binary);
  const auto read = [&](auto& value) { in.read(reinterpret_cast<char*>(&value), sizeof(value)); };
  Case made;
  std::int64_t tensors = 0;
  read(tensors);
  for (std::int64_t i = 0; i < tensors; ++i) {
    std::int64_t dtype = 0, count = 0, misalignment = 0, implicit_zeros = 0, scaled = 0;
    double multiplier = 0;
    for (std::int64_t* field : {&dtype, &count, &misalignment, &implicit_zeros, &scaled}) read(*field);
    read(multiplier);
    TensorView view;
    view.dtype = static_cast<DType>(dtype);
    view.count = count;
    view.implicit_zeros = implicit_zeros;
    const std::size_t bytes = static_cast<std::size_t>(count) * item_size(view.dtype);
    made.memory.emplace_back(bytes, static_cast<std::size_t>(misalignment));
    in.read(reinterpret_cast<char*>(made.memory.back().data), static_cast<std::streamsize>(bytes));
    view.data = made.memory.back().data;
    if (scaled) {
      made.multipliers.push_back(std::make_unique<float>(static_cast<float>(multiplier)));
      view.multiplier = made.multipliers.back().get();
    }
    made.views.push_back(view);
  }
  if (!in) throw std::runtime_error("the case file is too short");
  return made;
}

// The first tensor as if it held 2^33 more values 1.0: their counter is preset, its counts are 64 bits wide.
constexpr std::int64_t kPreset = std::int64_t{1} << 33;

template <class T>
Summary run_huge(const TensorView& view) {
  const std::vector<std::uint8_t> tables = make_device_tables();
  const LaunchPlan plan = plan_launch<T>({view}, 2);
  TensorView huge = view;
  huge.count += kPreset;
  Memory table(plan.table_bytes, 0), scratch(plan.scratch_bytes, 0), record(record_capacity(huge.dtype, huge.count), 0);
  pack_table<T>({view}, reinterpret_cast<std::uintptr_t>(record.data), table.data);
  reinterpret_cast<TensorEntry*>(table.data)->wide_counts = has_wide_counts(huge.count);
  const Workspace work = workspace_of(plan, Buffers{nullptr, table.data, scratch.data, tables.data()});
  std::memset(scratch.data, 0, cleared_bytes(1));
  std::int64_t one[kSlotCounters] = {};
  Summary ignored;
  add_value(1.0, kPreset, one, ignored);
  if (counts_patterns(view.dtype)) {
    work.counters[1] = kPreset;
  } else {
    for (int i = 0; i < kSlotCounters; ++i) work.counters[i] = static_cast<unsigned long long>(one[i]);
  }
  FASTLOG_LAUNCH(summarize_kernel<T>, plan.grid, T::kThreads, sizeof(SummarizeShared<T>), nullptr, work);
  FASTLOG_LAUNCH(finish_kernel<kFinishThreads>, 1, kFinishThreads, sizeof(FinishShared<kFinishThreads>), nullptr, work);
  return read_record(huge, record.data);
}

template <class T>
std::vector<Summary> run(const std::vector<TensorView>& views, int multiprocessors) {
  std::vector<Summary> summaries;
  const std::vector<std::uint8_t> tables = make_device_tables();
  for (std::size_t begin = 0; begin < views.size(); begin += kMaxTensors) {
    const std::size_t end = std::min(views.size(), begin + kMaxTensors);
    const std::vector<TensorView> part(views.begin() + begin, views.begin() + end);
    const LaunchPlan plan = plan_launch<T>(part, multiprocessors);
    // Nothing is cleared that the device does not clear itself.
    Memory table(plan.table_bytes, 0), device_table(plan.table_bytes, 0), scratch(plan.scratch_bytes, 0);
    Memory records(plan.records_bytes, 0);
    pack_table<T>(part, reinterpret_cast<std::uintptr_t>(records.data), table.data);
    std::memset(scratch.data, 0x5A, plan.scratch_bytes);
    std::memset(records.data, 0x5A, plan.records_bytes);
    prepare_kernels<T>(0);
    launch_with<T>(plan, Buffers{table.data, device_table.data, scratch.data, tables.data()}, 0, nullptr);
    const std::uint8_t* at = records.data;
    for (const TensorView& view : part) {
      summaries.push_back(read_record(view, at));
      at += record_capacity(view.dtype, view.count);
    }
  }
  return summaries;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 7) return 2;
  const Case given = read_case(argv[1]);
  const std::string tuning = argv[3];
  const int grid = std::atoi(argv[4]);
  cuda_on_cpu::options().seed = std::strtoull(argv[5], nullptr, 10);
  cuda_on_cpu::options().resident_blocks = std::atoi(argv[6]);
  std::vector<Summary> summaries;
#ifndef ONLY_LITTLE
  if (tuning == "product") summaries = run<Tuning>(given.views, grid);
  if (tuning == "small") summaries = run<SmallTuning>(given.views, grid);
  if (tuning == "middling") summaries = run<Middling>(given.views, grid);
#endif
  if (tuning == "little") summaries = run<Little>(given.views, grid);
  if (tuning == "huge") {
    for (const TensorView& view : given.views) summaries.push_back(run_huge<Little>(view));
  }
  std::ofstream out(argv[2], std::ios::binary);
  out.write(reinterpret_cast<const char*>(summaries.data()),
            static_cast<std::streamsize>(summaries.size() * sizeof(Summary)));
  return out ? 0 : 1;
}
