#include "python/reading.h"

#include <pybind11/numpy.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "events/scan.h"
#include "python/without_gil.h"

namespace py = pybind11;

namespace fastlog::python {
namespace {

using namespace fastlog::events;

// A file's error as Python's OSError, with its number and the path.
[[noreturn]] void raise_os_error(const std::system_error& error, const std::string& path) {
  errno = error.code().value();
  PyErr_SetFromErrnoWithFilename(PyExc_OSError, path.c_str());
  throw py::error_already_set();
}

void read_file(EventScan& scan, const std::string& path) {
  try {
    const WithoutGil nogil;
    scan.read_file(path);
  } catch (const std::system_error& error) {
    raise_os_error(error, path);
  }
}

std::string_view bytes_of(const py::buffer_info& buffer) {
  return {static_cast<const char*>(buffer.ptr), static_cast<std::size_t>(buffer.size * buffer.itemsize)};
}

void read_bytes(EventScan& scan, const py::buffer& contents) {
  const py::buffer_info buffer = contents.request();
  const WithoutGil nogil;
  scan.read_bytes(bytes_of(buffer));
}

// NumPy is imported at the first need: the core alone does without it.
void register_row() {
  static const bool registered = [] {
    PYBIND11_NUMPY_DTYPE(Row, wall_time, value, step, offset, size, tag, kind);
    return true;
  }();
  (void)registered;
}

py::array_t<Row> rows(const EventScan& scan, std::size_t first) {
  register_row();
  const auto& all = scan.rows();
  first = std::min(first, all.size());
  return py::array_t<Row>(static_cast<py::ssize_t>(all.size() - first), all.data() + first);
}

py::list tags(const EventScan& scan) {
  py::list made;
  for (const Tag& tag : scan.tags()) {
    const auto text = [](const std::string& utf8) {
      return py::reinterpret_steal<py::str>(
          PyUnicode_DecodeUTF8(utf8.data(), static_cast<py::ssize_t>(utf8.size()), "replace"));
    };
    made.append(py::make_tuple(text(tag.name), text(tag.plugin), py::bytes(tag.content)));
  }
  return made;
}

// The columns as (moments [n, 5], limits, counts, ends).
py::tuple as_tuple(const HistogramColumns& columns, bool whole) {
  if (!whole) throw py::value_error("a histogram is malformed");
  const auto array = [](const auto& column) {
    using Element = typename std::decay_t<decltype(column)>::value_type;
    return py::array_t<Element>(static_cast<py::ssize_t>(column.size()), column.data());
  };
  const auto n = static_cast<py::ssize_t>(columns.ends.size());
  return py::make_tuple(array(columns.moments).reshape({n, py::ssize_t{5}}), array(columns.limits),
                        array(columns.counts), array(columns.ends));
}

py::tuple decode_histograms(const py::sequence& payloads) {
  const py::tuple held(payloads);
  std::vector<std::string_view> protos;
  for (const py::handle payload : held) {
    if (!PyBytes_Check(payload.ptr())) throw py::type_error("fastlog: a histogram's payload must be bytes");
    protos.emplace_back(PyBytes_AS_STRING(payload.ptr()), static_cast<std::size_t>(PyBytes_GET_SIZE(payload.ptr())));
  }
  HistogramColumns columns;
  bool whole = true;
  {
    const WithoutGil nogil;
    for (const std::string_view proto : protos) whole = add_histogram(proto, columns) && whole;
  }
  return as_tuple(columns, whole);
}

py::tuple decode_histograms_of_file(const std::string& path, const py::array_t<std::int64_t>& offsets,
                                    const py::array_t<std::int64_t>& sizes) {
  if (offsets.ndim() != 1 || sizes.ndim() != 1 || offsets.size() != sizes.size()) {
    throw py::value_error("fastlog: as many offsets as sizes are needed, in one dimension");
  }
  std::vector<Extent> extents;
  for (py::ssize_t i = 0; i < offsets.size(); ++i) extents.push_back({offsets.at(i), sizes.at(i)});
  HistogramColumns columns;
  bool whole = true;
  try {
    const WithoutGil nogil;
    whole = read_histograms(path, extents, columns);
  } catch (const std::system_error& error) {
    raise_os_error(error, path);
  }
  return as_tuple(columns, whole);
}

}  // namespace

void register_reading(py::module_& module) {
  static py::handle corrupt_record = py::exception<CorruptRecord>(module, "CorruptRecord", PyExc_ValueError).release();
  py::register_exception_translator([](std::exception_ptr thrown) {
    try {
      if (thrown) std::rethrow_exception(thrown);
    } catch (const CorruptRecord& error) {
      const py::tuple arguments = py::make_tuple(error.what(), error.offset);
      PyErr_SetObject(corrupt_record.ptr(), arguments.ptr());
    }
  });
  py::class_<EventScan>(module, "EventScan")
      .def(py::init<bool>(), py::arg("strict") = true)
      .def("read_file", &read_file, py::arg("path"))
      .def("read_bytes", &read_bytes, py::arg("contents"))
      .def("rows", &rows, py::arg("first") = 0)
      .def("tags", &tags)
      .def_property_readonly("end", &EventScan::end)
      .def_property_readonly("torn_bytes", &EventScan::torn_bytes)
      .def_property_readonly("skipped_bytes", &EventScan::skipped_bytes)
      .def_property_readonly("skipped_events", &EventScan::skipped_events);
  module.def("decode_histograms", &decode_histograms, py::arg("payloads"));
  module.def("decode_histograms_of_file", &decode_histograms_of_file, py::arg("path"), py::arg("offsets"),
             py::arg("sizes"));
}

}  // namespace fastlog::python
