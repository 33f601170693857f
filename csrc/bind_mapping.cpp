#include "bind.hpp"
#include "bus_error.hpp"
#include "json_limits.hpp"
#include "mapping.hpp"
#include "stored_file.hpp"

#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace {

using Names = std::vector<std::string>;
using Sizes = std::vector<std::size_t>;

void check_lengths(const Names &names, const Sizes &sizes) {
  if (names.size() != sizes.size()) throw std::invalid_argument("one size per file");
}

// Maps files `folder`/`names` side by side, each at its offset. Returns how many were as long as they should be: the
// file of that number is missing, no regular file, or of another size.
std::size_t map_files(rl::AddressRange &self, const std::string &folder, const Names &names, const Sizes &offsets,
                      const Sizes &sizes) {
  check_lengths(names, sizes), check_lengths(names, offsets);
  py::gil_scoped_release nogil;
  for (std::size_t k = 0; k < names.size(); ++k) {
    const rl::ExactFile file(folder + '/' + names[k], sizes[k]);
    if (!file.fits()) return k;
    self.map_file(file.descriptor(), offsets[k], sizes[k]);
  }
  return names.size();
}

// The bytes of files of exactly these sizes, up to the first that is not so.
py::list read_files(const std::string &folder, const Names &names, const Sizes &sizes) {
  check_lengths(names, sizes);
  py::list found;
  for (std::size_t k = 0; k < names.size(); ++k) {
    const rl::ExactFile file(folder + '/' + names[k], sizes[k]);
    if (!file.fits()) break;
    PyObject *data = PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(sizes[k]));
    if (data == nullptr) throw py::error_already_set();
    auto bytes = py::reinterpret_steal<py::bytes>(data);
    if (!file.read(PyBytes_AS_STRING(data), sizes[k])) break;
    found.append(std::move(bytes));
  }
  return found;
}

// Fills each array from an offset of a file of exactly its size. False if a file is not so.
bool read_parts(const std::string &folder, const Names &names, const Sizes &sizes, const Sizes &offsets,
                const std::vector<py::array> &out) {
  check_lengths(names, sizes), check_lengths(names, offsets);
  if (out.size() != names.size()) throw std::invalid_argument("one array per file");
  std::vector<char *> targets;
  std::vector<std::size_t> lengths;
  for (const py::array &array : out) {
    if (!(array.flags() & py::array::c_style) || !array.writeable())
      throw std::invalid_argument("arrays must be contiguous and writable");
    targets.push_back(static_cast<char *>(const_cast<void *>(array.data())));
    lengths.push_back(static_cast<std::size_t>(array.nbytes()));
  }
  py::gil_scoped_release nogil;
  for (std::size_t k = 0; k < names.size(); ++k) {
    const rl::ExactFile file(folder + '/' + names[k], sizes[k]);
    if (!file.fits() || !file.read(targets[k], lengths[k], offsets[k])) return false;
  }
  return true;
}

// Descriptors of new files of these sizes, their space reserved, up to the first that cannot be made.
std::vector<int> create_files(const std::string &folder, const Names &names, const Sizes &sizes) {
  check_lengths(names, sizes);
  std::vector<int> found;
  found.reserve(names.size());
  py::gil_scoped_release nogil;
  for (std::size_t k = 0; k < names.size(); ++k) {
    const int fd = rl::create_file(folder + '/' + names[k], sizes[k]);
    if (fd < 0) break;
    found.push_back(fd);
  }
  return found;
}

// New files with these bytes, by name; returns how many were made, up to the first that cannot be.
std::size_t write_files(const std::string &folder, const py::dict &files) {
  std::vector<std::pair<std::string, std::string_view>> found;
  for (const auto &[name, data] : files)
    found.emplace_back(folder + '/' + name.cast<std::string>(), data.cast<std::string_view>());
  const py::gil_scoped_release nogil;
  for (std::size_t k = 0; k < found.size(); ++k)
    if (!rl::write_file(found[k].first, found[k].second.data(), found[k].second.size())) return k;
  return found.size();
}

// The file's bytes as a read-only array that keeps the range alive.
py::array view(py::object self, std::size_t offset, std::size_t length) {
  const auto &range = self.cast<const rl::AddressRange &>();
  if (offset > range.size() || length > range.size() - offset) throw std::out_of_range("outside the address range");
  py::array_t<std::uint8_t> array({length}, {1}, range.address() + offset, self);
  array.attr("flags").attr("writeable") = false;
  return array;
}

// The first bytes of a file as a writable array; None where a store into them could fail for want of room.
py::object stored_file(int fd, std::size_t size) {
  if (!rl::reserves_stores(fd, size)) return py::none();
  auto file = std::make_unique<rl::StoredFile>(fd, size);
  std::uint8_t *address = file->address();
  const py::capsule owner(file.get(), [](void *held) { delete static_cast<rl::StoredFile *>(held); });
  file.release();
  return py::array_t<std::uint8_t>({size}, {1}, address, owner);
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
      .def("map_files", &map_files, py::arg("folder"), py::arg("names"), py::arg("offsets"), py::arg("sizes"))
      .def("unmap", &rl::AddressRange::unmap, py::arg("offset"), py::arg("length"))
      .def("release", &rl::AddressRange::release, py::arg("offset"), py::arg("length"),
           py::call_guard<py::gil_scoped_release>())
      .def("expect", &rl::AddressRange::expect, py::arg("random"), py::arg("offset"), py::arg("length"),
           py::call_guard<py::gil_scoped_release>())
      .def("view", &view, py::arg("offset"), py::arg("length"))
      .def_property_readonly(
          "address", [](const rl::AddressRange &self) { return reinterpret_cast<std::uintptr_t>(self.address()); })
      .def_property_readonly("size", &rl::AddressRange::size);
  module.def(
      "json_limits",
      [](const py::bytes &text) {
        const auto found =
            rl::json_limits(PyBytes_AS_STRING(text.ptr()), static_cast<std::size_t>(PyBytes_GET_SIZE(text.ptr())));
        return py::make_tuple(found.depth, found.digits, found.exponent);
      },
      py::arg("text"));
  module.def("read_parts", &read_parts, py::arg("folder"), py::arg("names"), py::arg("sizes"), py::arg("offsets"),
             py::arg("out"));
  module.def("read_files", &read_files, py::arg("folder"), py::arg("names"), py::arg("sizes"));
  module.def("create_files", &create_files, py::arg("folder"), py::arg("names"), py::arg("sizes"));
  module.def("write_files", &write_files, py::arg("folder"), py::arg("files"));
  module.def("stored_file", &stored_file, py::arg("fd"), py::arg("size"));
  module.def(
      "explain_bus_errors",
      [](Names cut, int cut_code, Names failed, int failed_code) {
        rl::explain_bus_errors({std::move(cut), cut_code}, {std::move(failed), failed_code});
      },
      py::arg("cut"), py::arg("cut_code"), py::arg("failed"), py::arg("failed_code"));
  module.def("punch_hole", &rl::punch_hole, py::arg("fd"), py::arg("offset"), py::arg("size"),
             py::call_guard<py::gil_scoped_release>());
}
