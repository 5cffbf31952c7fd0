// Executes CUDA kernels on the CPU: every CUDA thread is a fiber, a seeded scheduler interleaves them, and
// wrong use of barriers and warp primitives ends the process with a message that names it.
//
// A kernel's source is compiled unchanged by g++ against include/cuda_runtime.h. Data races are left to
// ThreadSanitizer, which is told of the fibers and of the ordering that CUDA grants and no more: barriers,
// __syncwarp and fences order memory, shuffles and relaxed atomics do not.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

namespace cuda_on_cpu {

struct Options {
  std::uint64_t seed = 0;   // of the order in which fibers and blocks run
  int resident_blocks = 2;  // how many blocks are interleaved
};
Options& options();

// What the running CUDA thread knows of itself.
struct ThreadIds {
  uint3 thread;
  uint3 block;
  dim3 block_dim;
  dim3 grid_dim;
};
const ThreadIds& ids();
unsigned char* shared_memory();

// Runs the whole grid (x dimension only) and returns.
void run_grid(dim3 grid, dim3 block, std::size_t shared_bytes, const std::function<void()>& thread_body);

enum class Meet { kOrdered, kUnordered };  // whether memory is ordered among the lanes that meet

void sync_threads(int line);
void fence();
// Waits until all lanes of `mask` have come, gives the value that `source_lane` brought.
std::uint64_t meet_warp(unsigned mask, std::uint64_t value, int source_lane, Meet meet, int line);
int lane_id();

}  // namespace cuda_on_cpu
