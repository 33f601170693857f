// Groups of HDF5 files that are plain enough to be read without the library.
#include "bind.hpp"

#include <pybind11/stl.h>

#include <stdexcept>

#include "hdf5_objects.hpp"
#include "hdf5_rows.hpp"

namespace {

using namespace rl::hdf5;

py::bytes bytes_of(const Bytes &bytes) { return {reinterpret_cast<const char *>(bytes.data()), bytes.size()}; }

// Datasets of a group and of those below, single values of its own attributes as (name, type, value), and whether it
// has others; none if the library has to be asked.
py::object group_of(int descriptor, std::uint64_t size, std::uint64_t address) {
  Group found;
  try {
    const py::gil_scoped_release unlocked;
    found = Reader({descriptor, size}).group(address);
  } catch (const NotPlain &) {
    return py::none();
  }
  py::list attributes;
  for (const auto &attribute : found.attributes)
    attributes.append(py::make_tuple(py::bytes(attribute.name), bytes_of(attribute.type), bytes_of(attribute.value)));
  return py::make_tuple(py::cast(std::move(found.datasets)), attributes, found.has_others);
}

void read_into(const Dataset &dataset, int descriptor, std::uint64_t size, std::uint64_t low, std::uint64_t high,
               py::array &out) {
  if (!dataset.filters.empty()) throw py::value_error("values that went through filters");
  if (low > high || high > dataset.rows()) throw py::index_error("rows that are not there");
  if (!(out.flags() & py::array::c_style) || !out.writeable() ||
      static_cast<std::uint64_t>(out.nbytes()) != (high - low) * dataset.row_bytes())
    throw py::value_error("room that is not of the rows' size, contiguous and writeable");
  auto *at = static_cast<std::uint8_t *>(out.mutable_data());
  bool is_read = false;
  {
    const py::gil_scoped_release unlocked;
    is_read = read_rows({descriptor, size}, dataset, low, high, at);
  }
  if (!is_read) throw std::runtime_error("values that cannot be read");
}

// [chunks, 3]: offset, size and skipped filters.
py::array_t<std::uint64_t> places_of(const Dataset &dataset) {
  py::array_t<std::uint64_t> found({dataset.places.size(), std::size_t{3}});
  auto *at = found.mutable_data();
  for (const auto &place : dataset.places)
    *at++ = place.offset, *at++ = place.size, *at++ = place.skipped;
  return found;
}

py::tuple shape_of_dataset(const Dataset &dataset) { return py::tuple(py::cast(dataset.shape)); }

}  // namespace

void bind_hdf5_objects(py::module_ &module) {
  py::class_<Dataset>(module, "Hdf5Dataset")
      .def_property_readonly("path", [](const Dataset &dataset) { return py::bytes(dataset.path); })
      .def_property_readonly("type", [](const Dataset &dataset) { return bytes_of(dataset.type); })
      .def_property_readonly("shape", shape_of_dataset)
      .def_property_readonly("chunk", [](const Dataset &dataset) { return py::tuple(py::cast(dataset.chunk)); })
      .def_property_readonly("filters", [](const Dataset &dataset) { return py::tuple(py::cast(dataset.filters)); })
      .def_property_readonly("places", places_of)
      .def("read_into", read_into, py::arg("descriptor"), py::arg("size"), py::arg("low"), py::arg("high"),
           py::arg("out"));
  module.def("hdf5_group", group_of, py::arg("descriptor"), py::arg("size"), py::arg("address"));
}
