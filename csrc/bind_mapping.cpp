#include "bind.hpp"
#include "mapping.hpp"

#include <system_error>

namespace {

// The file's bytes as a read-only array that keeps the range alive.
py::array view(py::object self, std::size_t offset, std::size_t length) {
  const auto &range = self.cast<const rl::AddressRange &>();
  if (offset > range.size() || length > range.size() - offset) throw std::out_of_range("outside the address range");
  py::array_t<std::uint8_t> array({length}, {1}, range.address() + offset, self);
  array.attr("flags").attr("writeable") = false;
  return array;
}

}  // namespace

void bind_mapping(py::module_ &module) {
  py::register_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const std::system_error &error) {
      errno = error.code().value();
      PyErr_SetFromErrno(PyExc_OSError);
    }
  });
  py::class_<rl::AddressRange>(module, "AddressRange")
      .def(py::init<std::size_t>(), py::arg("size"))
      .def(
          "map_file",
          [](rl::AddressRange &self, int fd, std::size_t offset, std::size_t length) {
            return reinterpret_cast<std::uintptr_t>(self.map_file(fd, offset, length));
          },
          py::arg("fd"), py::arg("offset"), py::arg("length"))
      .def("view", &view, py::arg("offset"), py::arg("length"))
      .def_property_readonly("size", &rl::AddressRange::size);
  module.def("punch_hole", &rl::punch_hole, py::arg("fd"), py::arg("offset"), py::arg("size"),
             py::call_guard<py::gil_scoped_release>());
}
