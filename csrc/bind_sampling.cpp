#include "bind.hpp"
#include "bind_row_map.hpp"
#include "random.hpp"
#include "row_priorities.hpp"

#include <algorithm>
#include <stdexcept>
#include <vector>

namespace {

template <typename T> std::size_t length(const Array<T> &array) {
  if (array.ndim() != 1) throw std::invalid_argument("an array must be [B]");
  return static_cast<std::size_t>(array.shape(0));
}

template <typename T> T *target(Array<T> &array) {
  if (!array.writeable()) throw std::invalid_argument("out is read-only");
  return array.mutable_data();
}

template <typename T> Array<T> copy_of(const std::vector<T> &values) {
  return Array<T>(static_cast<py::ssize_t>(values.size()), values.data());
}

void check(const Target *into, std::size_t size) {
  if (into != nullptr && into->count() != size) throw std::invalid_argument("as many rows as the arrays have");
}

// Row low + k for k uniform over `count` eligible rows; gaps[j] is how many eligible rows lie before the j-th row that
// is left out.
void uniform_rows(const rl::Random &random, std::int64_t low, std::uint64_t count, const std::int64_t *gaps,
                  std::size_t num_gaps, std::int64_t *out, std::size_t size) {
  random.fill(reinterpret_cast<std::uint64_t *>(out), size);
  for (std::size_t i = 0; i < size; ++i) {
    const auto k = static_cast<std::int64_t>(rl::below(static_cast<std::uint64_t>(out[i]), count));
    out[i] = low + k + (num_gaps == 0 ? 0 : std::upper_bound(gaps, gaps + num_gaps, k) - gaps);
  }
}

}  // namespace

void bind_sampling(py::module_ &module) {
  module.def(
      "random_numbers",
      [](std::uint64_t seed, std::uint64_t stream, std::uint64_t batch, Array<std::uint64_t> out) {
        const std::size_t size = length(out);
        std::uint64_t *numbers = target(out);
        py::gil_scoped_release nogil;
        rl::Random(seed, stream, batch).fill(numbers, size);
      },
      py::arg("seed"), py::arg("stream"), py::arg("batch"), py::arg("out").noconvert());
  module.def(
      "uniform_rows",
      [](std::uint64_t seed, std::uint64_t stream, std::uint64_t batch, std::int64_t low, std::int64_t count,
         const Array<std::int64_t> &gaps, Array<std::int64_t> out, const Target *into) {
        if (count < 1) throw std::invalid_argument("no row to draw");
        const std::size_t size = length(out), num_gaps = length(gaps);
        check(into, size);
        std::int64_t *rows = target(out);
        rl::Outcome outcome = rl::Outcome::untouched;
        {
          py::gil_scoped_release nogil;
          uniform_rows(rl::Random(seed, stream, batch), low, static_cast<std::uint64_t>(count), gaps.data(), num_gaps,
                       rows, size);
          if (into != nullptr) outcome = into->fill(rows);
        }
        return into != nullptr && into->is_done(outcome);
      },
      py::arg("seed"), py::arg("stream"), py::arg("batch"), py::arg("low"), py::arg("count"),
      py::arg("gaps").noconvert(), py::arg("out").noconvert(), py::arg("into") = nullptr);
  module.def(
      "permuted",
      [](std::uint64_t seed, std::uint64_t stream, std::uint64_t epoch, std::int64_t count, std::int64_t start,
         Array<std::int64_t> out) {
        const std::size_t size = length(out);
        if (start < 0 || count < start || count - start < static_cast<std::int64_t>(size))
          throw std::invalid_argument("positions outside the permutation");
        const rl::Permutation permutation(seed, stream, epoch, static_cast<std::uint64_t>(count));
        std::int64_t *images = target(out);
        py::gil_scoped_release nogil;
        for (std::size_t i = 0; i < size; ++i)
          images[i] = static_cast<std::int64_t>(permutation(static_cast<std::uint64_t>(start) + i));
      },
      py::arg("seed"), py::arg("stream"), py::arg("epoch"), py::arg("count"), py::arg("start"),
      py::arg("out").noconvert());

  py::class_<rl::RowPriorities>(module, "RowPriorities")
      .def(py::init<double, double>(), py::arg("alpha"), py::arg("epsilon"))
      .def("cover", &rl::RowPriorities::cover, py::arg("stream"), py::arg("first"), py::arg("count"),
           py::arg("priority"), py::call_guard<py::gil_scoped_release>())
      .def("evict", &rl::RowPriorities::evict, py::arg("stream"), py::arg("start"),
           py::call_guard<py::gil_scoped_release>())
      .def(
          "set",
          [](rl::RowPriorities &self, const Array<std::int64_t> &ids, const Array<double> &priorities) {
            const std::size_t count = length(ids);
            if (length(priorities) != count) throw std::invalid_argument("one priority per row");
            py::gil_scoped_release nogil;
            return self.set(ids.data(), priorities.data(), count);
          },
          py::arg("ids").noconvert(), py::arg("priorities").noconvert())
      .def(
          "get",
          [](const rl::RowPriorities &self, const Array<std::int64_t> &ids) {
            const std::size_t count = length(ids);
            Array<double> found(static_cast<py::ssize_t>(count));
            double *out = found.mutable_data();
            {
              py::gil_scoped_release nogil;
              self.get(ids.data(), count, out);
            }
            return found;
          },
          py::arg("ids").noconvert())
      .def(
          "sample",
          [](const rl::RowPriorities &self, std::uint64_t seed, std::uint64_t stream, std::uint64_t batch,
             bool stratified, double beta, Array<std::int64_t> ids, Array<float> weights, const Target *into) {
            const std::size_t count = length(ids);
            if (length(weights) != count) throw std::invalid_argument("one weight per row");
            check(into, count);
            std::int64_t *drawn = target(ids);
            float *weight = target(weights);
            bool any = false;
            rl::Outcome outcome = rl::Outcome::untouched;
            {
              py::gil_scoped_release nogil;
              any = self.sample(rl::Random(seed, stream, batch), count, stratified, beta, drawn, weight);
              if (any && into != nullptr) outcome = into->fill_ids(drawn);
            }
            return std::make_pair(any, any && into != nullptr && into->is_done(outcome));
          },
          py::arg("seed"), py::arg("stream"), py::arg("batch"), py::arg("stratified"), py::arg("beta"),
          py::arg("ids").noconvert(), py::arg("weights").noconvert(), py::arg("into") = nullptr)
      .def(
          "sample_distinct",
          [](rl::RowPriorities &self, std::uint64_t seed, std::uint64_t stream, std::uint64_t batch, double beta,
             Array<std::int64_t> ids, Array<float> weights) {
            const std::size_t count = length(ids);
            if (length(weights) != count) throw std::invalid_argument("one weight per row");
            std::int64_t *drawn = target(ids);
            float *weight = target(weights);
            py::gil_scoped_release nogil;
            return self.sample_distinct(rl::Random(seed, stream, batch), count, beta, drawn, weight);
          },
          py::arg("seed"), py::arg("stream"), py::arg("batch"), py::arg("beta"), py::arg("ids").noconvert(),
          py::arg("weights").noconvert())
      .def("owners", [](const rl::RowPriorities &self) { return copy_of(self.owners()); })
      .def("priorities", [](const rl::RowPriorities &self) { return copy_of(self.priorities()); })
      .def(
          "restore",
          [](rl::RowPriorities &self, const Array<std::int64_t> &owners, const Array<double> &priorities) {
            self.restore({owners.data(), owners.data() + length(owners)},
                         {priorities.data(), priorities.data() + length(priorities)});
          },
          py::arg("owners").noconvert(), py::arg("priorities").noconvert())
      .def_property_readonly("total", &rl::RowPriorities::total)
      .def_property_readonly("least", &rl::RowPriorities::least);
}
