// What Python sees of a map of rows, and the memory that its columns are gathered into again and again.
#pragma once

#include "bind.hpp"
#include "row_map.hpp"
#include "sealed_rows.hpp"

#include <pybind11/stl.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

using Rows = Array<std::int64_t>;

inline std::vector<rl::Address> pointers(const std::vector<std::uintptr_t> &addresses) {
  std::vector<rl::Address> found;
  found.reserve(addresses.size());
  for (std::uintptr_t address : addresses)
    found.push_back(reinterpret_cast<rl::Address>(address));
  return found;
}

// An array that is given to be filled: what is only like one would be converted, and the copy filled.
inline py::array array_of(const py::object &given) {
  if (!py::isinstance<py::array>(given)) throw py::type_error("out: arrays are expected");
  return py::reinterpret_borrow<py::array>(given);
}

// The map, and what its columns look like in NumPy.
struct Table {
  rl::RowMap rows;
  rl::Workers workers;  // that share large copies
  std::size_t threads = 1;
  std::vector<rl::SealedColumn> files;  // of the columns, in segments and in finals
  std::vector<py::dtype> dtypes;
  std::vector<std::vector<py::ssize_t>> shapes;  // with a place for the number of rows in front

  static constexpr std::size_t kMostBytes = std::size_t{1} << 40;  // of a row

  // One of the same columns, without streams.
  std::unique_ptr<Table> empty() const {
    auto found = std::make_unique<Table>();
    for (const rl::SealedColumn &column : files)
      column.values.derived ? found->rows.add_shift(column.values.of) : found->rows.add_plain(column.values.row_bytes);
    found->files = files, found->dtypes = dtypes, found->shapes = shapes;
    return found;
  }

  std::size_t add_plain(const py::dtype &dtype, const std::vector<py::ssize_t> &shape, std::string file) {
    if (dtype.attr("hasobject").cast<bool>()) throw std::invalid_argument("objects are no values of a column");
    std::size_t row_bytes = static_cast<std::size_t>(dtype.itemsize());
    std::vector<py::ssize_t> full{0};
    for (py::ssize_t n : shape) {
      if (n < 1) throw std::invalid_argument("empty axis");
      if (row_bytes > kMostBytes / static_cast<std::size_t>(n)) throw std::invalid_argument("a row is too large");
      row_bytes *= static_cast<std::size_t>(n);
      full.push_back(n);
    }
    const std::size_t column = rows.add_plain(row_bytes);
    files.push_back({rows.column(column), std::move(file)});
    dtypes.push_back(dtype);
    shapes.push_back(full);
    return column;
  }

  std::size_t add_shift(std::size_t of, std::string file) {
    const std::size_t column = rows.add_shift(of);
    files.push_back({rows.column(column), std::move(file)});
    dtypes.push_back(dtypes[of]);
    shapes.push_back(shapes[of]);
    return column;
  }

  // Lists segments, range of addresses after range: `(bases of the stored columns, segments)`, and a segment is (first
  // row, rows, room, row of the range at which it begins).
  void add_segments(std::size_t stream, const py::sequence &ranges) {
    using Entry = std::tuple<std::int64_t, std::int64_t, std::int64_t, std::uintptr_t>;
    std::vector<rl::RowMap::Listed> segments;
    for (py::handle range : ranges) {
      const auto [bases, listed] = range.cast<std::pair<std::vector<std::uintptr_t>, py::sequence>>();
      for (py::handle entry : listed) {
        const auto [first, count, room, at] = entry.cast<Entry>();
        segments.push_back({first, count, room, pointers(bases)});
        segments.back().bases.resize(rows.num_columns());
        for (std::size_t c = 0; c < bases.size() && c < rows.num_columns(); ++c) {
          const std::size_t row_bytes = rows.column(c).row_bytes;
          if (at > (std::numeric_limits<std::uintptr_t>::max() - bases[c]) / row_bytes)
            throw std::invalid_argument("a column is nowhere in memory");
          segments.back().bases[c] += at * row_bytes;
        }
      }
    }
    rows.add_segments(stream, std::move(segments));
  }

  void fill(std::size_t stream, std::int64_t first, std::int64_t count, const Rows &ends, const Array<bool> &has_final,
            const std::vector<std::uintptr_t> &final_bases) {
    if (ends.ndim() != 1 || has_final.ndim() != 1 || ends.shape(0) != has_final.shape(0))
      throw std::invalid_argument("ends and has_final must be [E]");
    rows.fill(stream, first, count, ends.data(), reinterpret_cast<const std::uint8_t *>(has_final.data()),
              static_cast<std::size_t>(ends.shape(0)), pointers(final_bases));
  }

  void set_threads(std::size_t count) {
    rl::Workers::check(count);
    threads = count;
  }

  // The shape of `count` values of a column, or stacks of that many `frames`.
  std::vector<py::ssize_t> shape_of(std::size_t column, std::size_t count, std::size_t frames = 0) const {
    std::vector<py::ssize_t> shape = shapes[column];
    shape[0] = static_cast<py::ssize_t>(count);
    if (frames) shape.insert(shape.begin() + 1, static_cast<py::ssize_t>(frames));
    return shape;
  }

  void check(const py::array &array, std::size_t column, const std::vector<py::ssize_t> &shape) const {
    if (array.ndim() != static_cast<py::ssize_t>(shape.size()) ||
        !std::equal(shape.begin(), shape.end(), array.shape()) || !array.dtype().equal(dtypes[column]) ||
        !(array.flags() & py::array::c_style) || !is_aligned(array) || !array.writeable())
      throw std::invalid_argument("out: an array differs in dtype, shape, order or alignment, or is read-only");
  }

  // A list of arrays of `count` rows, one per column, fresh unless `out` gives them; `copy` fills their memory. None if
  // rows of a segment that was not filled in are among them.
  template <typename Copy>
  py::object arrays(std::size_t count, const py::tuple &columns, const py::object &out, Copy copy) const {
    py::list found(columns.size());
    std::vector<std::size_t> chosen(columns.size());
    std::vector<std::uint8_t *> targets(columns.size());
    for (std::size_t k = 0; k < columns.size(); ++k) {
      chosen[k] = columns[k].cast<std::size_t>();
      if (chosen[k] >= rows.num_columns()) throw std::out_of_range("no such column");
      py::array array;
      if (out.is_none()) {
        array = py::array(dtypes[chosen[k]], shape_of(chosen[k], count));
      } else {
        array = array_of(out.cast<py::sequence>()[k]);
        check(array, chosen[k], shape_of(chosen[k], count));
      }
      targets[k] = static_cast<std::uint8_t *>(array.mutable_data());
      found[k] = std::move(array);
    }
    rl::Outcome outcome;
    {
      py::gil_scoped_release nogil;
      outcome = copy(chosen, targets);
    }
    if (!is_done(outcome)) return py::none();
    return std::move(found);
  }

  bool is_done(rl::Outcome outcome) const {
    if (outcome == rl::Outcome::outside)
      throw py::index_error("a row is outside 0 to " + std::to_string(rows.num_rows() - 1));
    return outcome == rl::Outcome::done;
  }

  py::object gather(const Rows &index, const py::tuple &columns, const py::object &out) {
    if (index.ndim() != 1) throw std::invalid_argument("rows must be [B]");
    const auto count = static_cast<std::size_t>(index.shape(0));
    return arrays(count, columns, out, [&](const auto &chosen, const auto &targets) {
      return rows.gather(index.data(), count, chosen, targets, workers.of(threads).get());
    });
  }

  // Stacks of so many `frames` of each column fill the arrays `out`. False if rows of a segment that was not filled in
  // are among them.
  bool stacks(const Rows &index, const py::tuple &columns, const py::tuple &frames, const py::sequence &out) {
    if (index.ndim() != 1) throw std::invalid_argument("rows must be [B]");
    if (frames.size() != columns.size() || out.size() != columns.size())
      throw std::invalid_argument("as many frames and out as columns");
    const auto count = static_cast<std::size_t>(index.shape(0));
    std::vector<rl::RowMap::Stacked> chosen;
    std::vector<std::uint8_t *> targets;
    for (std::size_t k = 0; k < columns.size(); ++k) {
      chosen.push_back({columns[k].cast<std::size_t>(), frames[k].cast<std::size_t>()});
      if (chosen[k].column >= rows.num_columns()) throw std::out_of_range("no such column");
      if (chosen[k].frames < 1) throw std::invalid_argument("a stack has at least one frame");
      auto array = array_of(out[k]);
      check(array, chosen[k].column, shape_of(chosen[k].column, count, chosen[k].frames));
      targets.push_back(static_cast<std::uint8_t *>(array.mutable_data()));
    }
    rl::Outcome outcome;
    {
      py::gil_scoped_release nogil;
      outcome = rows.stacks(index.data(), count, chosen, targets, workers.of(threads).get());
    }
    return is_done(outcome);
  }

  // Runs of `counts` logical rows from `starts` on go to rows `at` of the arrays `out`, of `size` rows each. False if
  // rows of a segment that was not filled in are among them.
  bool read_runs(const Rows &starts, const Rows &counts, const Rows &at, std::size_t size, const py::tuple &columns,
                 const py::sequence &out) {
    if (starts.ndim() != 1 || counts.size() != starts.size() || at.size() != starts.size())
      throw std::invalid_argument("starts, counts and at must be [B]");
    std::vector<rl::RowMap::Run> runs(static_cast<std::size_t>(starts.size()));
    for (std::size_t k = 0; k < runs.size(); ++k) {
      runs[k] = {starts.data()[k], counts.data()[k], at.data()[k]};
      const auto most = static_cast<std::int64_t>(size);  // sums of what is given might overflow
      if (runs[k].at < 0 || runs[k].count < 0 || runs[k].count > most || runs[k].at > most - runs[k].count)
        throw std::invalid_argument("a run does not fit where it goes");
    }
    const py::object found = arrays(size, columns, out, [&](const auto &chosen, const auto &targets) {
      return rows.read_runs(runs, chosen, targets);
    });
    return !found.is_none();
  }

  py::object read(std::int64_t start, std::int64_t stop, const py::tuple &columns, const py::object &out) {
    if (start < 0 || stop < start || stop > rows.num_rows())
      throw py::index_error("rows " + std::to_string(start) + " to " + std::to_string(stop) + " of " +
                            std::to_string(rows.num_rows()));
    return arrays(static_cast<std::size_t>(stop - start), columns, out,
                  [&](const auto &chosen, const auto &targets) { return rows.read(start, stop, chosen, targets); });
  }

  // Stream rows [low, high) of a sealed segment from its files, where it is not to be mapped for them. `goes_on` says
  // that the stream has a row `high`. All the segment's episodes end in the stream rows `ends`. With a `journal` the
  // rows are compared with the commits that brought them. None where that would read more than `most_bytes`, or
  // something is not as it must be.
  py::object read_sealed(const rl::SealedSegment &segment, std::int64_t low, std::int64_t high, bool goes_on,
                         const Rows &ends, const Array<bool> &has_final, const py::tuple &columns,
                         const std::optional<py::bytes> &journal, std::size_t most_bytes) const {
    if (ends.ndim() != 1 || has_final.ndim() != 1 || ends.shape(0) != has_final.shape(0))
      throw std::invalid_argument("ends and has_final must be [E]");
    if (low < segment.first || high <= low || high - segment.first > segment.rows)
      throw std::invalid_argument("rows outside the segment");
    std::size_t row_bytes = 0;
    bool derived = false;
    for (py::handle column : columns) {
      const rl::RowPlaces::Column &values = rows.column(column.cast<std::size_t>());
      row_bytes += values.row_bytes, derived |= values.derived;
    }
    rl::FewRows few{low - segment.first, high - segment.first, 0, {}, {}, 0};
    if (derived) {
      few.find_ends(segment.first, ends.data(), has_final.data(), static_cast<std::size_t>(ends.size()));
      few.behind = goes_on && (few.ends.empty() || few.ends.back() != few.high - 1);
    }
    const auto count = static_cast<std::size_t>(few.count());
    if (few.high + few.behind > segment.rows || (row_bytes && count > most_bytes / row_bytes)) return py::none();
    const auto records = journal ? static_cast<std::string_view>(*journal) : std::string_view();
    const auto *data = journal ? reinterpret_cast<const std::uint8_t *>(records.data()) : nullptr;
    return arrays(count, columns, py::none(), [&](const auto &chosen, const auto &targets) {
      const bool done = rl::read_sealed(segment, files, few, chosen, targets, data, records.size(), most_bytes);
      return done ? rl::Outcome::done : rl::Outcome::untouched;
    });
  }
};

// Arrays of so many rows, one per column, that were checked once.
class Target {
public:
  Target(Table &table, const py::tuple &columns, const py::sequence &out) : table_(table) {
    if (out.size() != columns.size() || out.size() == 0) throw std::invalid_argument("as many arrays as columns");
    count_ = static_cast<std::size_t>(array_of(out[0]).shape(0));
    for (std::size_t k = 0; k < columns.size(); ++k) {
      columns_.push_back(columns[k].cast<std::size_t>());
      if (columns_[k] >= table.rows.num_columns()) throw std::out_of_range("no such column");
      auto array = array_of(out[k]);
      table.check(array, columns_[k], table.shape_of(columns_[k], count_));
      out_.push_back(static_cast<std::uint8_t *>(array.mutable_data()));
      arrays_.append(std::move(array));
    }
  }

  std::size_t count() const { return count_; }

  // Fills the arrays with these rows, as many as they have; without the GIL. Nothing is copied unless all can be.
  rl::Outcome fill(const std::int64_t *rows) const {
    return table_.rows.gather(rows, count_, columns_, out_, table_.workers.of(table_.threads).get());
  }

  // Likewise with the rows of these identities.
  rl::Outcome fill_ids(const std::int64_t *ids) const {
    std::vector<std::int64_t> rows(count_);
    table_.rows.rows_of(ids, count_, rows.data());
    return fill(rows.data());
  }

  bool is_done(rl::Outcome outcome) const { return table_.is_done(outcome); }

  bool gather(const Rows &index) const {
    if (index.ndim() != 1 || static_cast<std::size_t>(index.shape(0)) != count_)
      throw std::invalid_argument("rows must be [B], as many as the arrays have");
    rl::Outcome outcome;
    {
      py::gil_scoped_release nogil;
      outcome = fill(index.data());
    }
    return is_done(outcome);
  }

private:
  Table &table_;  // which the Python object keeps
  std::size_t count_;
  std::vector<std::size_t> columns_;
  std::vector<std::uint8_t *> out_;
  py::list arrays_;
};
