#include "bind.hpp"
#include "column_writer.hpp"

#include <algorithm>
#include <string_view>
#include <system_error>

#include <pybind11/stl.h>

namespace {

using rl::ColumnWriter;

void check(int error) {
  if (error) throw std::system_error(error, std::generic_category());
}

// A segment's columns and the end of its journal.
class SegmentFiles : public ColumnWriter {
public:
  SegmentFiles(std::vector<int> fds, std::vector<std::size_t> row_bytes, rl::JournalTail &journal, int journal_fd)
      : ColumnWriter(std::move(fds), std::move(row_bytes)), tail(journal), fd(journal_fd) {}

  rl::JournalTail &tail;  // kept alive by Python
  const int fd;
};

// The addresses of contiguous arrays of `rows` rows, one per column.
std::vector<const std::uint8_t *> addresses(const ColumnWriter &self, const py::sequence &arrays, std::size_t rows) {
  if (arrays.size() != self.num_columns()) throw py::value_error("an array per column is expected");
  std::vector<const std::uint8_t *> found;
  found.reserve(self.num_columns());
  for (std::size_t i = 0; i < self.num_columns(); ++i) {
    const py::object item = arrays[i];
    if (!py::isinstance<py::array>(item)) throw py::type_error("arrays are expected");
    const auto array = py::reinterpret_borrow<py::array>(item);
    const std::size_t size = rows * self.row_bytes(i);
    if (!(array.flags() & py::array::c_style) || static_cast<std::size_t>(array.nbytes()) != size)
      throw py::value_error("an array is not contiguous, or has not the bytes of its rows");
    found.push_back(static_cast<const std::uint8_t *>(array.data()));
  }
  return found;
}

void write_rows(SegmentFiles &self, const py::sequence &arrays, std::size_t rows, std::uint64_t at) {
  const auto data = addresses(self, arrays, rows);
  int error;
  {
    const py::gil_scoped_release unlocked;
    error = self.write(data.data(), rows, at);
  }
  check(error);
}

void resume(SegmentFiles &self, std::size_t column, const py::bytes &data) {
  if (column >= self.num_columns()) throw py::index_error("no such column");
  const std::string_view view = data;
  self.resume(column, reinterpret_cast<const std::uint8_t *>(view.data()), view.size());
}

std::uint64_t digest(SegmentFiles &self, const py::bytes &others) {
  const std::string_view view = others;
  return self.digest(reinterpret_cast<const std::uint8_t *>(view.data()), view.size());
}

// Appends the record that commits the rows before `end`, all that were hashed, to the journal, behind `before`.
void commit(SegmentFiles &self, const py::bytes &before, const py::bytes &others, std::uint64_t end, std::uint64_t tag,
            bool durable) {
  rl::JournalTail &tail = self.tail;
  const std::string_view episodes = before;
  std::uint8_t one[rl::RECORD_BYTES];
  std::vector<std::uint8_t> many;
  std::uint8_t *bytes = one;
  if (!episodes.empty()) {
    many.resize(episodes.size() + rl::RECORD_BYTES);
    std::memcpy(many.data(), episodes.data(), episodes.size());
    bytes = many.data();
  }
  tail.rows(end, digest(self, others), rl::now_ns(), tag, durable, bytes + episodes.size());
  const std::size_t size = episodes.size() + rl::RECORD_BYTES;
  check(rl::write_all(self.fd, bytes, size, tail.size));
  tail.size += size, tail.committed = end;
}

// (the hashes of the blocks of a column's file that have rows, in a file of `size` bytes; XXH3-128 of all rows as
// {high, low}, or None of so few bytes that it must be computed from them).
py::tuple sums(const SegmentFiles &self, std::size_t column, std::size_t size) {
  if (column >= self.num_columns()) throw py::index_error("no such column");
  const rl::GrowingSums &sums = self.sums(column);
  if (sums.all().total() > size) throw py::value_error("the rows are more than the file");
  std::vector<std::uint64_t> blocks;
  {
    const py::gil_scoped_release unlocked;
    blocks = sums.blocks(size);
  }
  if (sums.all().total() <= rl::Xxh3::SHORT) return py::make_tuple(blocks, py::none());
  const auto content = sums.all().digest128();
  return py::make_tuple(blocks, py::make_tuple(content[1], content[0]));
}

// What rows must look like: the quick way through the check of well-formed ones.
class RowCheck {
public:
  RowCheck(const py::sequence &keys, const py::sequence &dtypes, const py::sequence &shapes) {
    for (std::size_t i = 0; i < keys.size(); ++i)
      columns_.push_back({keys[i], py::dtype::from_args(dtypes[i]), shapes[i].cast<std::vector<py::ssize_t>>()});
  }

  // (arrays in order, rows), or None where anything is not exactly as expected: the caller finds out what.
  py::object take(const py::dict &given) const {
    if (given.size() != columns_.size() || columns_.empty()) return py::none();
    py::list arrays(columns_.size());
    py::ssize_t rows = -1;
    for (std::size_t i = 0; i < columns_.size(); ++i) {
      const Column &column = columns_[i];
      PyObject *item = PyDict_GetItemWithError(given.ptr(), column.key.ptr());
      if (item == nullptr) {
        if (PyErr_Occurred()) throw py::error_already_set();
        return py::none();
      }
      if (!py::isinstance<py::array>(item)) return py::none();
      const auto array = py::reinterpret_borrow<py::array>(item);
      const auto dims = static_cast<std::size_t>(array.ndim());
      const py::dtype dtype = array.dtype();
      if (dtype.num() != column.dtype.num() || dtype.byteorder() == '>' || dims != column.shape.size() + 1 ||
          !(array.flags() & py::array::c_style))
        return py::none();
      if (rows < 0) rows = array.shape(0);
      if (array.shape(0) != rows || !std::equal(column.shape.begin(), column.shape.end(), array.shape() + 1))
        return py::none();
      arrays[i] = array;
    }
    return py::make_tuple(arrays, rows);
  }

private:
  struct Column {
    py::object key;
    py::dtype dtype;
    std::vector<py::ssize_t> shape;
  };
  std::vector<Column> columns_;
};

}  // namespace

void bind_column_writer(py::module_ &module) {
  py::class_<rl::JournalTail>(module, "JournalTail")
      .def(py::init([](std::uint16_t stream) { return rl::JournalTail{stream}; }), py::arg("stream"))
      .def_readonly("stream", &rl::JournalTail::stream)
      .def_readwrite("sequence", &rl::JournalTail::sequence)
      .def_readwrite("crc", &rl::JournalTail::crc)
      .def_readwrite("size", &rl::JournalTail::size)
      .def_readwrite("committed", &rl::JournalTail::committed);
  py::class_<SegmentFiles>(module, "ColumnWriter")
      .def(py::init<std::vector<int>, std::vector<std::size_t>, rl::JournalTail &, int>(), py::arg("fds"),
           py::arg("row_bytes"), py::arg("journal"), py::arg("journal_fd"), py::keep_alive<1, 4>())
      .def("write", &write_rows, py::arg("arrays"), py::arg("rows"), py::arg("at"))
      .def(
          "hash",
          [](SegmentFiles &self, const py::sequence &arrays, std::size_t rows) {
            self.hash(addresses(self, arrays, rows).data(), rows);
          },
          py::arg("arrays"), py::arg("rows"))
      .def("digest", &digest, py::arg("others"))
      .def("resume", &resume, py::arg("column"), py::arg("data"))
      .def("sums", &sums, py::arg("column"), py::arg("size"))
      .def("commit", &commit, py::arg("before"), py::arg("others"), py::arg("end"),
           py::arg("tag"), py::arg("durable"));
  py::class_<RowCheck>(module, "RowCheck")
      .def(py::init<const py::sequence &, const py::sequence &, const py::sequence &>(), py::arg("keys"),
           py::arg("dtypes"), py::arg("shapes"))
      .def("take", &RowCheck::take, py::arg("columns"));
}
