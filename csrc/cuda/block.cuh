// What both kernels share. <cuda_runtime.h> is the toolkit's, or the stand-in under which a C++ compiler makes
// the same source run on the CPU (tests/support/cuda_on_cpu).
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "core/bins.h"
#include "cuda/records.h"

// A kernel's shared memory is one object, whose size is given at the launch.
#ifndef FASTLOG_SHARED
#define FASTLOG_SHARED(Type, name)                              \
  extern __shared__ __align__(16) unsigned char name##_bytes[]; \
  Type& name = *reinterpret_cast<Type*>(name##_bytes)
#endif
#ifndef FASTLOG_LAUNCH
#define FASTLOG_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  kernel<<<grid, block, shared_bytes, stream>>>(__VA_ARGS__)
#endif

namespace fastlog::cuda {

// Constant tables in device memory, made on the host.
struct DeviceTables {
  std::uint64_t cells64[2 * Cells<double>::kPerSign];
  std::uint32_t cells32[2 * Cells<float>::kPerSign];
};

inline constexpr unsigned kAllLanes = 0xffffffffu;

__device__ inline SplitMoments no_moments() {
  const double infinity = static_cast<double>(bit_cast<float>(0x7f800000u));
  return {infinity, -infinity, 0.0, 0.0, 0.0};
}

__device__ inline SplitMoments folded(const SplitMoments& a, const SplitMoments& b) {
  return {fmin(a.min, b.min), fmax(a.max, b.max), a.sum + b.sum, a.sum_squares + b.sum_squares, a.huge + b.huge};
}

// The moments of a warp's lanes, in a fixed order, on lane 0. All lanes must call.
__device__ inline SplitMoments fold_warp(SplitMoments moments) {
  for (int offset = 16; offset > 0; offset /= 2) {
    SplitMoments other;
    other.min = __shfl_down_sync(kAllLanes, moments.min, offset);
    other.max = __shfl_down_sync(kAllLanes, moments.max, offset);
    other.sum = __shfl_down_sync(kAllLanes, moments.sum, offset);
    other.sum_squares = __shfl_down_sync(kAllLanes, moments.sum_squares, offset);
    other.huge = __shfl_down_sync(kAllLanes, moments.huge, offset);
    moments = folded(moments, other);
  }
  return moments;
}

}  // namespace fastlog::cuda
