// The Python border of the CPU core: registration only. Mirrored by fastlog/_core.pyi, as a test makes sure.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstring>
#include <iterator>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "core/bins.h"
#include "core/pack.h"
#include "cpu/engine.h"
#include "cpu/kernels.h"
#include "python/events.h"
#include "python/reading.h"
#include "python/without_gil.h"

namespace py = pybind11;

namespace {

using fastlog::Summary;
using fastlog::TensorView;

// Below this many values the GIL is kept: getting it back can take longer than the counting.
constexpr std::int64_t kReleaseGilFrom = 1 << 14;

TensorView make_view(std::uintptr_t address, std::int64_t count, int dtype, std::int64_t implicit_zeros) {
  if (count < 0 || implicit_zeros < 0) throw std::invalid_argument("fastlog: a view's counts must not be negative");
  if (dtype < 0 || dtype >= fastlog::kDTypeCount) throw std::invalid_argument("fastlog: unknown dtype code");
  return {reinterpret_cast<const void*>(address), count, static_cast<fastlog::DType>(dtype), implicit_zeros, nullptr};
}

std::vector<std::string> summarize_views(const std::vector<TensorView>& views, int threads) {
  std::int64_t values = 0;
  for (const TensorView& view : views) values += view.count;
  if (values < kReleaseGilFrom) return fastlog::cpu::summarize(views, threads);
  const fastlog::python::WithoutGil nogil;
  return fastlog::cpu::summarize(views, threads);
}

py::bytes summarize_one(std::uintptr_t address, std::int64_t count, int dtype, std::int64_t implicit_zeros,
                        int threads) {
  return summarize_views({make_view(address, count, dtype, implicit_zeros)}, threads).front();
}

py::list summarize(const std::vector<std::tuple<std::uintptr_t, std::int64_t, int, std::int64_t>>& rows, int threads) {
  std::vector<TensorView> views;
  views.reserve(rows.size());
  for (const auto& row : rows) views.push_back(std::apply(make_view, row));
  py::list packed;
  for (const std::string& one : summarize_views(views, threads)) packed.append(py::bytes(one));
  return packed;
}

py::bytes pack(const py::bytes& record) {
  const std::string_view bytes = record;
  Summary summary;
  if (bytes.size() != sizeof(summary)) throw std::invalid_argument("fastlog: not a summary record");
  std::memcpy(static_cast<void*>(&summary), bytes.data(), sizeof(summary));
  return fastlog::pack(summary);
}

py::bytes unpack(const py::bytes& packed) {
  const std::string_view bytes = packed;
  Summary summary;
  if (!fastlog::unpack(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size(), summary)) {
    throw std::invalid_argument("fastlog: malformed packed summary");
  }
  return {reinterpret_cast<const char*>(&summary), sizeof(summary)};
}

template <class Items>
py::tuple tuple_of(const Items& items) {
  py::tuple tuple(std::size(items));
  std::size_t i = 0;
  for (const auto& item : items) tuple[i++] = item;
  return tuple;
}

// What Python has to know of the record and of what is counted.
void register_tables(py::module_& m) {
  py::tuple dtypes(fastlog::kDTypeCount);
  for (int code = 0; code < fastlog::kDTypeCount; ++code) {
    dtypes[code] = py::make_tuple(fastlog::kDTypeNames[code], fastlog::item_size(static_cast<fastlog::DType>(code)));
  }
  double edges[fastlog::kEdges];
  for (int i = 0; i < fastlog::kEdges; ++i) edges[i] = fastlog::edge(i);
  m.attr("DTYPES") = dtypes;
  m.attr("EDGES") = py::bytes(reinterpret_cast<const char*>(edges), sizeof(edges));
  m.attr("COUNTERS") = tuple_of(fastlog::kCounterNames);
  m.attr("MOMENTS") = tuple_of(fastlog::kMomentNames);
  m.attr("SMALLEST_NORMALS") = tuple_of(fastlog::kSmallestNormals);
  m.attr("LARGEST") = py::make_tuple(fastlog::kLargestE4M3, fastlog::kLargestE5M2, fastlog::kLargestFp16);
}

std::vector<std::string> cpu_paths() {
  std::vector<std::string> names;
  for (const auto* kernels : fastlog::cpu::available_kernels()) names.emplace_back(kernels->name);
  return names;
}

}  // namespace

PYBIND11_MODULE(_core, m) {
  m.doc() = "fastlog's compiled core: summaries of host memory, and event records.";
  m.def("summarize_one", &summarize_one, py::arg("address"), py::arg("count"), py::arg("dtype"),
        py::arg("implicit_zeros"), py::arg("threads"));
  m.def("summarize", &summarize, py::arg("views"), py::arg("threads"));
  m.def("pack", &pack, py::arg("record"));
  m.def("unpack", &unpack, py::arg("packed"));
  m.def("cpu_paths", &cpu_paths);
  m.def("cpu_path", [] { return std::string(fastlog::cpu::chosen_kernels().name); });
  m.def("choose_cpu_path", &fastlog::cpu::choose_kernels, py::arg("name"));
  register_tables(m);
  fastlog::python::register_events(m);
  fastlog::python::register_reading(m);
}
