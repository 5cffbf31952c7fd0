// The torch-free border of the CUDA engine. Nothing here allocates on the device, waits for it, or uses a stream
// that was not given. What takes a device makes it the calling thread's current one, which torch has done before: this
// copy of the CUDA runtime must not rely on torch's, which before CUDA 12 puts it off.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "core/tensor_view.h"
#include "cuda/chunk_table.h"

namespace fastlog::cuda {

// A call of the CUDA runtime that failed: what was tried, on which device, and CUDA's own text.
class CudaError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct DeviceLimits {
  int device = 0;
  int multiprocessors = 0;
  bool small = false;  // too little shared memory for Tuning: SmallTuning
};

// Loads the kernels, so that nothing is loaded at a launch. Throws CudaError, also where a block cannot have as much
// shared memory as SmallTuning needs.
DeviceLimits prepare_device(int device);

// The constant tables that launches read from device memory.
std::vector<std::uint8_t> device_tables();

struct Buffers {
  const std::uint8_t* table = nullptr;          // pinned, from pack_table
  std::uint8_t* device_table = nullptr;         // device, plan.table_bytes
  std::uint8_t* scratch = nullptr;              // device, plan.scratch_bytes
  const std::uint8_t* device_tables = nullptr;  // device, device_tables()
};

LaunchPlan plan_launch_on(const DeviceLimits& limits, const std::vector<TensorView>& views);
void pack_table_for(const std::vector<TensorView>& views, std::uint64_t records, std::uint8_t* table);

// Enqueues upload, kernels and the writing of records on `stream` (a cudaStream_t) of the limits' device.
// Throws CudaError; then the records must not be read.
void launch(const DeviceLimits& limits, const LaunchPlan& plan, const Buffers& buffers, std::uintptr_t stream);

// Throws CudaError unless `address`, of pinned memory, is what kernels on the device have to use, too.
void check_mapped(int device, std::uintptr_t address);

// A point in a stream that a host thread can wait for, asleep.
class Event {
 public:
  // `timed`: `seconds_since` can be asked.
  Event(int device, bool timed);
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  void record(std::uintptr_t stream);
  // Neither disturbs a graph capture that goes on in another thread. Both throw CudaError, with the error of
  // whatever failed on the device before.
  void wait();
  bool done();
  // Of the device, from one event that is done to this one, which is done; both are timed.
  double seconds_since(const Event& earlier);

 private:
  void* event_ = nullptr;  // a cudaEvent_t
  int device_;
};

}  // namespace fastlog::cuda
