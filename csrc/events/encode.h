// TensorBoard events as framed records, byte for byte as tensorboardX's protos and record writer make them:
//
//   uint64 length | masked crc32c of it | Event proto | masked crc32c of it       (little endian)
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace fastlog::events {

enum EventKind : int { kScalarEvent = 0, kHistogramEvent = 1, kRawEvent = 2 };

// An event to encode. Owns nothing. Which members count depends on the kind:
//   scalar     tag, value (stored as float32), step, wall_time
//   histogram  tag, payload (a packed summary, core/pack.h), step, wall_time
//   raw        payload (a serialized Event proto)
struct EventView {
  int kind = kScalarEvent;
  std::string_view tag;
  double value = 0;
  std::optional<std::int64_t> step;
  double wall_time = 0;
  std::string_view payload;
};

// How much a histogram says of the buckets in which nothing lies.
enum class Buckets {
  kAll,      // each of them, as tensorboardX writes it
  kCompact,  // a run of them is one wide bucket, as TensorFlow's own writer (histogram.cc) makes it
};

// The HistogramProto of a packed summary. Throws std::invalid_argument where that is malformed.
std::string encode_histogram(std::string_view packed, Buckets style);

// Bytes of the framed record. Throws std::invalid_argument (unknown kind, malformed summary, over 2 GiB).
std::size_t framed_size(const EventView& event, Buckets style);

// Writes the framed record at `out`, which has room for framed_size(event) bytes; returns its end.
// Throws std::invalid_argument where the counts of a packed summary turn out to be malformed.
char* write_framed(const EventView& event, Buckets style, char* out);

// The records of all events, in order.
std::string encode_events(const std::vector<EventView>& events, Buckets style);

}  // namespace fastlog::events
