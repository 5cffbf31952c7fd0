// What is in an event file: a row for each value that was logged, with its place in the file; payloads stay there.
// Checks lengths and checksums; a hostile file is an error, never a crash.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace fastlog::events {

// What a row is of. Values of a summary first, then events that have none.
enum RowKind : std::int32_t {
  kScalarRow = 0,
  kHistogramRow = 1,  // HistogramProto
  kImageRow = 2,      // Summary.Image
  kAudioRow = 3,      // Summary.Audio
  kTensorRow = 4,     // TensorProto
  kOtherRow = 5,      // a value without any of these
  kFileVersionRow = 6,
  kGraphRow = 7,         // GraphDef
  kSessionStartRow = 8,  // a SessionLog: readers forget what earlier files say of this step and later ones
  kUnknownRow = 9,       // an event with nothing that is known
};

struct Row {
  double wall_time;
  double value;  // of a scalar, else NaN
  std::int64_t step;
  std::int64_t offset;  // of the payload in the file; of the event where there is none
  std::int64_t size;    // of the payload in bytes
  std::int32_t tag;     // index into tags(); -1 where there is none
  std::int32_t kind;
};

// The SummaryMetadata that comes with the first value of a tag, if any.
struct Tag {
  std::string name;
  std::string plugin;
  std::string content;  // plugin_data.content
};

// A record that is no record: `offset` is where it begins.
struct CorruptRecord : std::runtime_error {
  CorruptRecord(std::int64_t at, const std::string& what) : std::runtime_error(what), offset(at) {}
  std::int64_t offset;
};

class EventScan {
 public:
  // `strict`: throw CorruptRecord at the first corrupt record; else go on at the next whole record and count.
  explicit EventScan(bool strict) : strict_(strict) {}

  // Reads on from `end()` to the end of the file, or as far as whole records go. Throws std::system_error on I/O
  // errors.
  void read_file(const std::string& path);
  // The same for a file whose bytes are in memory: `contents` is all of it.
  void read_bytes(std::string_view contents);

  const std::vector<Row>& rows() const { return rows_; }
  const std::vector<Tag>& tags() const { return tags_; }
  std::int64_t end() const { return end_; }                   // where the next record begins
  std::int64_t torn_bytes() const { return torn_; }           // behind the last whole record
  std::int64_t skipped_bytes() const { return skipped_; }     // in corrupt records
  std::int64_t skipped_events() const { return malformed_; }  // whole records that hold no event

 private:
  // Takes the records of a piece of the file that begins at offset end(); `left`: bytes of the file behind the piece.
  // Returns how many bytes the next record needs where the piece ends within it, else 0.
  std::size_t take(std::string_view piece, std::int64_t left);
  // Where a record's whole header stands next, from `from` on; the end of the piece where none does.
  std::size_t next_header(std::string_view piece, std::size_t from) const;
  bool take_event(std::string_view event, std::int64_t offset);
  bool take_summary(std::string_view summary, Row row, const char* event, std::int64_t offset);
  bool take_value(std::string_view value, Row row, const char* event, std::int64_t offset);
  std::int32_t tag_of(std::string_view name);

  bool strict_;
  std::vector<Row> rows_;
  std::vector<Tag> tags_;
  std::unordered_map<std::string, std::int32_t> tag_numbers_;
  std::int64_t end_ = 0;
  std::int64_t torn_ = 0;
  std::int64_t skipped_ = 0;
  std::int64_t malformed_ = 0;
};

// A HistogramProto's moments and buckets.
struct HistogramColumns {
  std::vector<double> moments;  // min, max, num, sum, sum_squares of each
  std::vector<double> limits;   // all buckets, one histogram behind the other
  std::vector<double> counts;
  std::vector<std::int64_t> ends;  // where each one's buckets end
};
// Adds one. False where it is malformed, or has other numbers of limits and counts; then it is added without buckets.
bool add_histogram(std::string_view proto, HistogramColumns& columns);

// A piece of a file.
struct Extent {
  std::int64_t offset;
  std::int64_t size;
};
// Adds the histograms that lie there. False as `add_histogram`. Throws std::system_error on I/O errors.
bool read_histograms(const std::string& path, const std::vector<Extent>& extents, HistogramColumns& columns);

}  // namespace fastlog::events
