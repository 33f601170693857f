#include "bind.hpp"
#include "bind_sums.hpp"
#include "heap_end.hpp"

#include <cstring>
#include <system_error>
#include <vector>

namespace {

using rl::HeapEnd;
using rl::Span;

// The bytes of an object that has contiguous ones, which stay where they are while this lives.
class Bytes {
public:
  explicit Bytes(py::handle object) {
    if (PyObject_GetBuffer(object.ptr(), &buffer_, PyBUF_SIMPLE) != 0) throw py::error_already_set();
  }
  Bytes(Bytes &&other) noexcept : buffer_(other.buffer_) { other.buffer_.obj = nullptr; }
  Bytes &operator=(Bytes &&) = delete;
  ~Bytes() { PyBuffer_Release(&buffer_); }

  Span span() const {
    const auto *data = static_cast<const std::uint8_t *>(buffer_.buf);
    return {data, data + buffer_.len};
  }

private:
  Py_buffer buffer_;
};

// Appends values to the file.
void write_values(HeapEnd &self, int fd, const py::sequence &values) {
  std::vector<Bytes> held;
  std::vector<Span> spans;
  held.reserve(values.size());
  for (const py::handle value : values) {
    held.emplace_back(value);
    spans.push_back(held.back().span());
  }
  int error;
  {
    const py::gil_scoped_release unlocked;
    error = self.write(fd, spans.data(), spans.size());
  }
  if (error) throw std::system_error(error, std::generic_category());
}

// Whether each value holds other bytes than the one before it; `before` is before the first, None if there is none.
py::array_t<bool> differ(const py::sequence &values, const py::object &before) {
  py::array_t<bool> found(static_cast<py::ssize_t>(values.size()));
  bool *out = found.mutable_data();
  py::object previous = before;
  for (const py::handle value : values) {
    bool is_same = value.is(previous);
    if (!is_same && !previous.is_none()) {
      const Bytes one(previous), other(value);
      const Span a = one.span(), b = other.span();
      is_same = a.size() == b.size() && (a.size() == 0 || std::memcmp(a.data, b.data, a.size()) == 0);
    }
    *out++ = !is_same;
    previous = py::reinterpret_borrow<py::object>(value);
  }
  return found;
}

}  // namespace

void bind_heap_end(py::module_ &module) {
  py::class_<HeapEnd>(module, "HeapEnd")
      .def(py::init<>())
      .def_property_readonly("size", &HeapEnd::size)
      .def("write", &write_values, py::arg("fd"), py::arg("values"))
      .def(
          "hash", [](HeapEnd &self, const py::object &data) { self.hash(Bytes(data).span()); }, py::arg("data"))
      .def(
          "resume", [](HeapEnd &self, const py::object &data) { self.resume(Bytes(data).span()); }, py::arg("data"))
      .def("digest",
           [](const HeapEnd &self) {
             const std::uint64_t big = __builtin_bswap64(self.digest());
             return py::bytes(reinterpret_cast<const char *>(&big), sizeof big);
           })
      .def("reset", &HeapEnd::reset)
      .def("sums", [](const HeapEnd &self) { return told(self.sums(), self.size()); });
  module.def("differ", &differ, py::arg("values"), py::arg("before"));
}
