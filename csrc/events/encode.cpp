#include "events/encode.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "core/bins.h"
#include "core/pack.h"
#include "core/summary.h"
#include "events/crc32c.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "records are little endian");

namespace fastlog::events {
namespace {

constexpr std::size_t kFrame = 8 + 4 + 4;
constexpr std::size_t kMaxProto = std::numeric_limits<std::int32_t>::max();  // protobuf's own limit
constexpr std::size_t kDoubleField = 1 + 8;
constexpr std::size_t kFloatField = 1 + 4;

// Protobuf wire tags: (field number << 3) | wire type.
constexpr char kEventWallTime = 1 << 3 | 1;
constexpr char kEventStep = 2 << 3 | 0;
constexpr char kEventSummary = 5 << 3 | 2;
constexpr char kSummaryValue = 1 << 3 | 2;
constexpr char kValueTag = 1 << 3 | 2;
constexpr char kValueSimple = 2 << 3 | 5;
constexpr char kValueHisto = 5 << 3 | 2;
constexpr char kHistoMin = 1 << 3 | 1;  // then max, num, sum, sum_squares: the following fields
constexpr char kHistoLimits = 6 << 3 | 2;
constexpr char kHistoCounts = 7 << 3 | 2;

std::size_t varint_size(std::uint64_t value) {
  std::size_t size = 1;
  for (; value >= 0x80; value >>= 7) ++size;
  return size;
}

std::size_t delimited_size(std::size_t content) { return 1 + varint_size(content) + content; }

// proto3 leaves out zeros, but not the negative one.
bool is_default(double value) { return bit_cast<std::uint64_t>(value) == 0; }

std::size_t double_size(double value) { return is_default(value) ? 0 : kDoubleField; }

class Cursor {
 public:
  explicit Cursor(char* at) : at_(at) {}
  char* at() const { return at_; }
  template <class T>
  void fixed(T value) {
    std::memcpy(at_, &value, sizeof(value));
    at_ += sizeof(value);
  }
  void bytes(std::string_view data) {
    if (!data.empty()) std::memcpy(at_, data.data(), data.size());
    at_ += data.size();
  }
  void varint(std::uint64_t value) {
    for (; value >= 0x80; value >>= 7) *at_++ = static_cast<char>(value | 0x80);
    *at_++ = static_cast<char>(value);
  }
  void delimited(char tag, std::size_t size) {
    *at_++ = tag;
    varint(size);
  }
  void double_field(char tag, double value) {
    if (is_default(value)) return;
    *at_++ = tag;
    fixed(value);
  }

 private:
  char* at_;
};

// What the event says about a packed summary. The counts stay packed: visit_occupied reads them.
struct HistogramView {
  std::array<double, 5> moments;  // min, max, num, sum, sum_squares
  std::int64_t underflow, overflow;
  int first, last;  // the bins at `at`
  const std::uint8_t* at;
  const std::uint8_t* data_end;
  Buckets style;
  int start;            // the first bin with a bucket
  std::size_t buckets;  // in the event

  std::size_t size() const {
    std::size_t total = 0;
    for (const double moment : moments) total += double_size(moment);
    return total + (buckets ? 2 * delimited_size(8 * buckets) : 0);
  }
};

[[noreturn]] void malformed() { throw std::invalid_argument("fastlog: malformed packed summary"); }

// Calls visitor(bin, count) for each bin with something in it, in order; what lies beyond the edges is in the end bins.
template <class Visitor>
void visit_occupied(const HistogramView& view, Visitor&& visitor) {
  const auto beyond = [&view](int bin) {
    return (bin == 0 ? static_cast<double>(view.underflow) : 0) +
           (bin == kBins - 1 ? static_cast<double>(view.overflow) : 0);
  };
  if (view.underflow && (view.first > 0 || view.first == view.last)) visitor(0, beyond(0));
  const std::uint8_t* at = view.at;
  for (int bin = view.first; bin < view.last;) {
    std::uint64_t count = 0;
    if (!get_varint(at, view.data_end, count)) malformed();
    if (count != 0) {
      visitor(bin, static_cast<double>(count) + beyond(bin));
      ++bin;
      continue;
    }
    std::uint64_t run_less_one = 0;
    if (!get_varint(at, view.data_end, run_less_one)) malformed();
    // A span begins and ends with an occupied bin.
    if (bin == view.first || run_less_one + 1 >= static_cast<std::uint64_t>(view.last - bin)) malformed();
    bin += static_cast<int>(run_less_one) + 1;
  }
  if (at != view.data_end) malformed();
  if (view.overflow && (view.last < kBins || view.first == view.last)) visitor(kBins - 1, beyond(kBins - 1));
}

HistogramView view_histogram(std::string_view packed, Buckets style) {
  SummaryHead head;
  Span span;
  const auto* const begin = reinterpret_cast<const std::uint8_t*>(packed.data());
  const std::uint8_t* const counts = unpack_head(begin, packed.size(), head, span);
  if (counts == nullptr) malformed();

  HistogramView view{};
  view.underflow = head.underflow;
  view.overflow = head.overflow;
  view.first = span.first;
  view.last = span.first + span.length;
  view.at = counts;
  view.data_end = begin + packed.size();
  view.style = style;
  const auto num = static_cast<double>(head.num);
  // TensorBoard reads the extremes as float32.
  constexpr double kMost = std::numeric_limits<float>::max();
  const bool any = head.num_finite != 0;
  view.moments = {any ? std::clamp(head.min, -kMost, kMost) : 0, any ? std::clamp(head.max, -kMost, kMost) : 0, num,
                  any ? head.sum : 0, any ? head.sum_squares : 0};

  view.start = view.underflow ? 0 : span.length ? view.first : kBins - 1;
  if (style == Buckets::kAll) {
    const int end = view.overflow ? kBins : span.length ? view.last : 1;
    if (span.length || view.underflow || view.overflow) view.buckets = static_cast<std::size_t>(end - view.start) + 1;
  } else {
    int next = -1;  // the bin after the last occupied one
    visit_occupied(view, [&](int bin, double) {
      view.buckets += bin == next ? 1 : 2;
      next = bin + 1;
    });
  }
  return view;
}

void write_histogram(const HistogramView& view, Cursor& out) {
  for (int i = 0; i < 5; ++i) out.double_field(static_cast<char>(kHistoMin + (i << 3)), view.moments[i]);
  const std::size_t bytes = 8 * view.buckets;
  if (bytes == 0) {
    if (view.at != view.data_end) malformed();
    return;
  }
  out.delimited(kHistoLimits, bytes);
  Cursor limits(out.at());
  out = Cursor(out.at() + bytes);
  out.delimited(kHistoCounts, bytes);
  Cursor counts(out.at());
  // TensorBoard knows right edges only: an empty bucket in front carries the first left edge.
  int next = view.start;
  const auto put_empty = [&](int until) {
    limits.fixed(edge(until));
    counts.fixed(0.0);
  };
  put_empty(next);
  visit_occupied(view, [&](int bin, double count) {
    if (view.style == Buckets::kAll) {
      while (next < bin) put_empty(++next);
    } else if (next < bin) {
      put_empty(bin);
    }
    next = bin + 1;
    limits.fixed(edge(next));
    counts.fixed(count);
  });
  out = counts;
}

// The lengths of the nested messages of a scalar or histogram event.
struct Sizes {
  std::size_t content;  // what stands beside the tag: the simple_value field, or the histogram message
  std::size_t value, summary, event;
};

Sizes measure(const EventView& event, const HistogramView* histogram) {
  Sizes sizes{};
  sizes.content = histogram ? histogram->size() : kFloatField;
  sizes.value = (event.tag.empty() ? 0 : delimited_size(event.tag.size())) +
                (histogram ? delimited_size(sizes.content) : sizes.content);
  sizes.summary = delimited_size(sizes.value);
  const std::int64_t step = event.step.value_or(0);
  sizes.event = double_size(event.wall_time) + (step ? 1 + varint_size(static_cast<std::uint64_t>(step)) : 0) +
                delimited_size(sizes.summary);
  return sizes;
}

void write_event(const EventView& event, const HistogramView* histogram, const Sizes& sizes, Cursor& out) {
  out.double_field(kEventWallTime, event.wall_time);
  if (const std::int64_t step = event.step.value_or(0)) {
    out.fixed(kEventStep);
    out.varint(static_cast<std::uint64_t>(step));
  }
  out.delimited(kEventSummary, sizes.summary);
  out.delimited(kSummaryValue, sizes.value);
  if (!event.tag.empty()) {
    out.delimited(kValueTag, event.tag.size());
    out.bytes(event.tag);
  }
  if (histogram) {
    out.delimited(kValueHisto, sizes.content);
    write_histogram(*histogram, out);
  } else {
    out.fixed(kValueSimple);
    out.fixed(static_cast<float>(event.value));
  }
}

// Calls visitor(histogram or nullptr) for a scalar or histogram event.
template <class Visitor>
decltype(auto) visit_event(const EventView& event, Buckets style, Visitor&& visitor) {
  if (event.kind == kScalarEvent) return visitor(static_cast<const HistogramView*>(nullptr));
  if (event.kind != kHistogramEvent) throw std::invalid_argument("fastlog: unknown kind of event");
  const HistogramView histogram = view_histogram(event.payload, style);
  return visitor(&histogram);
}

}  // namespace

std::string encode_histogram(std::string_view packed, Buckets style) {
  const HistogramView histogram = view_histogram(packed, style);
  std::string proto(histogram.size(), '\0');
  Cursor out(proto.data());
  write_histogram(histogram, out);
  return proto;
}

std::size_t framed_size(const EventView& event, Buckets style) {
  const std::size_t size =
      event.kind == kRawEvent
          ? event.payload.size()
          : visit_event(event, style, [&](const HistogramView* histogram) { return measure(event, histogram).event; });
  if (size > kMaxProto) throw std::invalid_argument("fastlog: an event over 2 GiB");
  return size + kFrame;
}

char* write_framed(const EventView& event, Buckets style, char* out) {
  Cursor body(out + 12);
  if (event.kind == kRawEvent) {
    body.bytes(event.payload);
  } else {
    visit_event(event, style, [&](const HistogramView* histogram) {
      write_event(event, histogram, measure(event, histogram), body);
    });
  }
  const auto size = static_cast<std::uint64_t>(body.at() - (out + 12));
  Cursor head(out);
  head.fixed(size);
  head.fixed(mask_crc32c(crc32c(out, 8)));
  body.fixed(mask_crc32c(crc32c(out + 12, size)));
  return body.at();
}

std::string encode_events(const std::vector<EventView>& events, Buckets style) {
  std::size_t total = 0;
  for (const EventView& event : events) total += framed_size(event, style);
  std::string records(total, '\0');
  char* at = records.data();
  for (const EventView& event : events) at = write_framed(event, style, at);
  return records;
}

}  // namespace fastlog::events
