// Element types: their codes, their size, their exact value, and the only dtype visitor.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "core/host_device.h"

namespace fastlog {

// Summaries travel between processes with these codes: append, never renumber.
enum class DType : std::uint8_t {
  kFloat64 = 0,
  kFloat32 = 1,
  kFloat16 = 2,
  kBFloat16 = 3,
  kFloat8E4M3FN = 4,
  kFloat8E5M2 = 5,
  kFloat8E4M3FNUZ = 6,
  kFloat8E5M2FNUZ = 7,
  kFloat8E8M0FNU = 8,
  kInt8 = 9,
  kInt16 = 10,
  kInt32 = 11,
  kInt64 = 12,
  kUInt8 = 13,
  kUInt16 = 14,
  kUInt32 = 15,
  kUInt64 = 16,
  kBool = 17,
};
inline constexpr int kDTypeCount = 18;

// As torch, NumPy and ml_dtypes call them, by code.
inline constexpr const char* kDTypeNames[kDTypeCount] = {
    "float64",         "float32",         "float16",        "bfloat16", "float8_e4m3fn", "float8_e5m2",
    "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu", "int8",     "int16",         "int32",
    "int64",           "uint8",           "uint16",         "uint32",   "uint64",        "bool",
};

template <class To, class From>
FASTLOG_HD inline To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}

// Which bit patterns are no finite value. kIeee: those with the largest exponent are infinities and NaN.
// kFn has no infinities: the largest magnitude is NaN. kFnuz has none either: the pattern of negative zero is NaN,
// and the bias is larger by one.
enum class Specials { kIeee, kFn, kFnuz };

// Value of a small binary float given by its bits: 1 sign bit, `kExponentBits`, `kMantissaBits`.
template <int kExponentBits, int kMantissaBits, Specials kSpecials>
FASTLOG_HD inline float small_float_value(std::uint32_t bits) {
  // Masks instead of branches: loops over it become vector code.
  constexpr std::uint32_t kSign = 1u << (kExponentBits + kMantissaBits);
  constexpr std::uint32_t kExponent = kSign - (1u << kMantissaBits);
  constexpr int kBias = (1 << (kExponentBits - 1)) - (kSpecials == Specials::kFnuz ? 0 : 1);
  constexpr std::uint32_t kInfinity = 0x7f800000u;
  constexpr std::uint32_t kNan = 0x7fc00000u;
  const std::uint32_t magnitude = bits & (kSign - 1);
  const std::uint32_t shifted = magnitude << (23 - kMantissaBits);
  const std::uint32_t normal = shifted + (static_cast<std::uint32_t>(127 - kBias) << 23);
  // mantissa * 2^(1 - bias - mantissa bits), exact in float32
  const float unit = bit_cast<float>(static_cast<std::uint32_t>(127 + 1 - kBias - kMantissaBits) << 23);
  const auto subnormal = bit_cast<std::uint32_t>(static_cast<float>(static_cast<std::int32_t>(magnitude)) * unit);
  const std::uint32_t is_subnormal = 0u - static_cast<std::uint32_t>(magnitude < (1u << kMantissaBits));
  std::uint32_t value = (subnormal & is_subnormal) | (normal & ~is_subnormal);
  if (kSpecials == Specials::kIeee) value |= (0u - static_cast<std::uint32_t>(magnitude >= kExponent)) & kInfinity;
  if (kSpecials == Specials::kFn) value |= (0u - static_cast<std::uint32_t>(magnitude == kSign - 1)) & kNan;
  if (kSpecials == Specials::kFnuz) value |= (0u - static_cast<std::uint32_t>(bits == kSign)) & kNan;
  value |= (bits & kSign) << (31 - kExponentBits - kMantissaBits);
  return bit_cast<float>(value);
}

// One tag type per dtype: `Storage` as it lies in memory, `Wide` (float or double) that holds every
// value exactly (64-bit integers round to the nearest double first), `kPatterns` if the storage has
// so few bit patterns that counting them is a way to summarise (else 0).
struct Float64 {
  using Storage = double;
  using Wide = double;
  static constexpr int kPatterns = 0;
  FASTLOG_HD static Wide widen(Storage x) { return x; }
};
struct Float32 {
  using Storage = float;
  using Wide = float;
  static constexpr int kPatterns = 0;
  FASTLOG_HD static Wide widen(Storage x) { return x; }
};
struct BFloat16 {
  using Storage = std::uint16_t;
  using Wide = float;
  static constexpr int kPatterns = 65536;
  FASTLOG_HD static Wide widen(Storage x) { return bit_cast<float>(static_cast<std::uint32_t>(x) << 16); }
};
template <class StorageT, int kExponentBits, int kMantissaBits, Specials kSpecials>
struct SmallFloat {
  using Storage = StorageT;
  using Wide = float;
  static constexpr int kPatterns = 1 << (8 * sizeof(Storage));
  FASTLOG_HD static Wide widen(Storage x) { return small_float_value<kExponentBits, kMantissaBits, kSpecials>(x); }
};
using Float16 = SmallFloat<std::uint16_t, 5, 10, Specials::kIeee>;
using Float8E4M3FN = SmallFloat<std::uint8_t, 4, 3, Specials::kFn>;
using Float8E5M2 = SmallFloat<std::uint8_t, 5, 2, Specials::kIeee>;
using Float8E4M3FNUZ = SmallFloat<std::uint8_t, 4, 3, Specials::kFnuz>;
using Float8E5M2FNUZ = SmallFloat<std::uint8_t, 5, 2, Specials::kFnuz>;
// Powers of two without sign: 2^(bits - 127); 255 is NaN.
struct Float8E8M0FNU {
  using Storage = std::uint8_t;
  using Wide = float;
  static constexpr int kPatterns = 256;
  FASTLOG_HD static Wide widen(Storage x) {
    if (x == 255) return bit_cast<float>(0x7fc00000u);
    return bit_cast<float>(x ? static_cast<std::uint32_t>(x) << 23 : 0x00400000u);
  }
};
template <class StorageT, class WideT>
struct Integer {
  using Storage = StorageT;
  using Wide = WideT;
  static constexpr int kPatterns = sizeof(Storage) == 1 ? 256 : 0;
  FASTLOG_HD static Wide widen(Storage x) { return static_cast<Wide>(x); }
};
// Any nonzero byte is true.
struct Bool {
  using Storage = std::uint8_t;
  using Wide = float;
  static constexpr int kPatterns = 256;
  FASTLOG_HD static Wide widen(Storage x) { return x ? 1.0f : 0.0f; }
};

// Calls visitor(Tag{}) with the tag type of `dtype`.
template <class Visitor>
decltype(auto) visit_dtype(DType dtype, Visitor&& visitor) {
  switch (dtype) {
    case DType::kFloat64: return visitor(Float64{});
    case DType::kFloat32: return visitor(Float32{});
    case DType::kFloat16: return visitor(Float16{});
    case DType::kBFloat16: return visitor(BFloat16{});
    case DType::kFloat8E4M3FN: return visitor(Float8E4M3FN{});
    case DType::kFloat8E5M2: return visitor(Float8E5M2{});
    case DType::kFloat8E4M3FNUZ: return visitor(Float8E4M3FNUZ{});
    case DType::kFloat8E5M2FNUZ: return visitor(Float8E5M2FNUZ{});
    case DType::kFloat8E8M0FNU: return visitor(Float8E8M0FNU{});
    case DType::kInt8: return visitor(Integer<std::int8_t, float>{});
    case DType::kInt16: return visitor(Integer<std::int16_t, float>{});
    case DType::kInt32: return visitor(Integer<std::int32_t, double>{});
    case DType::kInt64: return visitor(Integer<std::int64_t, double>{});
    case DType::kUInt8: return visitor(Integer<std::uint8_t, float>{});
    case DType::kUInt16: return visitor(Integer<std::uint16_t, float>{});
    case DType::kUInt32: return visitor(Integer<std::uint32_t, double>{});
    case DType::kUInt64: return visitor(Integer<std::uint64_t, double>{});
    case DType::kBool: return visitor(Bool{});
  }
  throw std::invalid_argument("unknown dtype code " + std::to_string(static_cast<int>(dtype)));
}

inline std::size_t item_size(DType dtype) {
  return visit_dtype(dtype, [](auto tag) { return sizeof(typename decltype(tag)::Storage); });
}

}  // namespace fastlog
