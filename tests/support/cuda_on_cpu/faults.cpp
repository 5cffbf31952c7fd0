// Kernels with one mistake each, and the same kernels without it: tests/cuda/test_cuda_harness.py shows that the
// harness finds every mistake and accepts what is right.
#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

namespace {

constexpr unsigned kAll = 0xffffffffu;
constexpr int kThreads = 64;

struct Shared {
  int values[kThreads];
};

// Every thread reads its neighbour's value.
void neighbours(int* out, bool barrier) {
  FASTLOG_SHARED(Shared, shared);
  const int t = static_cast<int>(threadIdx.x);
  shared.values[t] = t;
  if (barrier) __syncthreads();
  out[t] = shared.values[(t + 33) % kThreads];
}

// A warp passes values on through shared memory.
void warp_neighbours(int* out, bool sync) {
  FASTLOG_SHARED(Shared, shared);
  const int t = static_cast<int>(threadIdx.x);
  shared.values[t] = t;
  if (sync) {
    __syncwarp();
  } else {
    __shfl_xor_sync(kAll, t, 1);  // meets, and orders nothing
  }
  out[t] = shared.values[t ^ 1];
}

void count_blocks(int* total, bool atomic) {
  if (threadIdx.x != 0) return;
  if (atomic) {
    atomicAdd(total, 1);
  } else {
    *total += 1;
  }
}

// The last block to take a ticket adds up what the others wrote.
void last_block_adds(int* partial, unsigned* ticket, int* total, bool fenced) {
  if (threadIdx.x != 0) return;
  partial[blockIdx.x] = static_cast<int>(blockIdx.x) + 1;
  if (fenced) __threadfence();
  if (atomicAdd(ticket, 1u) != gridDim.x - 1) return;
  if (fenced) __threadfence();
  for (unsigned b = 0; b < gridDim.x; ++b) *total += partial[b];
  atomicExch(ticket, 0u);
}

void barrier_by_half(bool divergent) {
  if (divergent && threadIdx.x < kThreads / 2) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

void barrier_after_exit(bool divergent) {
  if (divergent && threadIdx.x == 5) return;
  __syncthreads();
}

void shuffle_with_exited(int* out, bool exited) {
  if (exited && threadIdx.x % 32 == 7) return;
  out[threadIdx.x] = __shfl_xor_sync(kAll, static_cast<int>(threadIdx.x), 4);
}

void shuffle_outside_mask(int* out, bool outside) {
  const unsigned lane = threadIdx.x % 32;
  out[threadIdx.x] = -1;
  if (lane < 16) out[threadIdx.x] = __shfl_xor_sync(0xffffu, static_cast<int>(lane), outside ? 16 : 8);
}

void sum_shared(int* out, bool initialised) {
  FASTLOG_SHARED(Shared, shared);
  if (initialised) shared.values[threadIdx.x] = 0;
  __syncthreads();
  if (threadIdx.x == 0) {
    int sum = 0;
    for (int value : shared.values) sum += value;
    out[0] = sum ? 1 : 0;
  }
}

void read_past_the_end(int* out, bool past) {
  FASTLOG_SHARED(Shared, shared);
  shared.values[threadIdx.x] = 1;
  __syncthreads();
  const int* values = shared.values;
  out[threadIdx.x] = values[threadIdx.x + (past ? 1 : 0)];
}

void load_vector(const unsigned char* bytes, int* out, bool misaligned) {
  const auto* vector = reinterpret_cast<const uint4*>(bytes + (misaligned ? 4 : 0));
  out[threadIdx.x] = static_cast<int>(vector->x);
}

void cast_large(const float* in, int* out, bool unclamped) {
  const float value = unclamped ? in[0] : (in[0] > 100.0f ? 100.0f : in[0]);
  out[threadIdx.x] = static_cast<int>(value);
}

// Runs `name` rightly or with its mistake; prints whether the result is right.
int run(const std::string& name, bool faulty) {
  const dim3 grid(4);
  const dim3 block(kThreads);
  std::vector<int> out(kThreads, 0);
  int* o = out.data();
  bool right = true;
  if (name == "missing_barrier") {
    FASTLOG_LAUNCH(neighbours, 1, block, sizeof(Shared), nullptr, o, !faulty);
    for (int t = 0; t < kThreads; ++t) right &= out[t] == (t + 33) % kThreads;
  } else if (name == "missing_syncwarp") {
    FASTLOG_LAUNCH(warp_neighbours, 1, block, sizeof(Shared), nullptr, o, !faulty);
    for (int t = 0; t < kThreads; ++t) right &= out[t] == (t ^ 1);
  } else if (name == "plain_add") {
    FASTLOG_LAUNCH(count_blocks, grid, block, 0, nullptr, o, !faulty);
    right = out[0] == 4;
  } else if (name == "missing_fence") {
    std::vector<int> partial(4);
    int* p = partial.data();
    unsigned ticket = 0;
    unsigned* at = &ticket;
    FASTLOG_LAUNCH(last_block_adds, grid, block, 0, nullptr, p, at, o, !faulty);
    right = out[0] == 10 && ticket == 0;
  } else if (name == "divergent_barrier") {
    FASTLOG_LAUNCH(barrier_by_half, 1, block, 0, nullptr, faulty);
  } else if (name == "barrier_after_exit") {
    FASTLOG_LAUNCH(barrier_after_exit, 1, block, 0, nullptr, faulty);
  } else if (name == "exited_lane_in_mask") {
    FASTLOG_LAUNCH(shuffle_with_exited, 1, block, 0, nullptr, o, faulty);
  } else if (name == "shuffle_outside_mask") {
    FASTLOG_LAUNCH(shuffle_outside_mask, 1, block, 0, nullptr, o, faulty);
  } else if (name == "uninitialised_shared") {
    FASTLOG_LAUNCH(sum_shared, 1, block, sizeof(Shared), nullptr, o, !faulty);
    right = out[0] == 0;
  } else if (name == "shared_past_the_end") {
    FASTLOG_LAUNCH(read_past_the_end, 1, block, sizeof(Shared), nullptr, o, faulty);
  } else if (name == "misaligned_vector") {
    alignas(16) static unsigned char bytes[32] = {};
    const unsigned char* b = bytes;
    FASTLOG_LAUNCH(load_vector, 1, block, 0, nullptr, b, o, faulty);
  } else if (name == "cast_overflow") {
    const float value = 1e20f;
    const float* v = &value;
    FASTLOG_LAUNCH(cast_large, 1, block, 0, nullptr, v, o, faulty);
  } else {
    return 2;
  }
  std::puts(right ? "right" : "wrong");
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  cuda_on_cpu::options().seed = std::strtoull(argv[3], nullptr, 10);
  cuda_on_cpu::options().resident_blocks = 4;
  return run(argv[1], std::string(argv[2]) == "faulty");
}
