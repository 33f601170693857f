#include "bind.hpp"
#include "merged_examples.hpp"
#include "tfrecord.hpp"

#include <cstring>
#include <vector>

namespace {

using rl::Kind;
using rl::MergedFeature;
using rl::Span;

Span span_of(const py::buffer_info &info) {
  if (info.ndim != 1 || info.itemsize != 1 || (info.size > 1 && info.strides[0] != 1))
    throw py::value_error("bytes are wanted, one after the other");
  const auto *data = static_cast<const std::uint8_t *>(info.ptr);
  return {data, data + info.size};
}

// `(starts, sizes, end, next)`: the payloads of the whole and right records at the beginning of `data`, where the last
// of them ends, and how large the record there is; 0 if its header is cut, `-1` if it is damaged.
py::tuple whole_records(const py::buffer &data) {
  const py::buffer_info info = data.request();
  const Span all = span_of(info);
  std::vector<std::int64_t> starts, sizes;
  std::int64_t next = 0;
  Span rest = all;
  {
    py::gil_scoped_release release;
    while (rest.size()) {
      const rl::tfrecord::Record record = rl::tfrecord::first_record(rest);
      if (record.state != rl::tfrecord::State::whole) {
        const bool has_header = rest.size() >= rl::tfrecord::HEADER;
        next = record.state == rl::tfrecord::State::damaged ? -1 : has_header ? std::int64_t(record.size) : 0;
        break;
      }
      starts.push_back(record.payload.data - all.data);
      sizes.push_back(static_cast<std::int64_t>(record.payload.size()));
      rest.data += record.size;
    }
  }
  const auto array = [](const std::vector<std::int64_t> &values) {
    return py::array_t<std::int64_t>(static_cast<py::ssize_t>(values.size()), values.data());
  };
  return py::make_tuple(array(starts), array(sizes), rest.data - all.data, next);
}

// Byte strings in order; equal ones in turn are one object.
py::list strings_of(const MergedFeature &feature, const py::object &memory, const std::uint8_t *begin) {
  py::list strings(feature.total);
  std::size_t at = 0;
  Span previous;
  rl::read_strings(feature, [&](Span value) {
    const bool is_same =
        at > 0 && previous.size() == value.size() && std::memcmp(previous.data, value.data, value.size()) == 0;
    if (is_same) {
      strings[at] = strings[at - 1];
    } else if (memory.is_none()) {
      strings[at] = py::bytes(reinterpret_cast<const char *>(value.data), value.size());
    } else {
      strings[at] = memory[py::slice(value.data - begin, value.end - begin, 1)];
    }
    previous = value;
    ++at;
  });
  return strings;
}

// The values of a feature as Python has them. The lists of integers are filled without the lock.
py::object values_of(const MergedFeature &feature, bool may_be_small, const py::object &memory,
                     const std::uint8_t *begin) {
  const auto total = static_cast<py::ssize_t>(feature.total);
  const auto filled = [](auto array, auto &&fill) {
    auto *out = array.mutable_data();
    py::gil_scoped_release release;
    fill(out);
    return py::object(std::move(array));
  };
  switch (feature.kind) {
  case Kind::floats:
    return filled(py::array_t<float>(total), [&](float *out) { rl::read_floats(feature, out); });
  case Kind::integers:
    if (may_be_small && feature.is_small) {
      return filled(py::array_t<std::uint8_t>(total),
                    [&](std::uint8_t *out) { rl::read_small_integers(feature, out); });
    }
    return filled(py::array_t<std::int64_t>(total), [&](std::int64_t *out) { rl::read_integers(feature, out); });
  case Kind::bytes:
    return strings_of(feature, memory, begin);
  default:
    return py::none();
  }
}

// Merges as many of the records `data[starts[i] : starts[i] + sizes[i]]` as are alike, from the first on; see
// `merged_examples.hpp`. Returns how many, their values by name and how many each record has, `[records]` by name.
//
// Values are float32 `[n]`, int64 `[n]`, a list of byte strings, or None without a kind, which has no counts. Of
// `wanted` only those features; true there lets small integers be uint8. With `views` byte strings are memoryviews.
py::tuple merge_examples(const py::buffer &data, const Array<std::int64_t> &starts, const Array<std::int64_t> &sizes,
                         const py::object &wanted, bool views) {
  const py::buffer_info info = data.request();
  const Span all = span_of(info);
  if (starts.ndim() != 1 || sizes.ndim() != 1 || starts.size() != sizes.size())
    throw py::value_error("starts and sizes are not as many numbers");
  const py::ssize_t number = starts.size();
  const std::int64_t *start = starts.data(), *size = sizes.data();
  const auto total = static_cast<std::int64_t>(all.size());
  for (py::ssize_t i = 0; i < number; ++i) {
    if (start[i] < 0 || start[i] > total || size[i] < 0 || size[i] > total - start[i])
      throw py::value_error("a record lies outside of its data");
  }
  rl::MergedExamples merged;
  {
    py::gil_scoped_release release;
    for (py::ssize_t i = 0; i < number; ++i) {
      if (!merged.add({all.data + start[i], all.data + start[i] + size[i]})) break;
    }
  }
  py::dict values, counts;
  if (merged.size() == 0) return py::make_tuple(0, values, counts);
  const py::object memory = views ? py::object(py::memoryview(data)) : py::object(py::none());
  for (const MergedFeature &feature : merged.features()) {
    PyObject *key = PyUnicode_DecodeUTF8(feature.name.data(), static_cast<Py_ssize_t>(feature.name.size()), nullptr);
    if (key == nullptr) {
      PyErr_Clear();
      return py::make_tuple(0, py::dict(), py::dict());
    }
    const auto name = py::reinterpret_steal<py::str>(key);
    if (feature.kind != Kind::none) {
      const auto each = static_cast<py::ssize_t>(feature.counts.size());
      counts[name] = py::array_t<std::int64_t>(each, feature.counts.data());
    }
    bool may_be_small = false;
    if (!wanted.is_none()) {
      const auto &names = py::reinterpret_borrow<py::dict>(wanted);
      if (!names.contains(name)) continue;
      may_be_small = names[name].cast<bool>();
    }
    values[name] = values_of(feature, may_be_small, memory, all.data);
  }
  return py::make_tuple(merged.size(), values, counts);
}

}  // namespace

void bind_example(py::module_ &module) {
  module.def("whole_records", &whole_records, py::arg("data"));
  module.def("merge_examples", &merge_examples, py::arg("data"), py::arg("starts"), py::arg("sizes"),
             py::arg("wanted") = py::none(), py::arg("views") = false);
}
