#include "bind.hpp"
#include "consecutive.hpp"

#include <algorithm>
#include <vector>

namespace {

// The rows in which two contiguous arrays `[n, …]` of one shape hold other bytes.
py::array_t<std::int64_t> differing_rows(const py::array &a, const py::array &b) {
  const bool are_flat = a.flags() & b.flags() & py::array::c_style;
  if (!are_flat || a.ndim() == 0 || a.nbytes() != b.nbytes() || b.ndim() == 0 || a.shape(0) != b.shape(0))
    throw py::value_error("contiguous arrays of as many rows and bytes are expected");
  const auto rows = static_cast<std::size_t>(a.shape(0));
  const std::size_t row_bytes = rows ? static_cast<std::size_t>(a.nbytes()) / rows : 0;
  const auto *left = static_cast<const std::uint8_t *>(a.data()), *right = static_cast<const std::uint8_t *>(b.data());
  std::vector<std::int64_t> found;
  {
    const py::gil_scoped_release unlocked;
    found = rl::differing_rows(left, right, rows, row_bytes);
  }
  return py::array_t<std::int64_t>(static_cast<py::ssize_t>(found.size()), found.data());
}

// Of parts `[k, 3]`, each the first row, its step and its episode, what is known of all rows, as many as `step` has.
void number_rows(const Array<std::int64_t> &parts, Array<std::int64_t> &step, Array<std::int64_t> &episode,
                 Array<bool> &is_first) {
  const py::ssize_t rows = step.size();
  if (parts.ndim() != 2 || parts.shape(1) != 3 || episode.size() != rows || is_first.size() != rows)
    throw py::value_error("parts [k, 3] and as many rows in each array are expected");
  const auto *given = reinterpret_cast<const rl::EpisodePart *>(parts.data());
  std::int64_t before = 0;
  for (py::ssize_t i = 0; i < parts.shape(0); before = given[i++].first)
    if (given[i].first < before || given[i].first > rows) throw py::value_error("the parts are not in order");
  if (rows && (!parts.shape(0) || given[0].first != 0)) throw py::value_error("the first row is of no part");
  rl::number_rows(given, static_cast<std::size_t>(parts.shape(0)), static_cast<std::size_t>(rows), step.mutable_data(),
                  episode.mutable_data(), reinterpret_cast<std::uint8_t *>(is_first.mutable_data()));
}

}  // namespace

void bind_consecutive(py::module_ &module) {
  module.def("differing_rows", &differing_rows, py::arg("a"), py::arg("b"));
  module.def("number_rows", &number_rows, py::arg("parts"), py::arg("step"), py::arg("episode"), py::arg("is_first"));
}
