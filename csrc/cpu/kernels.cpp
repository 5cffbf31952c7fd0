#include "cpu/kernels.h"

#include <cstdlib>
#include <stdexcept>

#include "cpu/chunk.h"

namespace fastlog::cpu {

// Static initialisation of this file alone: nobody reads them before main.
static const std::vector<std::uint32_t> cells32 = make_cell_table<float>();
static const std::vector<std::uint64_t> cells64 = make_cell_table<double>();
const std::uint32_t* const kCells32 = cells32.data();
const std::uint64_t* const kCells64 = cells64.data();

// A struct per instruction set with one function per dtype, all from the templates of chunk.h.
#define FASTLOG_KERNELS(isa, width, windows, target_attribute)                                                      \
  namespace isa {                                                                                                   \
  struct Isa {                                                                                                      \
    static constexpr int kWidth = width;                                                                            \
    static constexpr bool kWindows = windows;                                                                       \
  };                                                                                                                \
  template <class Tag>                                                                                              \
  target_attribute void chunk(const TensorView& view, std::int64_t begin, std::int64_t end, SlotCounters& counters, \
                              Moments& moments) {                                                                   \
    process_chunk<Tag, Isa>(view, begin, end, counters, moments);                                                   \
  }                                                                                                                 \
  static const Kernels kernels = [] {                                                                               \
    Kernels made{#isa, {}};                                                                                         \
    for (int code = 0; code < kDTypeCount; ++code) {                                                                \
      made.chunk[code] =                                                                                            \
          visit_dtype(static_cast<DType>(code), [](auto tag) -> ChunkFunction { return chunk<decltype(tag)>; });    \
    }                                                                                                               \
    return made;                                                                                                    \
  }();                                                                                                              \
  }

FASTLOG_KERNELS(baseline, 4, false, )
#if defined(__x86_64__)
FASTLOG_KERNELS(avx2, 8, false, __attribute__((target("avx2,bmi,bmi2"))))
FASTLOG_KERNELS(avx512, 16, false, __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,bmi,bmi2"))))
FASTLOG_KERNELS(avx512vbmi, 16, true, __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,bmi,bmi2"))))
#endif
#undef FASTLOG_KERNELS

const std::vector<const Kernels*>& available_kernels() {
  static const std::vector<const Kernels*> available = [] {
    std::vector<const Kernels*> found{&baseline::kernels};
#if defined(__x86_64__)
    const bool bmi = __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
    if (bmi && __builtin_cpu_supports("avx2")) found.push_back(&avx2::kernels);
    if (bmi && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
      found.push_back(&avx512::kernels);
      if (__builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2") &&
          __builtin_cpu_supports("avx512vpopcntdq") && __builtin_cpu_supports("gfni")) {
        found.push_back(&avx512vbmi::kernels);
      }
    }
#endif
    return found;
  }();
  return available;
}

static const Kernels& find_kernels(const std::string& name) {
  std::string names;
  for (const Kernels* kernels : available_kernels()) {
    if (name == kernels->name) return *kernels;
    names += names.empty() ? kernels->name : std::string(", ") + kernels->name;
  }
  throw std::invalid_argument("FASTLOG_CPU_ISA: no path \"" + name + "\" on this CPU; there are: " + names);
}

static const Kernels*& current_kernels() {
  static const Kernels* current = [] {
    const char* forced = std::getenv("FASTLOG_CPU_ISA");
    return forced != nullptr && *forced != '\0' ? &find_kernels(forced) : available_kernels().back();
  }();
  return current;
}

const Kernels& chosen_kernels() { return *current_kernels(); }

void choose_kernels(const std::string& name) { current_kernels() = &find_kernels(name); }

}  // namespace fastlog::cpu
