// What libFuzzer calls: reads the input as an event file, and as events in records whose checksums are right, since
// a fuzzer does not guess checksums. With FASTLOG_REPLAY a program that reads the files of a corpus instead.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include "events/crc32c.h"
#include "events/scan.h"

namespace {

namespace events = fastlog::events;

void append_number(std::string& to, const void* number, std::size_t size) {
  to.append(static_cast<const char*>(number), size);
}

// A TFRecord. Its length is true: the header's checksum would hide any other.
std::string record(std::string_view data) {
  const std::uint64_t size = data.size();
  std::string made;
  append_number(made, &size, sizeof size);
  const std::uint32_t of_size = events::mask_crc32c(events::crc32c(&size, sizeof size));
  append_number(made, &of_size, sizeof of_size);
  made.append(data);
  const std::uint32_t of_data = events::mask_crc32c(events::crc32c(data.data(), data.size()));
  append_number(made, &of_data, sizeof of_data);
  return made;
}

void check(bool right) {
  if (!right) __builtin_trap();
}

// Whatever was read: rows lie inside of the file, tags are known, and all bytes are accounted for.
void check_scan(const events::EventScan& scan, std::size_t size) {
  for (const events::Row& row : scan.rows()) {
    check(row.offset >= 0 && row.size >= 0);
    check(row.offset + row.size <= scan.end());
    check(row.tag >= -1 && row.tag < static_cast<std::int64_t>(scan.tags().size()));
  }
  check(scan.end() + scan.torn_bytes() == static_cast<std::int64_t>(size));
}

void read(const std::string& file, bool strict) {
  events::EventScan scan(strict);
  try {
    scan.read_bytes(file);
  } catch (const events::CorruptRecord& error) {
    check(strict && error.offset >= 0 && error.offset <= static_cast<std::int64_t>(file.size()));
    return;
  }
  check_scan(scan, file.size());
  events::HistogramColumns columns;
  for (const events::Row& row : scan.rows()) {
    if (row.kind == events::kHistogramRow) {
      events::add_histogram(std::string_view(file).substr(row.offset, row.size), columns);
      check(!columns.ends.empty() && columns.ends.back() == static_cast<std::int64_t>(columns.counts.size()));
    }
  }
}

// The same in two pieces must give the same rows: files grow while they are read.
void read_growing(const std::string& file, std::size_t at) {
  events::EventScan whole(false), grown(false);
  whole.read_bytes(file);
  grown.read_bytes(std::string_view(file).substr(0, at));
  grown.read_bytes(file);
  check(whole.rows().size() == grown.rows().size() && whole.end() == grown.end());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  if (input.empty()) return 0;
  const std::uint8_t way = static_cast<std::uint8_t>(input[0]);
  const std::string_view rest = input.substr(1);
  if (way % 4 == 0) {
    const std::string file(rest);
    read(file, true);
    read(file, false);
  } else if (way % 4 == 1) {
    const std::size_t half = rest.size() / (1 + way / 4 % 8);
    const std::string file = record(rest.substr(0, half)) + record(rest.substr(half));
    read(file, true);
    read(file, false);
    read_growing(file, rest.size() * (way / 32) / 8);
  } else if (way % 4 == 2) {  // good, bad, good: reading goes on behind what is corrupt
    const std::string good = record("");
    const std::string file = good + std::string(rest) + good;
    read(file, false);
    read(file, true);
  } else {
    events::HistogramColumns columns;
    events::add_histogram(rest, columns);
  }
  return 0;
}

#ifdef FASTLOG_REPLAY
int main(int count, char** paths) {
  for (int i = 1; i < count; ++i) {
    std::ifstream file(paths[i], std::ios::binary);
    const std::string data((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(data.data()), data.size());
  }
  std::puts("right");
}
#endif
