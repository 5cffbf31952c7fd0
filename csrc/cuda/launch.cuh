// The launch sequence, for any tuning.
#pragma once

#include <cstddef>
#include <cstring>
#include <string>
#include <vector>

#include "cuda/finish.cuh"
#include "cuda/launch.h"

namespace fastlog::cuda {

inline void check(cudaError_t error, const char* what, int device) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // else the next launch reports it once more
  throw CudaError(std::string(what) + " on CUDA device " + std::to_string(device) + ": " + cudaGetErrorString(error));
}

inline void use_device(int device) { check(cudaSetDevice(device), "choosing the device", device); }

inline std::vector<std::uint8_t> make_device_tables() {
  std::vector<std::uint8_t> bytes(sizeof(DeviceTables));
  const std::vector<std::uint64_t> cells64 = make_cell_table<double>();
  const std::vector<std::uint32_t> cells32 = make_cell_table<float>();
  static_assert(offsetof(DeviceTables, cells64) == 0 &&
                offsetof(DeviceTables, cells32) == sizeof(DeviceTables::cells64));
  std::memcpy(bytes.data(), cells64.data(), sizeof(DeviceTables::cells64));
  std::memcpy(bytes.data() + sizeof(DeviceTables::cells64), cells32.data(), sizeof(DeviceTables::cells32));
  return bytes;
}

// Throws CudaError where the device does not give a block that much shared memory.
template <class T>
void prepare_kernels(int device) {
  check(cudaFuncSetAttribute(summarize_kernel<T>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(sizeof(SummarizeShared<T>))),
        "loading summarize_kernel", device);
  check(cudaFuncSetAttribute(finish_kernel<kFinishThreads>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(sizeof(FinishShared<kFinishThreads>))),
        "loading finish_kernel", device);
}

inline Workspace workspace_of(const LaunchPlan& plan, const Buffers& buffers) {
  Workspace work;
  work.entries = reinterpret_cast<const TensorEntry*>(buffers.device_table);
  work.tensors = static_cast<int>(plan.tensors);
  work.chunks = static_cast<int>(plan.chunks);
  work.run = plan.run;
  work.counters = reinterpret_cast<unsigned long long*>(buffers.scratch);
  work.next_chunk = reinterpret_cast<unsigned*>(buffers.scratch + counters_bytes(plan.tensors));
  work.chunk_moments = reinterpret_cast<SplitMoments*>(buffers.scratch + cleared_bytes(plan.tensors));
  work.warp_moments = work.chunk_moments + plan.chunks;
  work.tables = reinterpret_cast<const DeviceTables*>(buffers.device_tables);
  return work;
}

template <class T>
void launch_with(const LaunchPlan& plan, const Buffers& buffers, int device, cudaStream_t stream) {
  if (plan.tensors == 0) return;
  const Workspace work = workspace_of(plan, buffers);
  check(cudaMemcpyAsync(buffers.device_table, buffers.table, plan.table_bytes, cudaMemcpyHostToDevice, stream),
        "uploading the chunk table", device);
  check(cudaMemsetAsync(buffers.scratch, 0, cleared_bytes(plan.tensors), stream), "clearing the counters", device);
  FASTLOG_LAUNCH(summarize_kernel<T>, plan.grid, T::kThreads, sizeof(SummarizeShared<T>), stream, work);
  check(cudaGetLastError(), "launching summarize_kernel", device);
  FASTLOG_LAUNCH(finish_kernel<kFinishThreads>, static_cast<unsigned>(plan.tensors), kFinishThreads,
                 sizeof(FinishShared<kFinishThreads>), stream, work);
  check(cudaGetLastError(), "launching finish_kernel", device);
}

}  // namespace fastlog::cuda
