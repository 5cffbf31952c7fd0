// The Python border of the CUDA engine: registration only. Mirrored by fastlog/_cuda.pyi, as a test makes sure.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "core/pack.h"
#include "cuda/launch.h"
#include "python/without_gil.h"

namespace py = pybind11;

namespace {

using namespace fastlog::cuda;
using fastlog::TensorView;
using fastlog::python::WithoutGil;

// address, count, dtype code, zeros that are not stored, address of the multiplier (0: none)
using Row = std::tuple<std::uintptr_t, std::int64_t, int, std::int64_t, std::uintptr_t>;

// One launch: its tensors, and what it needs.
struct Launch {
  Launch(const DeviceLimits& on, const std::vector<Row>& rows) : limits(on) {
    views.reserve(rows.size());
    for (const auto& [address, count, dtype, implicit_zeros, multiplier] : rows) {
      if (dtype < 0 || dtype >= fastlog::kDTypeCount) throw std::invalid_argument("fastlog: unknown dtype code");
      views.push_back({reinterpret_cast<const void*>(address), count, static_cast<fastlog::DType>(dtype),
                       implicit_zeros, reinterpret_cast<const float*>(multiplier)});
    }
    plan = plan_launch_on(limits, views);
  }

  void pack(std::uintptr_t table, std::uintptr_t records) const {
    pack_table_for(views, records, reinterpret_cast<std::uint8_t*>(table));
  }

  void enqueue(std::uintptr_t table, std::uintptr_t device_table, std::uintptr_t scratch, std::uintptr_t tables,
               std::uintptr_t stream) const {
    launch(limits, plan,
           {reinterpret_cast<const std::uint8_t*>(table), reinterpret_cast<std::uint8_t*>(device_table),
            reinterpret_cast<std::uint8_t*>(scratch), reinterpret_cast<const std::uint8_t*>(tables)},
           stream);
  }

  std::vector<std::string> read(std::uintptr_t records) const {
    std::vector<std::string> packed;
    packed.reserve(views.size());
    const auto* at = reinterpret_cast<const std::uint8_t*>(records);
    for (const TensorView& view : views) {
      packed.push_back(fastlog::pack(read_record(view, at)));
      at += record_capacity(view.dtype, view.count);
    }
    return packed;
  }

  DeviceLimits limits;
  std::vector<TensorView> views;
  LaunchPlan plan;
};

py::list read_bytes(const Launch& launch, std::uintptr_t records) {
  std::vector<std::string> packed;
  {
    const WithoutGil nogil;
    packed = launch.read(records);
  }
  py::list bytes;
  for (const std::string& one : packed) bytes.append(py::bytes(one));
  return bytes;
}

}  // namespace

PYBIND11_MODULE(_cuda, m) {
  m.doc() = "fastlog's CUDA engine: summaries of device memory.";
  py::register_exception<CudaError>(m, "CudaError", PyExc_RuntimeError);
  m.attr("MAX_TENSORS") = kMaxTensors;
  m.attr("CHUNK_VALUES") = Tuning::kChunkValues;
  py::class_<DeviceLimits>(m, "DeviceLimits")
      .def_readonly("device", &DeviceLimits::device)
      .def_readonly("multiprocessors", &DeviceLimits::multiprocessors)
      .def_readonly("small", &DeviceLimits::small);
  m.def("prepare_device", &prepare_device, py::arg("device"));
  m.def("check_mapped", &check_mapped, py::arg("device"), py::arg("address"));
  m.def("device_tables", [] {
    const std::vector<std::uint8_t> bytes = fastlog::cuda::device_tables();
    return py::bytes(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  });
  py::class_<Launch>(m, "Launch")
      .def(py::init<const DeviceLimits&, const std::vector<Row>&>(), py::arg("limits"), py::arg("rows"))
      .def_property_readonly("table_bytes", [](const Launch& launch) { return launch.plan.table_bytes; })
      .def_property_readonly("scratch_bytes", [](const Launch& launch) { return launch.plan.scratch_bytes; })
      .def_property_readonly("records_bytes", [](const Launch& launch) { return launch.plan.records_bytes; })
      .def("pack", &Launch::pack, py::arg("table"), py::arg("records"))
      .def("enqueue", &Launch::enqueue, py::arg("table"), py::arg("device_table"), py::arg("scratch"),
           py::arg("tables"), py::arg("stream"), py::call_guard<WithoutGil>())
      .def("read", &read_bytes, py::arg("records"));
  py::class_<Event>(m, "Event")
      .def(py::init<int, bool>(), py::arg("device"), py::arg("timed"))
      .def("record", &Event::record, py::arg("stream"), py::call_guard<WithoutGil>())
      .def("wait", &Event::wait, py::call_guard<WithoutGil>())
      .def("done", &Event::done, py::call_guard<WithoutGil>())
      .def("seconds_since", &Event::seconds_since, py::arg("earlier"), py::call_guard<WithoutGil>());
}
