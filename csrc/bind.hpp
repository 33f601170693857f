// What the bindings share: one registrar per bind_<name>.cpp.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

namespace py = pybind11;

void bind_mapping(py::module_ &module);
void bind_returns(py::module_ &module);
void bind_sampling(py::module_ &module);
void bind_row_map(py::module_ &module);
void bind_column_writer(py::module_ &module);
void bind_product(py::module_ &module);
void bind_example(py::module_ &module);
