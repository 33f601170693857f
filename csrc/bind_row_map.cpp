#include "bind_row_map.hpp"

#include <memory>

void bind_row_map(py::module_ &module) {
  py::class_<Table>(module, "RowMap")
      .def(py::init<>())
      .def("add_plain", &Table::add_plain, py::arg("dtype"), py::arg("shape"))
      .def("add_shift", &Table::add_shift, py::arg("of"))
      .def(
          "add_stream", [](Table &self, std::int64_t start) { self.rows.add_stream(start); }, py::arg("start") = 0)
      .def("add_segments", &Table::add_segments, py::arg("stream"), py::arg("listed"))
      .def("fill", &Table::fill, py::arg("stream"), py::arg("first"), py::arg("rows"), py::arg("ends"),
           py::arg("has_final"), py::arg("final_bases"))
      .def(
          "evict", [](Table &self, std::size_t stream, std::int64_t start) { self.rows.evict(stream, start); },
          py::arg("stream"), py::arg("start"), py::call_guard<py::gil_scoped_release>())
      .def(
          "drop_empty", [](Table &self, std::size_t stream) { self.rows.drop_empty(stream); }, py::arg("stream"))
      .def("gather", &Table::gather, py::arg("rows").noconvert(), py::arg("columns"), py::arg("out") = py::none())
      .def("read", &Table::read, py::arg("start"), py::arg("stop"), py::arg("columns"), py::arg("out") = py::none())
      .def("read_runs", &Table::read_runs, py::arg("starts").noconvert(), py::arg("counts").noconvert(),
           py::arg("at").noconvert(), py::arg("size"), py::arg("columns"), py::arg("out"))
      .def("stacks", &Table::stacks, py::arg("rows").noconvert(), py::arg("columns"), py::arg("frames"), py::arg("out"))
      .def(
          "bind",
          [](Table &self, const py::tuple &columns, const py::sequence &out) {
            return std::make_unique<Target>(self, columns, out);
          },
          py::arg("columns"), py::arg("out"), py::keep_alive<0, 1>())
      .def("set_threads", &Table::set_threads, py::arg("count"))
      .def_property_readonly("num_rows", [](const Table &self) { return self.rows.num_rows(); });
  py::class_<Target>(module, "Target").def("gather", &Target::gather, py::arg("rows").noconvert());
}
