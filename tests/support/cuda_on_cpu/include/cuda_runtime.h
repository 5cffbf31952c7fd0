// Stands in for the toolkit's header of this name when g++ compiles a kernel's source: the intrinsics that
// fastlog's kernels use, on the fibers of runtime.h, and the few runtime calls of its launch code on a device
// whose memory is host memory.
#pragma once

#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>

#include <unistd.h>

#include "../runtime.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__ __restrict
#define threadIdx (::cuda_on_cpu::ids().thread)
#define blockIdx (::cuda_on_cpu::ids().block)
#define blockDim (::cuda_on_cpu::ids().block_dim)
#define gridDim (::cuda_on_cpu::ids().grid_dim)

// The kernels name their only shared memory, and are launched, through these two (csrc/cuda/block.cuh).
#define FASTLOG_SHARED(Type, name) Type& name = *reinterpret_cast<Type*>(::cuda_on_cpu::shared_memory())
#define FASTLOG_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  ::cuda_on_cpu::launch(#kernel, grid, block, shared_bytes, stream, [=] { kernel(__VA_ARGS__); })

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

// ---- inside kernels ----

inline void __syncthreads(int line = __builtin_LINE()) { cuda_on_cpu::sync_threads(line); }
inline void __threadfence() { cuda_on_cpu::fence(); }
inline void __syncwarp(unsigned mask = 0xffffffffu, int line = __builtin_LINE()) {
  cuda_on_cpu::meet_warp(mask, 0, cuda_on_cpu::lane_id(), cuda_on_cpu::Meet::kOrdered, line);
}

namespace cuda_on_cpu {
template <class T>
T shuffle(unsigned mask, T value, int source_lane, int line) {
  static_assert(sizeof(T) <= sizeof(std::uint64_t));
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = meet_warp(mask, bits, source_lane, Meet::kUnordered, line);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}
}  // namespace cuda_on_cpu

template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int line = __builtin_LINE()) {
  const int source = cuda_on_cpu::lane_id() + static_cast<int>(delta);
  return cuda_on_cpu::shuffle(mask, value, source < 32 ? source : cuda_on_cpu::lane_id(), line);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int line = __builtin_LINE()) {
  return cuda_on_cpu::shuffle(mask, value, cuda_on_cpu::lane_id() ^ lane_mask, line);
}

template <class T>
T atomicAdd(T* address, T value) {
  return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
}
inline unsigned atomicExch(unsigned* address, unsigned value) {
  return __atomic_exchange_n(address, value, __ATOMIC_RELAXED);
}
inline int atomicMin(int* address, int value) {
  int seen = __atomic_load_n(address, __ATOMIC_RELAXED);
  while (seen > value &&
         !__atomic_compare_exchange_n(address, &seen, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return seen;
}
inline int atomicMax(int* address, int value) {
  int seen = __atomic_load_n(address, __ATOMIC_RELAXED);
  while (seen < value &&
         !__atomic_compare_exchange_n(address, &seen, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return seen;
}
template <class T>
T __ldg(const T* address) {
  return *address;
}
template <class T>
T __ldcs(const T* address) {
  return *address;
}

// ---- the runtime's API: one device, host memory, every stream runs at once ----

using cudaStream_t = void*;
using cudaEvent_t = bool*;  // whether it was recorded; no time passes here
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorNotReady = 600 };
enum { cudaEventBlockingSync = 1, cudaEventDisableTiming = 2 };
enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal = 0, cudaStreamCaptureModeRelaxed = 2 };
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
};

namespace cuda_on_cpu {
// The stand-in device.
struct Device {
  cudaError_t last_error = cudaSuccess;
};
inline Device& device() {
  static Device made;
  return made;
}

inline int setting(const char* name, int otherwise) {
  const char* const set = std::getenv(name);
  return set ? std::atoi(set) : otherwise;
}
inline int multiprocessors() { return setting("CUDA_ON_CPU_MULTIPROCESSORS", 3); }
// Of a block.
inline int shared_bytes() { return setting("CUDA_ON_CPU_SHARED_BYTES", 99 * 1024); }

template <class Body>
void launch(const char*, dim3 grid, dim3 block, std::size_t shared_bytes, cudaStream_t, Body body) {
  if (shared_bytes > static_cast<std::size_t>(cuda_on_cpu::shared_bytes())) {
    device().last_error = cudaErrorInvalidValue;
    return;
  }
  run_grid(grid, block, shared_bytes, body);
}
}  // namespace cuda_on_cpu

namespace cuda_on_cpu {
// What CUDA_ON_CPU_REFUSE names fails; CUDA_ON_CPU_CALL_MICROSECONDS is how long a call takes.
inline cudaError_t result_of(const char* call) {
  if (const int pause = setting("CUDA_ON_CPU_CALL_MICROSECONDS", 0)) usleep(static_cast<unsigned>(pause));
  const char* const refused = std::getenv("CUDA_ON_CPU_REFUSE");
  return refused && std::string(refused) == call ? cudaErrorInvalidValue : cudaSuccess;
}
}  // namespace cuda_on_cpu

// As the runtime does: what a call returns other than success is also the last error, until that is asked for.
inline cudaError_t returned(cudaError_t error) {
  if (error != cudaSuccess) cuda_on_cpu::device().last_error = error;
  return error;
}
inline cudaError_t cudaGetLastError() {
  const cudaError_t error = cuda_on_cpu::device().last_error;
  cuda_on_cpu::device().last_error = cudaSuccess;
  return error;
}
inline const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorNotReady: return "device not ready";
    case cudaErrorInvalidValue: return "invalid argument";
  }
  return "unrecognized error code";
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind, cudaStream_t) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* at, int value, std::size_t bytes, cudaStream_t) {
  std::memset(at, value, bytes);
  return cudaSuccess;
}
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel*, cudaFuncAttribute, int bytes) {
  return returned(bytes <= cuda_on_cpu::shared_bytes() ? cudaSuccess : cudaErrorInvalidValue);
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  const bool multiprocessors = attribute == cudaDevAttrMultiProcessorCount;
  *value = multiprocessors ? cuda_on_cpu::multiprocessors() : cuda_on_cpu::shared_bytes();
  return cudaSuccess;
}
inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new bool(false);
  return cudaSuccess;
}
inline cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return returned(cuda_on_cpu::result_of("cudaEventDestroy"));
}
inline cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
  *event = true;
  return returned(cuda_on_cpu::result_of("cudaEventRecord"));
}
inline cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  return returned(*event ? cudaSuccess : cudaErrorInvalidValue);
}
inline cudaError_t cudaEventQuery(cudaEvent_t event) {
  cuda_on_cpu::result_of("cudaEventQuery");
  return returned(*event ? cudaSuccess : cudaErrorNotReady);
}
inline cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  thread_local cudaStreamCaptureMode current = cudaStreamCaptureModeGlobal;
  std::swap(current, *mode);
  return returned(cuda_on_cpu::result_of("cudaThreadExchangeStreamCaptureMode"));
}
inline cudaError_t cudaSetDevice(int device) { return returned(device < 64 ? cudaSuccess : cudaErrorInvalidValue); }
inline cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t, cudaEvent_t) {
  *milliseconds = 0;
  return returned(cuda_on_cpu::result_of("cudaEventElapsedTime"));
}
inline cudaError_t cudaHostGetDevicePointer(void** mapped, void* host, unsigned) {
  *mapped = static_cast<char*>(host) + cuda_on_cpu::setting("CUDA_ON_CPU_MAPPED_ELSEWHERE", 0);
  return returned(cuda_on_cpu::result_of("cudaHostGetDevicePointer"));
}
