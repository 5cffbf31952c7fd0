// The protocol buffers wire format, read in place. Whatever the bytes are, nothing outside of them is touched.
#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>

namespace fastlog::events {

// The fields of one message in their order; see next(). A message that is malformed ends early and is not `whole()`.
class Fields {
 public:
  explicit Fields(std::string_view message) : at_(message.data()), end_(message.data() + message.size()) {}

  // Goes on to the next field. False at the end.
  bool next() {
    if (at_ == end_) return false;
    const std::uint64_t key = varint();
    number_ = static_cast<std::uint32_t>(key >> 3);
    wire_ = static_cast<int>(key & 7);
    if (broken_ || key >> 3 == 0 || key >> 3 > kLargestNumber) return fail();
    switch (wire_) {
      case kVarint: value_ = varint(); break;
      case kFixed64: value_ = fixed<std::uint64_t>(); break;
      case kFixed32: value_ = fixed<std::uint32_t>(); break;
      case kBytes: {
        const std::uint64_t size = varint();
        if (broken_ || size > static_cast<std::uint64_t>(end_ - at_)) return fail();
        bytes_ = {at_, static_cast<std::size_t>(size)};
        at_ += size;
        break;
      }
      default: return fail();  // groups: no event has any
    }
    return !broken_;
  }

  std::uint32_t number() const { return number_; }
  // Whether the current field is this one, in this form; fields of another form are unknown to us and skipped.
  bool is_varint(std::uint32_t number) const { return number_ == number && wire_ == kVarint; }
  bool is_fixed32(std::uint32_t number) const { return number_ == number && wire_ == kFixed32; }
  bool is_fixed64(std::uint32_t number) const { return number_ == number && wire_ == kFixed64; }
  bool is_bytes(std::uint32_t number) const { return number_ == number && wire_ == kBytes; }

  std::int64_t as_int64() const { return static_cast<std::int64_t>(value_); }
  double as_double() const { return from_bits<double>(value_); }
  float as_float() const { return from_bits<float>(static_cast<std::uint32_t>(value_)); }
  std::string_view bytes() const { return bytes_; }

  // Whether every byte so far belonged to a field.
  bool whole() const { return !broken_; }

 private:
  enum Wire { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };
  static constexpr std::uint64_t kLargestNumber = (1u << 29) - 1;

  bool fail() {
    broken_ = true;
    at_ = end_;
    return false;
  }

  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 64 && at_ != end_; shift += 7) {
      const auto byte = static_cast<unsigned char>(*at_++);
      value |= static_cast<std::uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
    fail();
    return 0;
  }

  template <class Bits>
  Bits fixed() {
    if (static_cast<std::size_t>(end_ - at_) < sizeof(Bits)) {
      fail();
      return 0;
    }
    Bits bits;
    std::memcpy(&bits, at_, sizeof(bits));
    at_ += sizeof(bits);
    return bits;
  }

  template <class Number, class Bits>
  static Number from_bits(Bits bits) {
    static_assert(sizeof(Number) == sizeof(Bits));
    Number number;
    std::memcpy(&number, &bits, sizeof(number));
    return number;
  }

  const char* at_;
  const char* end_;
  std::uint32_t number_ = 0;
  int wire_ = kVarint;
  std::uint64_t value_ = 0;
  std::string_view bytes_;
  bool broken_ = false;
};

}  // namespace fastlog::events
