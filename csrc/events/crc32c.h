// CRC-32C (Castagnoli), and the masked form in which TFRecord files store it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastlog::events {

// By the CPU's own instruction where it has one.
std::uint32_t crc32c(const void* data, std::size_t size);

// The same value from tables: what CPUs without the instruction use.
std::uint32_t crc32c_portable(const void* data, std::size_t size);

// "sse4.2", "armv8" or "portable": what crc32c() uses on this CPU.
const char* crc32c_path();

// TFRecord's mask: a checksum stored next to the data it covers must not look like data with its checksum.
inline std::uint32_t mask_crc32c(std::uint32_t crc) { return ((crc >> 15) | (crc << 17)) + 0xa282ead8u; }

}  // namespace fastlog::events
