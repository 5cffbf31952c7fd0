#include "events/crc32c.h"

#include <array>
#include <cstring>

#if defined(__x86_64__)
#include <nmmintrin.h>
#define FASTLOG_CRC32C_PATH "sse4.2"
#elif defined(__aarch64__) && defined(__linux__)
#include <arm_acle.h>
#include <asm/hwcap.h>
#include <sys/auxv.h>
#define FASTLOG_CRC32C_PATH "armv8"
#endif

namespace fastlog::events {
namespace {

constexpr std::uint32_t kPolynomial = 0x82f63b78u;  // reflected
constexpr int kStride = 8;

using Tables = std::array<std::array<std::uint32_t, 256>, kStride>;

// tables[k][b]: the checksum's change by byte b followed by k zero bytes.
constexpr Tables make_tables() {
  Tables tables{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (crc & 1 ? kPolynomial : 0);
    tables[0][byte] = crc;
  }
  for (int k = 1; k < kStride; ++k) {
    for (int byte = 0; byte < 256; ++byte) {
      const std::uint32_t crc = tables[k - 1][byte];
      tables[k][byte] = (crc >> 8) ^ tables[0][crc & 0xff];
    }
  }
  return tables;
}
constexpr Tables kTables = make_tables();

std::uint32_t load32(const unsigned char* at) {
  return static_cast<std::uint32_t>(at[0]) | static_cast<std::uint32_t>(at[1]) << 8 |
         static_cast<std::uint32_t>(at[2]) << 16 | static_cast<std::uint32_t>(at[3]) << 24;
}

#ifdef FASTLOG_CRC32C_PATH
#if defined(__x86_64__)
#define FASTLOG_CRC32C_TARGET __attribute__((target("sse4.2")))
FASTLOG_CRC32C_TARGET inline std::uint64_t add_word(std::uint64_t crc, std::uint64_t word) {
  return _mm_crc32_u64(crc, word);
}
FASTLOG_CRC32C_TARGET inline std::uint32_t add_byte(std::uint32_t crc, unsigned char byte) {
  return _mm_crc32_u8(crc, byte);
}
bool has_instruction() { return __builtin_cpu_supports("sse4.2") != 0; }
#else
#define FASTLOG_CRC32C_TARGET __attribute__((target("+crc")))
FASTLOG_CRC32C_TARGET inline std::uint64_t add_word(std::uint64_t crc, std::uint64_t word) {
  return __crc32cd(static_cast<std::uint32_t>(crc), word);
}
FASTLOG_CRC32C_TARGET inline std::uint32_t add_byte(std::uint32_t crc, unsigned char byte) {
  return __crc32cb(crc, byte);
}
bool has_instruction() { return (getauxval(AT_HWCAP) & HWCAP_CRC32) != 0; }
#endif

FASTLOG_CRC32C_TARGET std::uint32_t crc32c_by_instruction(const void* data, std::size_t size) {
  const auto* at = static_cast<const unsigned char*>(data);
  std::uint64_t crc = 0xffffffffu;
  for (; size >= 8; at += 8, size -= 8) {
    std::uint64_t word;
    std::memcpy(&word, at, sizeof(word));
    crc = add_word(crc, word);
  }
  auto low = static_cast<std::uint32_t>(crc);
  for (; size > 0; ++at, --size) low = add_byte(low, *at);
  return ~low;
}
#else
#define FASTLOG_CRC32C_PATH "portable"
bool has_instruction() { return false; }
std::uint32_t crc32c_by_instruction(const void* data, std::size_t size) { return crc32c_portable(data, size); }
#endif

}  // namespace

std::uint32_t crc32c_portable(const void* data, std::size_t size) {
  const auto* at = static_cast<const unsigned char*>(data);
  std::uint32_t crc = 0xffffffffu;
  for (; size >= kStride; at += kStride, size -= kStride) {
    const std::uint32_t low = crc ^ load32(at);
    const std::uint32_t high = load32(at + 4);
    crc = kTables[7][low & 0xff] ^ kTables[6][low >> 8 & 0xff] ^ kTables[5][low >> 16 & 0xff] ^ kTables[4][low >> 24] ^
          kTables[3][high & 0xff] ^ kTables[2][high >> 8 & 0xff] ^ kTables[1][high >> 16 & 0xff] ^
          kTables[0][high >> 24];
  }
  for (; size > 0; ++at, --size) crc = (crc >> 8) ^ kTables[0][(crc ^ *at) & 0xff];
  return ~crc;
}

std::uint32_t crc32c(const void* data, std::size_t size) {
  static const bool fast = has_instruction();
  return fast ? crc32c_by_instruction(data, size) : crc32c_portable(data, size);
}

const char* crc32c_path() { return has_instruction() ? FASTLOG_CRC32C_PATH : "portable"; }

}  // namespace fastlog::events
