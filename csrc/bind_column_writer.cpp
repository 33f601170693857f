#include "bind.hpp"
#include "bind_sums.hpp"
#include "column_writer.hpp"
#include "journal_tail.hpp"
#include "reward_sum.hpp"

#include <algorithm>
#include <string>
#include <string_view>
#include <system_error>

#include <pybind11/stl.h>

namespace {

using rl::ColumnWriter;

void check(int error) {
  if (error) throw std::system_error(error, std::generic_category());
}

// A segment's columns, of `alloc` rows, and the end of its journal.
class SegmentFiles : public ColumnWriter {
public:
  SegmentFiles(std::vector<int> fds, std::vector<std::size_t> row_bytes, rl::JournalTail &journal, int journal_fd,
               std::size_t others, std::uint64_t rows, std::uint64_t alloc)
      : ColumnWriter(std::move(fds), std::move(row_bytes), others, rows), tail(journal), fd(journal_fd), alloc(alloc) {}

  std::uint64_t room() const noexcept { return alloc - rows(); }
  bool has_new_rows() const noexcept { return rows() != tail.committed; }

  rl::JournalTail &tail;  // kept alive by Python
  const int fd;
  const std::uint64_t alloc;
};

// The addresses of contiguous arrays of `rows` rows, one per column.
std::vector<const std::uint8_t *> addresses(const SegmentFiles &self, const py::sequence &arrays, std::size_t rows) {
  if (arrays.size() != self.num_columns()) throw py::value_error("an array per column is expected");
  if (rows > self.room()) throw py::value_error("more rows than there is room for");
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

void write_unlocked(SegmentFiles &self, const std::uint8_t *const *data, std::size_t rows) {
  int error;
  {
    const py::gil_scoped_release unlocked;
    error = self.write(data, rows);
  }
  check(error);
}

void write_rows(SegmentFiles &self, const py::sequence &arrays, std::size_t rows) {
  write_unlocked(self, addresses(self, arrays, rows).data(), rows);
}

void resume(SegmentFiles &self, std::size_t column, const py::bytes &data) {
  if (column >= self.num_columns()) throw py::index_error("no such column");
  const std::string_view view = data;
  self.resume(column, reinterpret_cast<const std::uint8_t *>(view.data()), view.size());
}

std::uint64_t digest(SegmentFiles &self, const py::bytes &others) {
  const std::string_view view = others;
  if (view.empty()) return self.digest();
  if (view.size() != 8 * self.num_others()) throw py::value_error("eight bytes for each of the others");
  return self.digest(reinterpret_cast<const std::uint8_t *>(view.data()));
}

void append_commit(SegmentFiles &self, std::uint64_t hash, std::uint64_t tag, bool durable, std::string_view before) {
  rl::JournalTail &tail = self.tail;
  std::uint8_t one[rl::RECORD_BYTES];
  std::vector<std::uint8_t> many;
  std::uint8_t *bytes = one;
  if (!before.empty()) {
    many.resize(before.size() + rl::RECORD_BYTES);
    std::memcpy(many.data(), before.data(), before.size());
    bytes = many.data();
  }
  tail.rows(self.rows(), hash, rl::now_ns(), tag, durable, bytes + before.size());
  const std::size_t size = before.size() + rl::RECORD_BYTES;
  check(rl::write_all(self.fd, bytes, size, tail.size));
  tail.size += size, tail.committed = self.rows();
}

// Appends the record that commits all rows to the journal.
void commit(SegmentFiles &self, std::uint64_t tag, bool durable) {
  append_commit(self, self.digest(), tag, durable, {});
}

// The same, behind records of episodes, of a commit that has others than columns.
void commit_all(SegmentFiles &self, std::uint64_t tag, bool durable, const py::bytes &before, const py::bytes &others) {
  append_commit(self, digest(self, others), tag, durable, before);
}

// `told` of a column's file of `size` bytes.
py::tuple sums(const SegmentFiles &self, std::size_t column, std::size_t size) {
  if (column >= self.num_columns()) throw py::index_error("no such column");
  const rl::GrowingSums &sums = self.sums(column);
  if (sums.all().total() > size) throw py::value_error("the rows are more than the file");
  return told(sums, size);
}

// Values of consecutive rows, in order; the caller converts what is neither float32 nor float64.
void add_rewards(rl::RewardSum &self, const py::array &values) {
  if (!(values.flags() & py::array::c_style)) throw py::value_error("the rewards are not contiguous");
  const auto count = static_cast<std::size_t>(values.size());
  if (py::isinstance<py::array_t<float>>(values))
    self.add(static_cast<const float *>(values.data()), count);
  else if (py::isinstance<py::array_t<double>>(values))
    self.add(static_cast<const double *>(values.data()), count);
  else
    throw py::type_error("rewards are float32 or float64");
}

// The returns of episodes that end one after the other, `rests` values before the last one each.
std::vector<double> take_rewards(rl::RewardSum &self, const std::vector<std::size_t> &rests) {
  std::vector<double> found;
  found.reserve(rests.size());
  for (const std::size_t rest : rests) {
    if (rest > self.held()) throw py::value_error("an episode ends in the last write or behind it");
    found.push_back(self.take(rest));
  }
  return found;
}

// What rows must look like: the quick way to a segment for well-formed ones.
class QuickRows {
public:
  QuickRows(const py::sequence &keys, const py::sequence &dtypes, const py::sequence &shapes, py::ssize_t reward)
      : reward_(reward) {
    for (std::size_t i = 0; i < keys.size(); ++i)
      columns_.push_back({keys[i], py::dtype::from_args(dtypes[i]), shapes[i].cast<std::vector<py::ssize_t>>()});
  }

  // Writes rows to a segment and adds their rewards to a sum; returns how many they are. -1 where there is no room for
  // them, or anything is not exactly as expected: nothing has happened then, and the caller finds out what.
  py::ssize_t write(const py::dict &given, SegmentFiles &segment, rl::RewardSum &rewards) {
    if (given.size() != columns_.size() || columns_.empty() || columns_.size() != segment.num_columns()) return -1;
    std::vector<py::object> arrays(columns_.size());  // kept, whatever others do to the dict meanwhile
    std::vector<const std::uint8_t *> data(columns_.size());
    py::ssize_t rows = -1, position = 0;
    PyObject *key, *item;
    for (std::size_t i = 0; PyDict_Next(given.ptr(), &position, &key, &item); ++i) {
      const std::size_t index = index_of(i, key);
      if (index == columns_.size() || !py::isinstance<py::array>(item)) return -1;
      auto array = py::reinterpret_borrow<py::array>(item);
      if (!columns_[index].fits(array)) return -1;
      if (rows < 0) rows = array.shape(0);
      if (array.shape(0) != rows) return -1;
      data[index] = static_cast<const std::uint8_t *>(array.data());
      arrays[index] = std::move(array);
    }
    if (static_cast<std::uint64_t>(rows) > segment.room()) return -1;
    if (rows == 0) return 0;
    write_unlocked(segment, data.data(), static_cast<std::size_t>(rows));
    if (reward_ >= 0)
      add_rewards(rewards, py::reinterpret_borrow<py::array>(arrays[static_cast<std::size_t>(reward_)]));
    return rows;
  }

private:
  struct Column {
    py::object key;
    py::dtype dtype;
    std::vector<py::ssize_t> shape;  // of a row

    bool fits(const py::array &array) const {
      const py::dtype found = array.dtype();
      return (found.ptr() == dtype.ptr() || (found.num() == dtype.num() && found.byteorder() != '>')) &&
             static_cast<std::size_t>(array.ndim()) == shape.size() + 1 &&
             std::equal(shape.begin(), shape.end(), array.shape() + 1) && array.flags() & py::array::c_style &&
             (dtype.kind() != 'b' || is_boolean(static_cast<const std::uint8_t *>(array.data()), array.nbytes()));
    }

    // Whether each byte is 0 or 1: a view may have made others.
    static bool is_boolean(const std::uint8_t *bytes, py::ssize_t size) {
      std::uint8_t all = 0;
      for (py::ssize_t i = 0; i < size; ++i)
        all |= bytes[i];
      return all <= 1;
    }
  };

  // The column of the i-th key that was given, or the number of columns: who writes rows again and again mostly gives
  // the very same keys in the same order.
  std::size_t index_of(std::size_t i, PyObject *key) {
    if (i < seen_.size() && seen_[i].first.ptr() == key) return seen_[i].second;
    for (std::size_t index = 0; index < columns_.size(); ++index) {
      const int equal = PyObject_RichCompareBool(columns_[index].key.ptr(), key, Py_EQ);
      if (equal < 0) throw py::error_already_set();
      if (!equal) continue;
      seen_.resize(std::max(seen_.size(), i + 1));
      seen_[i] = {py::reinterpret_borrow<py::object>(key), index};
      return index;
    }
    return columns_.size();
  }

  std::vector<Column> columns_;
  const py::ssize_t reward_;  // the column of rewards, or -1
  std::vector<std::pair<py::object, std::size_t>> seen_;
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
      .def(py::init<std::vector<int>, std::vector<std::size_t>, rl::JournalTail &, int, std::size_t, std::uint64_t,
                    std::uint64_t>(),
           py::arg("fds"), py::arg("row_bytes"), py::arg("journal"), py::arg("journal_fd"), py::arg("others"),
           py::arg("rows"), py::arg("alloc"), py::keep_alive<1, 4>())
      .def_property_readonly("rows", &SegmentFiles::rows)
      .def_property_readonly("has_new_rows", &SegmentFiles::has_new_rows)
      .def("write", &write_rows, py::arg("arrays"), py::arg("rows"))
      .def(
          "hash",
          [](SegmentFiles &self, const py::sequence &arrays, std::size_t rows) {
            self.hash(addresses(self, arrays, rows).data(), rows);
          },
          py::arg("arrays"), py::arg("rows"))
      .def("digest", &digest, py::arg("others"))
      .def("resume", &resume, py::arg("column"), py::arg("data"))
      .def("sums", &sums, py::arg("column"), py::arg("size"))
      .def("commit", &commit, py::arg("tag"), py::arg("durable"))
      .def("commit_all", &commit_all, py::arg("tag"), py::arg("durable"), py::arg("before"), py::arg("others"));
  py::class_<rl::RewardSum>(module, "RewardSum")
      .def(py::init<double>(), py::arg("start") = 0.0)
      .def("add", &add_rewards, py::arg("values"))
      .def("take_each", &take_rewards, py::arg("rests"));
  py::class_<QuickRows>(module, "QuickRows")
      .def(py::init<const py::sequence &, const py::sequence &, const py::sequence &, py::ssize_t>(), py::arg("keys"),
           py::arg("dtypes"), py::arg("shapes"), py::arg("reward"))
      .def("write", &QuickRows::write, py::arg("columns"), py::arg("segment"), py::arg("rewards"));
}
