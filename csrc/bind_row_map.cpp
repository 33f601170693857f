#include "bind_row_map.hpp"

#include <memory>

void bind_row_map(py::module_ &module) {
  py::class_<rl::SealedSegment>(module, "SealedSegment")
      .def(py::init([](std::string root, std::string name, std::int64_t first, std::int64_t alloc, std::int64_t rows,
                       std::int64_t finals) {
             return rl::SealedSegment{std::move(root), std::move(name), first, alloc, rows, finals};
           }),
           py::arg("root"), py::arg("name"), py::arg("first"), py::arg("alloc"), py::arg("rows"), py::arg("finals"));
  py::class_<Table>(module, "RowMap")
      .def(py::init<>())
      .def("empty", &Table::empty)
      .def("add_plain", &Table::add_plain, py::arg("dtype"), py::arg("shape"), py::arg("file") = "")
      .def("add_shift", &Table::add_shift, py::arg("of"), py::arg("file") = "")
      .def(
          "add_stream", [](Table &self, std::int64_t start) { self.rows.add_stream(start); }, py::arg("start") = 0)
      .def("add_segments", &Table::add_segments, py::arg("stream"), py::arg("ranges"))
      .def("fill", &Table::fill, py::arg("stream"), py::arg("first"), py::arg("rows"), py::arg("ends"),
           py::arg("has_final"), py::arg("final_bases"))
      .def(
          "evict", [](Table &self, std::size_t stream, std::int64_t start) { self.rows.evict(stream, start); },
          py::arg("stream"), py::arg("start"), py::call_guard<py::gil_scoped_release>())
      .def(
          "drop_empty", [](Table &self, std::size_t stream) { self.rows.drop_empty(stream); }, py::arg("stream"))
      .def("gather", &Table::gather, py::arg("rows").noconvert(), py::arg("columns"), py::arg("out") = py::none())
      .def("read", &Table::read, py::arg("start"), py::arg("stop"), py::arg("columns"), py::arg("out") = py::none())
      .def("read_sealed", &Table::read_sealed, py::arg("segment"), py::arg("low"), py::arg("high"), py::arg("goes_on"),
           py::arg("ends").noconvert(), py::arg("has_final").noconvert(), py::arg("columns"), py::arg("journal"),
           py::arg("most_bytes"))
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
  module.def(
      "count_finals",
      [](const Rows &start, const Rows &length, const Array<bool> &has_final, std::int64_t first, std::int64_t rows) {
        if (start.ndim() != 1 || length.size() != start.size() || has_final.size() != start.size())
          throw std::invalid_argument("start, length and has_final must be [E]");
        const auto count = static_cast<std::size_t>(start.size());
        return rl::count_finals(start.data(), length.data(), has_final.data(), count, first, rows);
      },
      py::arg("start").noconvert(), py::arg("length").noconvert(), py::arg("has_final").noconvert(), py::arg("first"),
      py::arg("rows"));
}
