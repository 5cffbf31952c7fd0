#include "cuda/launch.cuh"

namespace fastlog::cuda {

DeviceLimits prepare_device(int device) {
  DeviceLimits limits;
  limits.device = device;
  use_device(device);
  int shared_bytes = 0;
  check(cudaDeviceGetAttribute(&limits.multiprocessors, cudaDevAttrMultiProcessorCount, device),
        "counting multiprocessors", device);
  check(cudaDeviceGetAttribute(&shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
        "asking for the size of shared memory", device);
  limits.small = shared_bytes < static_cast<int>(sizeof(SummarizeShared<Tuning>));
  if (limits.small) {
    prepare_kernels<SmallTuning>(device);
  } else {
    prepare_kernels<Tuning>(device);
  }
  return limits;
}

std::vector<std::uint8_t> device_tables() { return make_device_tables(); }

LaunchPlan plan_launch_on(const DeviceLimits& limits, const std::vector<TensorView>& views) {
  return plan_launch<Tuning>(views, limits.multiprocessors);
}

void pack_table_for(const std::vector<TensorView>& views, std::uint64_t records, std::uint8_t* table) {
  pack_table<Tuning>(views, records, table);
}

namespace {

// In the default mode an innocent query can invalidate the capture of another thread. What fails here must not be taken
// for the error of a launch.
class RelaxedCapture {
 public:
  RelaxedCapture() { exchange(); }
  ~RelaxedCapture() { exchange(); }
  RelaxedCapture(const RelaxedCapture&) = delete;
  RelaxedCapture& operator=(const RelaxedCapture&) = delete;

 private:
  void exchange() {
    if (cudaThreadExchangeStreamCaptureMode(&mode_) != cudaSuccess) cudaGetLastError();
  }
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

cudaEvent_t handle(void* event) { return static_cast<cudaEvent_t>(event); }

}  // namespace

void check_mapped(int device, std::uintptr_t address) {
  use_device(device);
  void* mapped = nullptr;
  check(cudaHostGetDevicePointer(&mapped, reinterpret_cast<void*>(address), 0), "mapping pinned memory", device);
  if (reinterpret_cast<std::uintptr_t>(mapped) != address) {
    throw CudaError("pinned memory has another address on CUDA device " + std::to_string(device));
  }
}

Event::Event(int device, bool timed) : device_(device) {
  use_device(device);
  cudaEvent_t event = nullptr;
  const unsigned flags = cudaEventBlockingSync | (timed ? 0u : cudaEventDisableTiming);
  check(cudaEventCreateWithFlags(&event, flags), "creating an event", device);
  event_ = event;
}

Event::~Event() {
  const RelaxedCapture relaxed;
  if (cudaEventDestroy(handle(event_)) != cudaSuccess) cudaGetLastError();
}

void Event::record(std::uintptr_t stream) {
  use_device(device_);
  check(cudaEventRecord(handle(event_), reinterpret_cast<cudaStream_t>(stream)), "recording an event", device_);
}

void Event::wait() {
  const RelaxedCapture relaxed;
  use_device(device_);
  check(cudaEventSynchronize(handle(event_)), "waiting for summaries", device_);
}

bool Event::done() {
  const RelaxedCapture relaxed;
  use_device(device_);
  const cudaError_t state = cudaEventQuery(handle(event_));
  if (state == cudaErrorNotReady) {
    cudaGetLastError();  // else the next launch takes it for its own error
    return false;
  }
  check(state, "waiting for summaries", device_);
  return true;
}

double Event::seconds_since(const Event& earlier) {
  const RelaxedCapture relaxed;
  use_device(device_);
  float milliseconds = 0;
  check(cudaEventElapsedTime(&milliseconds, handle(earlier.event_), handle(event_)), "taking the time", device_);
  return static_cast<double>(milliseconds) / 1e3;
}

void launch(const DeviceLimits& limits, const LaunchPlan& plan, const Buffers& buffers, std::uintptr_t stream) {
  use_device(limits.device);
  auto* const on = reinterpret_cast<cudaStream_t>(stream);
  if (limits.small) {
    launch_with<SmallTuning>(plan, buffers, limits.device, on);
  } else {
    launch_with<Tuning>(plan, buffers, limits.device, on);
  }
}

}  // namespace fastlog::cuda
