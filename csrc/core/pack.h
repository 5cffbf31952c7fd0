// Summaries as they travel: the counters and moments, then the occupied span of bins, run-length coded.
//
//   SummaryHead | Span | counts of the span as LEB128 varints, a zero count followed by (length of its run - 1)
//
// Little endian, usually well under 2 KB. A format between the parts of one process or one job, not an archive.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#include "core/summary.h"

namespace fastlog {

// The bins from the first to the last with something in them.
struct Span {
  std::int32_t first;
  std::int32_t length;
};

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
  const Span span{first, last - first};
  char packed[sizeof(SummaryHead) + sizeof(span) + kBins * kMaxVarint];
  std::memcpy(packed, static_cast<const SummaryHead*>(&summary), sizeof(SummaryHead));
  std::memcpy(packed + sizeof(SummaryHead), &span, sizeof(span));
  char* out = packed + sizeof(SummaryHead) + sizeof(span);
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

// Reads what stands before the counts, and returns where they begin; nullptr where the data are too short or the span
// is not within the bins.
inline const std::uint8_t* unpack_head(const std::uint8_t* data, std::size_t size, SummaryHead& head, Span& span) {
  if (size < sizeof(head) + sizeof(span)) return nullptr;
  std::memcpy(&head, data, sizeof(head));
  std::memcpy(&span, data + sizeof(head), sizeof(span));
  const bool within = span.first >= 0 && span.length >= 0 && span.first <= kBins && span.length <= kBins - span.first;
  return within ? data + sizeof(head) + sizeof(span) : nullptr;
}

// Returns false, leaving `out` unspecified, unless the data are exactly one packed summary.
inline bool unpack(const std::uint8_t* data, std::size_t size, Summary& out) {
  out = Summary{};
  Span span;
  const std::uint8_t* at = unpack_head(data, size, out, span);
  if (at == nullptr) return false;
  const std::uint8_t* const end = data + size;
  const int last = span.first + span.length;
  for (int bin = span.first; bin < last;) {
    std::uint64_t count = 0;
    if (!get_varint(at, end, count)) return false;
    if (count != 0) {
      out.counts[bin++] = static_cast<std::int64_t>(count);
      continue;
    }
    std::uint64_t run_less_one = 0;
    if (!get_varint(at, end, run_less_one)) return false;
    // A span begins and ends with an occupied bin.
    if (bin == span.first || run_less_one + 1 >= static_cast<std::uint64_t>(last - bin)) return false;
    bin += static_cast<int>(run_less_one) + 1;
  }
  return at == end;
}

}  // namespace fastlog
