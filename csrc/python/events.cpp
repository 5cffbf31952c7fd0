// Events for the Python border: tuples to records.
#include "python/events.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "events/crc32c.h"
#include "events/encode.h"
#include "python/without_gil.h"

namespace py = pybind11;

namespace fastlog::python {
namespace {

using namespace fastlog::events;

[[noreturn]] void raise() { throw py::error_already_set(); }

// Text as UTF-8. A lone surrogate becomes "?": readers refuse a file with invalid UTF-8 in it.
// `keep` holds what the view of such a text points into.
std::string_view utf8(PyObject* text, std::vector<py::object>& keep) {
  if (!PyUnicode_Check(text)) throw py::type_error("fastlog: an event's tag must be a str");
  Py_ssize_t size = 0;
  if (const char* data = PyUnicode_AsUTF8AndSize(text, &size)) return {data, static_cast<std::size_t>(size)};
  PyErr_Clear();
  PyObject* encoded = PyUnicode_AsEncodedString(text, "utf-8", "replace");
  if (encoded == nullptr) raise();
  keep.push_back(py::reinterpret_steal<py::object>(encoded));
  return {PyBytes_AS_STRING(encoded), static_cast<std::size_t>(PyBytes_GET_SIZE(encoded))};
}

std::string_view bytes_view(PyObject* object) {
  if (!PyBytes_Check(object)) throw py::type_error("fastlog: an event's payload must be bytes");
  return {PyBytes_AS_STRING(object), static_cast<std::size_t>(PyBytes_GET_SIZE(object))};
}

double to_double(PyObject* object) {
  const double value = PyFloat_AsDouble(object);
  if (value == -1 && PyErr_Occurred()) raise();
  return value;
}

std::int64_t to_int64(PyObject* object) {
  const long long value = PyLong_AsLongLong(object);
  if (value == -1 && PyErr_Occurred()) raise();
  return value;
}

// A tuple of fastlog/events/items.py, but no job.
EventView view_item(PyObject* item, std::vector<py::object>& keep) {
  if (!PyTuple_Check(item) || PyTuple_GET_SIZE(item) < 2) throw py::type_error("fastlog: an event must be a tuple");
  const auto field = [item](Py_ssize_t i) { return PyTuple_GET_ITEM(item, i); };
  EventView event;
  const std::int64_t kind = to_int64(field(0));
  if (kind == kRawEvent && PyTuple_GET_SIZE(item) == 2) {
    event.kind = kRawEvent;
    event.payload = bytes_view(field(1));
    return event;
  }
  if ((kind != kScalarEvent && kind != kHistogramEvent) || PyTuple_GET_SIZE(item) != 5) {
    throw py::value_error("fastlog: unknown kind of event");
  }
  event.kind = static_cast<int>(kind);
  event.tag = utf8(field(1), keep);
  if (kind == kScalarEvent) {
    event.value = to_double(field(2));
  } else {
    event.payload = bytes_view(field(2));
  }
  if (field(3) != Py_None) event.step = to_int64(field(3));
  event.wall_time = to_double(field(4));
  return event;
}

py::bytes encode_items(const py::sequence& items, bool compact) {
  const Buckets style = compact ? Buckets::kCompact : Buckets::kAll;
  // A tuple of our own keeps every item alive, whatever happens to the caller's list without the GIL.
  const py::tuple held(items);
  std::vector<py::object> keep;
  std::vector<EventView> events;
  events.reserve(held.size());
  for (const py::handle item : held) events.push_back(view_item(item.ptr(), keep));
  std::size_t total = 0;
  for (const EventView& event : events) total += framed_size(event, style);
  auto records = py::reinterpret_steal<py::bytes>(PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(total)));
  if (!records) raise();
  {
    char* at = PyBytes_AS_STRING(records.ptr());
    const WithoutGil nogil;
    for (const EventView& event : events) at = write_framed(event, style, at);
  }
  return records;
}

py::bytes histogram_proto(const py::bytes& packed, bool compact) {
  return encode_histogram(std::string_view(packed), compact ? Buckets::kCompact : Buckets::kAll);
}

std::uint32_t masked_crc32c(const py::bytes& data, bool portable) {
  const std::string_view view = data;
  return mask_crc32c(portable ? crc32c_portable(view.data(), view.size()) : crc32c(view.data(), view.size()));
}

}  // namespace

void register_events(py::module_& module) {
  module.attr("SCALAR") = static_cast<int>(kScalarEvent);
  module.attr("HISTOGRAM") = static_cast<int>(kHistogramEvent);
  module.attr("RAW") = static_cast<int>(kRawEvent);
  module.def("encode_histogram", &histogram_proto, py::arg("packed"), py::arg("compact"));
  module.def("encode_events", &encode_items, py::arg("items"), py::arg("compact") = false);
  module.def("masked_crc32c", &masked_crc32c, py::arg("data"), py::arg("portable") = false);
  module.def("crc32c_path", &crc32c_path);
}

}  // namespace fastlog::python
