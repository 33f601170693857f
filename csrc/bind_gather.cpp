#include "bind.hpp"
#include "gather.hpp"

#include <pybind11/stl.h>

#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace {

using Rows = py::array_t<std::int64_t, py::array::c_style>;

rl::Address pointer(py::handle address) { return reinterpret_cast<rl::Address>(address.cast<std::uintptr_t>()); }

std::vector<rl::Address> pointers(const py::sequence &addresses) {
  std::vector<rl::Address> found;
  for (py::handle address : addresses)
    found.push_back(pointer(address));
  return found;
}

// The table, and what its columns look like in NumPy.
struct Table {
  rl::RowTable rows;
  std::vector<py::dtype> dtypes;
  std::vector<std::vector<py::ssize_t>> shapes;  // with a place for the number of rows in front

  std::size_t add_plain(const py::dtype &dtype, const std::vector<py::ssize_t> &shape) {
    std::size_t row_bytes = static_cast<std::size_t>(dtype.itemsize());
    std::vector<py::ssize_t> full{0};
    for (py::ssize_t n : shape) {
      if (n < 1) throw std::invalid_argument("empty axis");
      row_bytes *= static_cast<std::size_t>(n);
      full.push_back(n);
    }
    dtypes.push_back(dtype);
    shapes.push_back(full);
    return rows.add_plain(row_bytes);
  }

  std::size_t add_shift(std::size_t of) {
    const std::size_t column = rows.add_shift(of);
    dtypes.push_back(dtypes[of]);
    shapes.push_back(shapes[of]);
    return column;
  }

  py::array allocate(std::size_t column, std::size_t count) {
    std::vector<py::ssize_t> shape = shapes[column];
    shape[0] = static_cast<py::ssize_t>(count);
    return py::array(dtypes[column], std::move(shape));
  }

  void check(const py::array &array, std::size_t column, std::size_t count) const {
    bool fits = array.ndim() == static_cast<py::ssize_t>(shapes[column].size()) &&
                array.shape(0) == static_cast<py::ssize_t>(count) && array.dtype().equal(dtypes[column]) &&
                (array.flags() & py::array::c_style) && array.writeable();
    for (py::ssize_t axis = 1; fits && axis < array.ndim(); ++axis)
      fits = array.shape(axis) == shapes[column][static_cast<std::size_t>(axis)];
    if (!fits) throw std::invalid_argument("out: an array differs in dtype, shape, order or is read-only");
  }

  // A list of arrays, one per column, fresh unless `out` gives them.
  py::list gather(const Rows &index, const py::tuple &columns, const py::object &out) {
    if (index.ndim() != 1) throw std::invalid_argument("rows must be [B]");
    const auto count = static_cast<std::size_t>(index.shape(0));
    py::list arrays(columns.size());
    std::vector<std::size_t> chosen(columns.size());
    std::vector<std::uint8_t *> targets(columns.size());
    for (std::size_t k = 0; k < columns.size(); ++k) {
      chosen[k] = columns[k].cast<std::size_t>();
      if (chosen[k] >= rows.num_columns()) throw std::out_of_range("no such column");
      py::array array;
      if (out.is_none()) {
        array = allocate(chosen[k], count);
      } else {
        array = out.cast<py::sequence>()[k].cast<py::array>();
        check(array, chosen[k], count);
      }
      targets[k] = static_cast<std::uint8_t *>(array.mutable_data());
      arrays[k] = std::move(array);
    }
    bool inside = true;
    {
      py::gil_scoped_release nogil;
      inside = rows.gather(index.data(), count, chosen, targets);
    }
    if (!inside) throw py::index_error("a row is outside 0 to " + std::to_string(rows.num_rows() - 1));
    return arrays;
  }
};

}  // namespace

void bind_gather(py::module_ &module) {
  py::class_<Table>(module, "RowTable")
      .def(py::init<>())
      .def("add_plain", &Table::add_plain, py::arg("dtype"), py::arg("shape"))
      .def("add_shift", &Table::add_shift, py::arg("of"))
      .def("add_stream", [](Table &self) { self.rows.add_stream(); })
      .def(
          "add_piece",
          [](Table &self, std::size_t stream, std::int64_t first, const py::sequence &bases) {
            self.rows.add_piece(stream, first, pointers(bases));
          },
          py::arg("stream"), py::arg("first"), py::arg("bases"))
      .def(
          "advance",
          [](Table &self, std::size_t stream, std::int64_t rows, const py::sequence &ends, const py::sequence &finals) {
            std::vector<std::int64_t> last;
            std::vector<std::vector<rl::Address>> addresses;
            for (py::handle end : ends)
              last.push_back(end.cast<std::int64_t>());
            for (py::handle final : finals)
              addresses.push_back(pointers(py::reinterpret_borrow<py::sequence>(final)));
            self.rows.advance(stream, rows, last, addresses);
          },
          py::arg("stream"), py::arg("rows"), py::arg("ends"), py::arg("finals"))
      .def("gather", &Table::gather, py::arg("rows").noconvert(), py::arg("columns"), py::arg("out") = py::none())
      .def_property_readonly("num_rows", [](const Table &self) { return self.rows.num_rows(); });
}
