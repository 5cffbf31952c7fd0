// What the core makes of generated tensors and events, for comparing two CPUs: a line for each case, its bytes in hex.
// Nothing here depends on the CPU or on its C library: no function of <cmath> makes a value.
//
//   portable_main FILE...                     all cases; files are read as event files besides
//   portable_main count DTYPE CONTENT N TIMES summarises N values so many times: for counting instructions
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "core/tensor_view.h"
#include "cpu/engine.h"
#include "cpu/kernels.h"
#include "events/crc32c.h"
#include "events/encode.h"
#include "events/scan.h"

namespace {

namespace events = fastlog::events;
using fastlog::bit_cast;
using fastlog::DType;
using fastlog::TensorView;

constexpr std::int64_t kCounts[] = {0, 1, 17, 2047, 2049, 9001, 70001, 200000};
constexpr std::int64_t kSmall = 10000;  // larger ones of some dtypes alone
constexpr const char* kContents[] = {"gaussian", "zeros",     "constant", "two-valued",
                                     "heavy",    "denormals", "special",  "patterns"};

// Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators".
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next() {
    std::uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }

 private:
  std::uint64_t state_;
};

// Near enough to a Gaussian: the sum of four uniform numbers.
double bell(std::uint64_t word) {
  const auto sum =
      static_cast<std::int64_t>((word & 0xffff) + (word >> 16 & 0xffff) + (word >> 32 & 0xffff) + (word >> 48));
  return static_cast<double>(sum - 131070) / 37837.0;
}

double special(std::uint64_t word) {
  switch (word >> 60) {
    case 0: return std::numeric_limits<double>::quiet_NaN();
    case 1: return std::numeric_limits<double>::infinity();
    case 2: return -std::numeric_limits<double>::infinity();
    case 3: return 0.0;
    case 4: return -0.0;
    case 5: return 1e-310;
    case 6: return -1e-40;
    case 7: return 1e30;
    default: return bell(word);
  }
}

double value_of(std::string_view content, std::uint64_t word) {
  if (content == "gaussian") return bell(word);
  if (content == "zeros") return word % 64 == 0 ? bell(word) : 0.0;
  if (content == "constant") return 0.1;
  if (content == "two-valued") return word % 3 == 0 ? -0.25 : 3.0;
  if (content == "heavy") return bell(word) / (static_cast<double>(word % 8191) + 1) * static_cast<double>(word >> 50);
  if (content == "denormals") return bell(word) * (word % 2 == 0 ? 1e-39 : 1e-308);
  return special(word);
}

// A value as this dtype: by cutting bits off, since that needs no rules of rounding. `patterns`: any bits.
std::uint64_t bits_of(DType dtype, std::string_view content, std::uint64_t word) {
  if (content == "patterns") return word;
  const double value = value_of(content, word);
  const auto narrow = bit_cast<std::uint32_t>(static_cast<float>(value));
  switch (dtype) {
    case DType::kFloat64: return bit_cast<std::uint64_t>(value);
    case DType::kFloat32: return narrow;
    case DType::kBFloat16: return narrow >> 16;
    case DType::kFloat16: {
      const std::uint32_t exponent = narrow >> 23 & 0xff;
      const std::uint32_t sign = narrow >> 16 & 0x8000;
      if (exponent == 0xff) return sign | 0x7c00 | (narrow >> 13 & 0x3ff);
      if (exponent > 142) return sign | 0x7bff;
      return exponent > 112 ? sign | (exponent - 112) << 10 | (narrow >> 13 & 0x3ff) : sign | (narrow >> 20 & 7);
    }
    default: break;
  }
  const bool integer = dtype >= DType::kInt8 && dtype <= DType::kUInt64;
  if (integer && std::fabs(value) < 1e6) return static_cast<std::uint64_t>(static_cast<std::int64_t>(value * 1000));
  return narrow >> 24;
}

// Elements that begin a few of them beyond a boundary of 16 bytes.
struct Tensor {
  Tensor(DType type, std::string_view content, std::int64_t n) : dtype(type), count(n) {
    const std::size_t size = fastlog::item_size(dtype);
    shift = static_cast<std::size_t>(count % 7);
    memory.resize((static_cast<std::size_t>(count) + shift) * size / 8 + 1);
    Random random(static_cast<std::uint64_t>(dtype) << 40 ^ static_cast<std::uint64_t>(count) << 8 ^ content[0]);
    for (std::int64_t i = 0; i < count; ++i) {
      const std::uint64_t bits = bits_of(dtype, content, random.next());
      std::memcpy(data() + static_cast<std::size_t>(i) * size, &bits, size);  // little endian
    }
  }

  char* data() { return reinterpret_cast<char*>(memory.data()) + shift * fastlog::item_size(dtype); }

  DType dtype;
  std::int64_t count;
  std::size_t shift;
  std::vector<std::uint64_t> memory;
};

// The thread's floating point as torch.set_flush_denormal(True) leaves it, while it lives.
class FlushDenormals {
 public:
  FlushDenormals() : saved_(read()) { write(saved_ | kFlush); }
  ~FlushDenormals() { write(saved_); }
  bool still() const { return read() == (saved_ | kFlush); }

 private:
#if defined(__x86_64__)
  using Register = unsigned;
  static constexpr Register kFlush = 0x8040;
  static Register read() { return _mm_getcsr(); }
  static void write(Register value) { _mm_setcsr(value); }
#elif defined(__aarch64__)
  using Register = std::uint64_t;
  static constexpr Register kFlush = 1 << 24;
  static Register read() {
    Register value;
    asm volatile("mrs %0, fpcr" : "=r"(value));
    return value;
  }
  static void write(Register value) { asm volatile("msr fpcr, %0" : : "r"(value)); }
#endif
  Register saved_;
};

void fail(const std::string& name, const char* what) {
  std::printf("%s: %s\n", name.c_str(), what);
  std::exit(1);
}

void print(const std::string& name, std::string_view bytes) {
  std::string line = name + ": ";
  for (const char c : bytes) {
    line += "0123456789abcdef"[static_cast<unsigned char>(c) >> 4];
    line += "0123456789abcdef"[static_cast<unsigned char>(c) & 15];
  }
  std::puts(line.c_str());
}

template <class T>
void append(std::string& to, const std::vector<T>& values) {
  to.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

std::string summary_of(const std::string& name, const TensorView& view) {
  const std::string packed = fastlog::cpu::summarize({view}, 1)[0];
  if (fastlog::cpu::summarize({view}, 3)[0] != packed) fail(name, "three threads make other bytes than one");
  const FlushDenormals flush;
  if (fastlog::cpu::summarize({view}, 3)[0] != packed) fail(name, "other bytes where denormals are flushed");
  if (!flush.still()) fail(name, "the control register of floating point was not restored");
  return packed;
}

std::vector<std::string> print_summaries() {
  std::vector<std::string> all;
  const float multiplier = 0.37f;
  for (int code = 0; code < fastlog::kDTypeCount; ++code) {
    for (const char* content : kContents) {
      for (const std::int64_t count : kCounts) {
        const auto dtype = static_cast<DType>(code);
        if (count > kSmall && dtype > DType::kFloat8E4M3FN && dtype != DType::kInt64) continue;
        const std::string name = std::string(fastlog::kDTypeNames[code]) + " " + content + " " + std::to_string(count);
        Tensor tensor(dtype, content, count);
        all.push_back(summary_of(name, {tensor.data(), count, dtype, count % 3, nullptr}));
        print(name, all.back());
        if (count != 9001) continue;
        print(name + " scaled", summary_of(name, {tensor.data(), count, dtype, 0, &multiplier}));
      }
    }
  }
  return all;
}

std::string print_records(const std::vector<std::string>& summaries) {
  std::vector<events::EventView> views;
  for (std::size_t i = 0; i < summaries.size(); i += 37) {
    const auto step = static_cast<std::int64_t>(i) - 5;
    const double loss = special(Random(i).next());
    views.push_back({events::kHistogramEvent, "weights", 0, step, 1.5, summaries[i]});
    views.push_back({events::kScalarEvent, "loss \xc3\xa9", loss, step, loss, {}});
    views.push_back({events::kScalarEvent, "", loss, std::nullopt, 1e9, {}});
  }
  views.push_back({events::kRawEvent, {}, 0, {}, 0, summaries[0]});
  print("records", events::encode_events(views, events::Buckets::kAll));
  const std::string compact = events::encode_events(views, events::Buckets::kCompact);
  print("records, compact", compact);
  return compact;
}

void print_scan(const std::string& name, const std::string& file, bool strict) {
  events::EventScan scan(strict);
  std::string found;
  try {
    scan.read_bytes(file);
  } catch (const events::CorruptRecord& error) {
    found = std::to_string(error.offset) + error.what();
  }
  append(found, scan.rows());
  for (const events::Tag& tag : scan.tags()) found += tag.name + "|" + tag.plugin + "|" + tag.content + "|";
  append(found, std::vector<std::int64_t>{scan.end(), scan.torn_bytes(), scan.skipped_bytes(), scan.skipped_events()});
  events::HistogramColumns columns;
  for (const events::Row& row : scan.rows()) {
    if (row.kind != events::kHistogramRow) continue;
    const std::string_view proto(file.data() + row.offset, static_cast<std::size_t>(row.size));
    found += events::add_histogram(proto, columns) ? '1' : '0';
  }
  append(found, columns.moments);
  append(found, columns.limits);
  append(found, columns.counts);
  append(found, columns.ends);
  print(name, found);
}

void print_scans(const std::string& records) {
  print_scan("scan", records, true);
  const std::string few = records.substr(0, 4000);
  Random random(3);
  for (int i = 0; i < 200; ++i) {
    std::string broken = few.substr(0, random.next() % few.size() + 1);
    for (std::uint64_t left = random.next() % 4; left > 0; --left) {
      broken[random.next() % broken.size()] = static_cast<char>(random.next());
    }
    print_scan("scan of broken records " + std::to_string(i), broken, i % 2 == 0);
  }
}

void print_checksums() {
  std::string data;
  Random random(4);
  for (int size = 0; size < 300; ++size) {
    for (std::size_t from = 0; from < 8 && from <= data.size(); ++from) {
      const std::uint32_t crc = events::crc32c(data.data() + from, data.size() - from);
      if (crc != events::crc32c_portable(data.data() + from, data.size() - from)) fail("crc32c", "two values");
      if (from == 0) print("crc32c " + std::to_string(size), std::to_string(crc));
    }
    data += static_cast<char>(random.next());
  }
}

int count(char** arguments) {
  int code = 0;
  while (code < fastlog::kDTypeCount && std::strcmp(fastlog::kDTypeNames[code], arguments[0]) != 0) ++code;
  Tensor tensor(static_cast<DType>(code), arguments[1], std::atoll(arguments[2]));
  for (int left = std::atoi(arguments[3]); left > 0; --left) {
    if (fastlog::cpu::summarize({{tensor.data(), tensor.count, tensor.dtype}}, 1)[0].empty()) return 1;
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 6 && std::strcmp(argv[1], "count") == 0) return count(argv + 2);
  std::printf("# %s, crc32c: %s\n", fastlog::cpu::chosen_kernels().name, events::crc32c_path());
  print_checksums();
  print_scans(print_records(print_summaries()));
  for (int i = 1; i < argc; ++i) {
    std::ifstream file(argv[i], std::ios::binary);
    const std::string contents{std::istreambuf_iterator<char>(file), {}};
    for (const bool strict : {false, true}) print_scan("scan of " + std::to_string(i), contents, strict);
  }
  return 0;
}
