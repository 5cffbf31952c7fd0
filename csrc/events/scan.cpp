#include "events/scan.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <limits>
#include <system_error>

#include "events/crc32c.h"
#include "events/wire.h"

namespace fastlog::events {
namespace {

constexpr std::size_t kHeader = 12;  // length and its checksum
constexpr std::size_t kFooter = 4;
constexpr std::size_t kPiece = std::size_t{4} << 20;

template <class Number>
Number load(const char* at) {
  Number number;
  std::memcpy(&number, at, sizeof(number));
  return number;
}

bool is_header(const char* at) { return load<std::uint32_t>(at + 8) == mask_crc32c(crc32c(at, 8)); }

class File {
 public:
  explicit File(const std::string& path) : path_(path), descriptor_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (descriptor_ < 0) fail();
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File() { ::close(descriptor_); }

  std::int64_t size() const {
    struct stat status{};
    if (::fstat(descriptor_, &status) != 0) fail();
    return status.st_size;
  }

  // Reads up to `size` bytes, fewer only at the end of the file.
  std::size_t read(char* into, std::size_t size, std::int64_t offset) const {
    std::size_t done = 0;
    while (done < size) {
      const ssize_t n = ::pread(descriptor_, into + done, size - done, offset + static_cast<std::int64_t>(done));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) fail();
      if (n == 0) break;
      done += static_cast<std::size_t>(n);
    }
    return done;
  }

 private:
  [[noreturn]] void fail() const { throw std::system_error(errno, std::generic_category(), path_); }

  std::string path_;
  int descriptor_;
};

// The one element of a TensorProto of numbers; NaN and false where it is none.
struct TensorScalar {
  double value = std::numeric_limits<double>::quiet_NaN();
  bool found = false;
};

TensorScalar tensor_scalar(std::string_view tensor) {
  enum Type { kFloat = 1, kDouble = 2, kInt32 = 3, kInt64 = 9 };
  std::int64_t type = 0;
  TensorScalar scalar;
  const auto take = [&](double value) { scalar = {value, true}; };
  for (Fields field(tensor); field.next();) {
    const std::string_view bytes = field.bytes();
    if (field.is_varint(1)) {
      type = field.as_int64();
    } else if (field.is_bytes(4)) {  // tensor_content
      if (type == kFloat && bytes.size() == 4) take(load<float>(bytes.data()));
      if (type == kDouble && bytes.size() == 8) take(load<double>(bytes.data()));
      if (type == kInt32 && bytes.size() == 4) take(load<std::int32_t>(bytes.data()));
      if (type == kInt64 && bytes.size() == 8) take(static_cast<double>(load<std::int64_t>(bytes.data())));
    } else if (field.is_bytes(5) && bytes.size() == 4) {  // float_val, packed
      take(load<float>(bytes.data()));
    } else if (field.is_fixed32(5)) {
      take(field.as_float());
    } else if (field.is_bytes(6) && bytes.size() == 8) {  // double_val, packed
      take(load<double>(bytes.data()));
    } else if (field.is_fixed64(6)) {
      take(field.as_double());
    }
  }
  return scalar;
}

void read_metadata(std::string_view metadata, Tag& tag) {
  for (Fields field(metadata); field.next();) {
    if (!field.is_bytes(1)) continue;
    for (Fields plugin(field.bytes()); plugin.next();) {
      if (plugin.is_bytes(1)) tag.plugin = plugin.bytes();
      if (plugin.is_bytes(2)) tag.content = plugin.bytes();
    }
  }
}

}  // namespace

void EventScan::read_file(const std::string& path) {
  const File file(path);
  std::string buffer;
  for (std::size_t want = kPiece;;) {
    const std::int64_t size = file.size();
    if (size <= end_) break;
    buffer.resize(std::min<std::uint64_t>(want, static_cast<std::uint64_t>(size - end_)));
    buffer.resize(file.read(buffer.data(), buffer.size(), end_));
    const std::int64_t before = end_;
    const std::size_t needed = take(buffer, size - end_ - static_cast<std::int64_t>(buffer.size()));
    if (needed == 0 && end_ == before) break;
    want = std::max(kPiece, needed);
  }
}

void EventScan::read_bytes(std::string_view contents) {
  const auto begin =
      static_cast<std::size_t>(std::min<std::uint64_t>(static_cast<std::uint64_t>(end_), contents.size()));
  take(contents.substr(begin), 0);
}

std::size_t EventScan::take(std::string_view piece, std::int64_t left) {
  std::size_t at = 0;
  const std::int64_t start = end_;
  torn_ = 0;
  const auto corrupt = [&](const char* what) {
    if (strict_) throw CorruptRecord(end_, what);
    const std::size_t next = next_header(piece, at + 1);
    skipped_ += static_cast<std::int64_t>(next - at);
    at = next;
    end_ = start + static_cast<std::int64_t>(at);
  };
  while (piece.size() - at >= kHeader) {
    const char* const header = piece.data() + at;
    if (!is_header(header)) {
      corrupt("the checksum of a record's length is wrong");
      continue;
    }
    const auto length = load<std::uint64_t>(header);
    const std::uint64_t here = piece.size() - at - kHeader;
    if (length > here || here - length < kFooter) {
      const std::uint64_t there = here + static_cast<std::uint64_t>(left);
      if (length > there || there - length < kFooter) break;  // torn, or still being written
      return kHeader + static_cast<std::size_t>(length) + kFooter;
    }
    const std::string_view event = piece.substr(at + kHeader, static_cast<std::size_t>(length));
    if (load<std::uint32_t>(event.data() + event.size()) != mask_crc32c(crc32c(event.data(), event.size()))) {
      corrupt("the checksum of a record is wrong");
      continue;
    }
    if (!take_event(event, end_ + static_cast<std::int64_t>(kHeader))) {
      if (strict_) throw CorruptRecord(end_, "a record holds no event");
      ++malformed_;
    }
    at += kHeader + event.size() + kFooter;
    end_ = start + static_cast<std::int64_t>(at);
  }
  torn_ = static_cast<std::int64_t>(piece.size() - at) + left;
  return left > 0 && piece.size() - at < kHeader ? kHeader : 0;
}

std::size_t EventScan::next_header(std::string_view piece, std::size_t from) const {
  for (; piece.size() - from >= kHeader; ++from) {
    // Most lengths are far below 2^32: four zero bytes are found faster than a checksum is made.
    if (load<std::uint32_t>(piece.data() + from + 4) == 0 && is_header(piece.data() + from)) return from;
  }
  return from;
}

bool EventScan::take_event(std::string_view event, std::int64_t offset) {
  Row row{0,          std::numeric_limits<double>::quiet_NaN(), 0, offset, static_cast<std::int64_t>(event.size()), -1,
          kUnknownRow};
  std::string_view summary;
  Fields field(event);
  const auto holds = [&](std::int32_t kind) {
    row.kind = kind;
    row.offset = offset + (field.bytes().data() - event.data());
    row.size = static_cast<std::int64_t>(field.bytes().size());
  };
  bool has_summary = false;
  while (field.next()) {
    if (field.is_fixed64(1)) row.wall_time = field.as_double();
    if (field.is_varint(2)) row.step = field.as_int64();
    if (field.is_bytes(3)) holds(kFileVersionRow);
    if (field.is_bytes(4)) holds(kGraphRow);
    if (field.is_bytes(5)) {
      summary = field.bytes();
      has_summary = true;
    }
    if (field.is_bytes(7)) {
      for (Fields log(field.bytes()); log.next();) {
        if (log.is_varint(1) && log.as_int64() == 1) holds(kSessionStartRow);
      }
    }
  }
  if (!field.whole()) return false;
  if (has_summary) return take_summary(summary, row, event.data(), offset);
  rows_.push_back(row);
  return true;
}

bool EventScan::take_summary(std::string_view summary, Row row, const char* event, std::int64_t offset) {
  const std::size_t rows_before = rows_.size();
  Fields field(summary);
  while (field.next()) {
    if (field.is_bytes(1) && !take_value(field.bytes(), row, event, offset)) {
      rows_.resize(rows_before);
      return false;
    }
  }
  if (!field.whole()) rows_.resize(rows_before);
  return field.whole();
}

bool EventScan::take_value(std::string_view value, Row row, const char* event, std::int64_t offset) {
  std::string_view name;
  std::string_view metadata;
  std::string_view payload = value;
  row.kind = kOtherRow;
  Fields field(value);
  const auto holds = [&](std::int32_t kind) {
    row.kind = kind;
    payload = field.bytes();
  };
  while (field.next()) {
    if (field.is_bytes(1)) name = field.bytes();
    if (field.is_fixed32(2)) {
      row.kind = kScalarRow;
      row.value = field.as_float();
    }
    if (field.is_bytes(4)) holds(kImageRow);
    if (field.is_bytes(5)) holds(kHistogramRow);
    if (field.is_bytes(6)) holds(kAudioRow);
    if (field.is_bytes(8)) holds(kTensorRow);
    if (field.is_bytes(9)) metadata = field.bytes();
  }
  if (!field.whole()) return false;
  row.tag = tag_of(name);
  Tag& tag = tags_[static_cast<std::size_t>(row.tag)];
  if (!metadata.empty() && tag.plugin.empty()) read_metadata(metadata, tag);
  if (row.kind == kTensorRow && tag.plugin == "scalars") {  // as TensorFlow 2 writes them
    const TensorScalar scalar = tensor_scalar(payload);
    if (scalar.found) {
      row.kind = kScalarRow;
      row.value = scalar.value;
    }
  }
  row.offset = offset + (payload.data() - event);
  row.size = static_cast<std::int64_t>(payload.size());
  rows_.push_back(row);
  return true;
}

std::int32_t EventScan::tag_of(std::string_view name) {
  const auto [found, is_new] = tag_numbers_.try_emplace(std::string(name), static_cast<std::int32_t>(tags_.size()));
  if (is_new) tags_.push_back({found->first, {}, {}});
  return found->second;
}

bool add_histogram(std::string_view proto, HistogramColumns& columns) {
  const std::size_t limits_before = columns.limits.size();
  double moments[5] = {};
  Fields field(proto);
  const auto append = [&field](std::vector<double>& to) {
    const std::size_t n = field.bytes().size() / sizeof(double);
    if (n == 0) return;  // the pointers may be null
    const std::size_t before = to.size();
    to.resize(before + n);
    std::memcpy(to.data() + before, field.bytes().data(), n * sizeof(double));
  };
  while (field.next()) {
    const std::uint32_t number = field.number();
    if (number >= 1 && number <= 5 && field.is_fixed64(number)) moments[number - 1] = field.as_double();
    if (field.is_bytes(6)) append(columns.limits);
    if (field.is_bytes(7)) append(columns.counts);
    if (field.is_fixed64(6)) columns.limits.push_back(field.as_double());
    if (field.is_fixed64(7)) columns.counts.push_back(field.as_double());
  }
  const bool fits = field.whole() && columns.limits.size() == columns.counts.size();
  if (!fits) {
    columns.limits.resize(limits_before);
    columns.counts.resize(limits_before);
  }
  columns.moments.insert(columns.moments.end(), moments, moments + 5);
  columns.ends.push_back(static_cast<std::int64_t>(columns.limits.size()));
  return fits;
}

bool read_histograms(const std::string& path, const std::vector<Extent>& extents, HistogramColumns& columns) {
  const File file(path);
  const std::int64_t end = file.size();
  std::string proto;
  bool whole = true;
  for (const Extent& extent : extents) {
    if (extent.offset < 0 || extent.size < 0 || extent.size > end || extent.offset > end - extent.size) {
      proto.assign(1, '\xff');  // no proto
    } else {
      proto.resize(static_cast<std::size_t>(extent.size));
      proto.resize(file.read(proto.data(), proto.size(), extent.offset));
    }
    whole = add_histogram(proto, columns) && whole;
  }
  return whole;
}

}  // namespace fastlog::events
