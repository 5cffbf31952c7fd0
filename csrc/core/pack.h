// Summaries as they travel: the counters and moments, then the occupied span of bins, run-length coded.
//
//   14 x int64, 5 x double (the order of Summary) | int32 first bin | int32 span | counts of the span as LEB128
//   varints, a zero count followed by (length of its run - 1)
//
// Little endian, usually well under 2 KB. A format between the parts of one process or one job, not an archive.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#include "core/summary.h"

namespace fastlog {

inline constexpr std::size_t kPackedHead = 8 * (kCounters + kMoments);

// Writes at most kMaxVarint bytes and returns their end.
inline constexpr std::size_t kMaxVarint = 10;
inline char* put_varint(char* out, std::uint64_t value) {
  while (value >= 0x80) {
    *out++ = static_cast<char>(value | 0x80);
    value >>= 7;
  }
  *out++ = static_cast<char>(value);
  return out;
}

// Returns false at the end of the data or beyond 64 bits.
inline bool get_varint(const std::uint8_t*& at, const std::uint8_t* end, std::uint64_t& value) {
  value = 0;
  for (int shift = 0; shift < 64 && at < end; shift += 7) {
    const std::uint8_t byte = *at++;
    value |= static_cast<std::uint64_t>(byte & 0x7f) << shift;
    if (byte < 0x80) return true;
  }
  return false;
}

inline std::string pack(const Summary& summary) {
  int first = 0;
  int last = kBins;
  while (first < last && summary.counts[first] == 0) ++first;
  while (last > first && summary.counts[last - 1] == 0) --last;
  const std::int32_t span[2] = {first, last - first};
  char packed[kPackedHead + sizeof(span) + kBins * kMaxVarint];
  std::memcpy(packed, &summary.underflow, kPackedHead);
  std::memcpy(packed + kPackedHead, span, sizeof(span));
  char* out = packed + kPackedHead + sizeof(span);
  for (int bin = first; bin < last;) {
    out = put_varint(out, static_cast<std::uint64_t>(summary.counts[bin]));
    if (summary.counts[bin] != 0) {
      ++bin;
      continue;
    }
    int run = 1;
    while (summary.counts[bin + run] == 0) ++run;  // ends: the span's last count is not zero
    out = put_varint(out, static_cast<std::uint64_t>(run - 1));
    bin += run;
  }
  return {packed, out};
}

// Returns false, leaving `out` unspecified, unless the data are exactly one packed summary.
inline bool unpack(const std::uint8_t* data, std::size_t size, Summary& out) {
  std::int32_t span[2];
  if (size < kPackedHead + sizeof(span)) return false;
  out = Summary{};
  std::memcpy(static_cast<void*>(&out.underflow), data, kPackedHead);
  std::memcpy(span, data + kPackedHead, sizeof(span));
  if (span[0] < 0 || span[1] < 0 || span[0] > kBins || span[1] > kBins - span[0]) return false;
  const std::uint8_t* at = data + kPackedHead + sizeof(span);
  const std::uint8_t* const end = data + size;
  const int last = span[0] + span[1];
  for (int bin = span[0]; bin < last;) {
    std::uint64_t count = 0;
    if (!get_varint(at, end, count)) return false;
    if (count != 0) {
      out.counts[bin++] = static_cast<std::int64_t>(count);
      continue;
    }
    std::uint64_t run_less_one = 0;
    if (!get_varint(at, end, run_less_one)) return false;
    // A span begins and ends with an occupied bin.
    if (bin == span[0] || run_less_one + 1 >= static_cast<std::uint64_t>(last - bin)) return false;
    bin += static_cast<int>(run_less_one) + 1;
  }
  return at == end;
}

}  // namespace fastlog
