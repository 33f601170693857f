#include "bind.hpp"
#include "example.hpp"

#include <cstring>

namespace {

using rl::Kind;
using rl::Span;

// The features by name: float32 `[n]`, int64 `[n]`, a list of bytes, or None without a kind. None for the whole
// record if it is laid out in another way, or damaged.
py::object decode_example(const py::bytes &record) {
  char *data = nullptr;
  Py_ssize_t size = 0;
  if (PyBytes_AsStringAndSize(record.ptr(), &data, &size)) throw py::error_already_set();
  const auto *begin = reinterpret_cast<const std::uint8_t *>(data);
  py::dict found;
  const bool is_usual = rl::parse({begin, begin + size}, [&](Span name, Kind kind, Span values) {
    const auto *letters = reinterpret_cast<const char *>(name.data);
    PyObject *key = PyUnicode_DecodeUTF8(letters, static_cast<Py_ssize_t>(name.size()), nullptr);
    if (key == nullptr) {
      PyErr_Clear();
      return false;
    }
    const auto owned = py::reinterpret_steal<py::str>(key);
    if (kind == Kind::floats) {
      py::array_t<float> floats(static_cast<py::ssize_t>(values.size() / 4));
      if (values.size()) std::memcpy(floats.mutable_data(), values.data, values.size());
      found[owned] = floats;
    } else if (kind == Kind::integers) {
      std::size_t count = 0;
      if (!rl::integers(values, count, nullptr)) return false;
      py::array_t<std::int64_t> numbers(static_cast<py::ssize_t>(count));
      if (count && !rl::integers(values, count, numbers.mutable_data())) return false;
      found[owned] = numbers;
    } else if (kind == Kind::bytes) {
      py::list strings;
      const auto append = [&](Span value) {
        strings.append(py::bytes(reinterpret_cast<const char *>(value.data), value.size()));
      };
      if (!rl::byte_strings(values, append)) return false;
      found[owned] = strings;
    } else {
      found[owned] = py::none();
    }
    return true;
  });
  return is_usual ? py::object(found) : py::object(py::none());
}

}  // namespace

void bind_example(py::module_ &module) { module.def("decode_example", &decode_example, py::arg("record")); }
