// torch.set_flush_denormal and others change the FP control register of a thread; counting needs denormals.
#pragma once

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

#include <cstdint>

namespace fastlog::cpu {

// IEEE defaults (round to nearest, denormals kept, no traps) while it lives; then the register as it was.
class DefaultFpControl {
 public:
  DefaultFpControl() : saved_(read()) { write(kDefault); }
  ~DefaultFpControl() { write(saved_); }
  DefaultFpControl(const DefaultFpControl&) = delete;
  DefaultFpControl& operator=(const DefaultFpControl&) = delete;

 private:
#if defined(__SSE2__)
  using Register = std::uint32_t;
  static constexpr Register kDefault = 0x1f80;
  static Register read() { return _mm_getcsr(); }
  static void write(Register value) { _mm_setcsr(value); }
#elif defined(__aarch64__)
  using Register = std::uint64_t;
  static constexpr Register kDefault = 0;
  static Register read() {
    Register value;
    asm volatile("mrs %0, fpcr" : "=r"(value));
    return value;
  }
  static void write(Register value) { asm volatile("msr fpcr, %0" : : "r"(value)); }
#else
  using Register = int;
  static constexpr Register kDefault = 0;
  static Register read() { return 0; }
  static void write(Register) {}
#endif
  Register saved_;
};

}  // namespace fastlog::cpu
