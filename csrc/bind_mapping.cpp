#include "bind.hpp"
#include "bus_error.hpp"
#include "json_limits.hpp"
#include "mapping.hpp"
#include "small_files.hpp"
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

// The first `size` bytes of a file; None if they cannot be read.
py::object bytes_of(const rl::RegularFile &file, std::size_t size) {
  PyObject *data = PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(size));
  if (data == nullptr) throw py::error_already_set();
  auto bytes = py::reinterpret_steal<py::bytes>(data);
  if (!file.read(PyBytes_AS_STRING(data), size)) return py::none();
  return std::move(bytes);
}

// The bytes of files of exactly these sizes, up to the first that is not so.
py::list read_files(const std::string &folder, const Names &names, const Sizes &sizes) {
  check_lengths(names, sizes);
  py::list found;
  for (std::size_t k = 0; k < names.size(); ++k) {
    const rl::ExactFile file(folder + '/' + names[k], sizes[k]);
    if (!file.fits()) break;
    py::object data = bytes_of(file, sizes[k]);
    if (data.is_none()) break;
    found.append(std::move(data));
  }
  return found;
}

// The bytes of files of at most `limit` bytes each, up to the first that is not there or is larger.
py::list read_whole(const std::string &folder, const Names &names, std::size_t limit) {
  py::list found;
  for (const std::string &name : names) {
    const rl::RegularFile file(folder + '/' + name);
    if (!file.is_there() || file.size() > limit) break;
    py::object data = bytes_of(file, file.size());
    if (data.is_none()) break;
    found.append(std::move(data));
  }
  return found;
}

// Files of known sizes and hashes, one of each block of 1 MiB, file after file.
class HashedFiles {
public:
  HashedFiles(Names names, Sizes sizes, std::vector<std::uint64_t> hashes)
      : names_(std::move(names)), sizes_(std::move(sizes)), hashes_(std::move(hashes)) {
    check_lengths(names_, sizes_);
    std::size_t blocks = 0;
    for (std::size_t size : sizes_)
      blocks += rl::num_blocks(size);
    if (blocks != hashes_.size()) throw std::invalid_argument("one hash per block");
  }

  const Names &names() const { return names_; }

  // Their bytes, up to the first that has not its size and hashes.
  py::list read(const std::string &folder) const {
    py::list found;
    const std::uint64_t *expected = hashes_.data();
    for (std::size_t k = 0; k < names_.size(); expected += rl::num_blocks(sizes_[k++])) {
      const rl::ExactFile file(folder + '/' + names_[k], sizes_[k]);
      if (!file.fits()) break;
      py::object data = bytes_of(file, sizes_[k]);
      if (data.is_none() || !rl::has_hashes(PyBytes_AS_STRING(data.ptr()), sizes_[k], expected)) break;
      found.append(std::move(data));
    }
    return found;
  }

private:
  Names names_;
  Sizes sizes_;
  std::vector<std::uint64_t> hashes_;
};

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
  py::class_<HashedFiles>(module, "HashedFiles")
      .def(py::init<Names, Sizes, std::vector<std::uint64_t>>(), py::arg("names"), py::arg("sizes"), py::arg("hashes"))
      .def("read", &HashedFiles::read, py::arg("folder"))
      .def_property_readonly("names", &HashedFiles::names);
  module.def("read_whole", &read_whole, py::arg("folder"), py::arg("names"), py::arg("limit"));
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
