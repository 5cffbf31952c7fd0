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

namespace fastlog {
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

double edge(int i) {
  const auto& magnitudes = magnitude_edges();
  if (i == kMagnitudes) return 0;
  return i < kMagnitudes ? -magnitudes[kMagnitudes - 1 - i] : magnitudes[i - kMagnitudes - 1];
}

// Everything that the event says about a packed summary but its counts, which `at` leads to.
struct HistogramView {
  std::array<double, 5> moments;  // min, max, num, sum, sum_squares
  std::int64_t underflow, overflow;
  int first, last;  // the bins at `counts`
  int start, end;   // the buckets in the event: those, and the end bins where something lies beyond them
  const std::uint8_t* at;
  const std::uint8_t* data_end;

  std::size_t buckets() const { return start < end ? static_cast<std::size_t>(end - start) + 1 : 0; }
  std::size_t size() const {
    std::size_t total = 0;
    for (const double moment : moments) total += double_size(moment);
    return total + (buckets() ? 2 * delimited_size(8 * buckets()) : 0);
  }
};

[[noreturn]] void malformed() { throw std::invalid_argument("fastlog: malformed packed summary"); }

HistogramView view_histogram(std::string_view packed) {
  // The head of the packed form lies as in Summary; the counts stay where they are.
  struct Head {
    std::int64_t counters[kCounters];
    double min, max, abs_max, sum, sum_squares;
    std::int32_t first, span;
  } head;
  static_assert(sizeof(head) == kPackedHead + 8);
  if (packed.size() < sizeof(head)) malformed();
  std::memcpy(&head, packed.data(), sizeof(head));
  if (head.first < 0 || head.span < 0 || head.first > kBins || head.span > kBins - head.first) malformed();

  HistogramView view{};
  view.underflow = head.counters[0];
  view.overflow = head.counters[1];
  view.first = head.first;
  view.last = head.first + head.span;
  view.start = view.underflow ? 0 : head.span ? view.first : kBins - 1;
  view.end = view.overflow ? kBins : head.span ? view.last : 1;
  if (!view.underflow && !view.overflow && !head.span) view.start = view.end = 0;
  view.at = reinterpret_cast<const std::uint8_t*>(packed.data()) + sizeof(head);
  view.data_end = reinterpret_cast<const std::uint8_t*>(packed.data()) + packed.size();
  const auto num = static_cast<double>(head.counters[kCounters - 2]);
  // TensorBoard reads the extremes as float32.
  constexpr double kMost = std::numeric_limits<float>::max();
  const bool any = head.counters[kCounters - 1] != 0;
  view.moments = {any ? std::clamp(head.min, -kMost, kMost) : 0, any ? std::clamp(head.max, -kMost, kMost) : 0, num,
                  any ? head.sum : 0, any ? head.sum_squares : 0};
  return view;
}

void write_histogram(HistogramView view, Cursor& out) {
  for (int i = 0; i < 5; ++i) out.double_field(static_cast<char>(kHistoMin + (i << 3)), view.moments[i]);
  const std::size_t buckets = view.buckets();
  if (buckets == 0) {
    if (view.at != view.data_end) malformed();
    return;
  }
  // TensorBoard knows right edges only: an empty bucket in front carries the first left edge.
  out.delimited(kHistoLimits, 8 * buckets);
  for (int i = view.start; i <= view.end; ++i) out.fixed(edge(i));
  out.delimited(kHistoCounts, 8 * buckets);
  char* const counts = out.at();
  std::memset(counts, 0, 8 * buckets);
  const auto add = [&](int bin, std::uint64_t count) {
    char* const slot = counts + 8 * (bin - view.start + 1);
    double total;
    std::memcpy(&total, slot, sizeof(total));
    total += static_cast<double>(count);
    std::memcpy(slot, &total, sizeof(total));
  };
  for (int bin = view.first; bin < view.last;) {
    std::uint64_t count = 0;
    if (!get_varint(view.at, view.data_end, count)) malformed();
    if (count != 0) {
      add(bin++, count);
      continue;
    }
    std::uint64_t run_less_one = 0;
    if (!get_varint(view.at, view.data_end, run_less_one)) malformed();
    // A span begins and ends with an occupied bin.
    if (bin == view.first || run_less_one + 1 >= static_cast<std::uint64_t>(view.last - bin)) malformed();
    bin += static_cast<int>(run_less_one) + 1;
  }
  if (view.at != view.data_end) malformed();
  if (view.underflow) add(0, static_cast<std::uint64_t>(view.underflow));
  if (view.overflow) add(kBins - 1, static_cast<std::uint64_t>(view.overflow));
  out = Cursor(counts + 8 * buckets);
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
decltype(auto) visit_event(const EventView& event, Visitor&& visitor) {
  if (event.kind == kScalarEvent) return visitor(static_cast<const HistogramView*>(nullptr));
  if (event.kind != kHistogramEvent) throw std::invalid_argument("fastlog: unknown kind of event");
  const HistogramView histogram = view_histogram(event.payload);
  return visitor(&histogram);
}

}  // namespace

std::size_t framed_size(const EventView& event) {
  const std::size_t size =
      event.kind == kRawEvent ? event.payload.size() : visit_event(event, [&](const HistogramView* histogram) {
        return measure(event, histogram).event;
      });
  if (size > kMaxProto) throw std::invalid_argument("fastlog: an event over 2 GiB");
  return size + kFrame;
}

char* write_framed(const EventView& event, char* out) {
  Cursor body(out + 12);
  if (event.kind == kRawEvent) {
    body.bytes(event.payload);
  } else {
    visit_event(event, [&](const HistogramView* histogram) {
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

std::string encode_events(const std::vector<EventView>& events) {
  std::size_t total = 0;
  for (const EventView& event : events) total += framed_size(event);
  std::string records(total, '\0');
  char* at = records.data();
  for (const EventView& event : events) at = write_framed(event, at);
  return records;
}

}  // namespace fastlog
