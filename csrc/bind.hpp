// What the bindings share: one registrar per bind_<name>.cpp.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

namespace py = pybind11;

// Whether every item lies where its type may.
inline bool is_aligned(const py::array &array) { return array.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_; }

// An array that is given: contiguous, aligned and of just this dtype. Nothing is converted, for what is like it would
// be read as a copy, or a copy be filled.
template <typename T> class Array : public py::array_t<T, py::array::c_style> {
public:
  using py::array_t<T, py::array::c_style>::array_t;
};

namespace pybind11::detail {
template <typename T> struct pyobject_caster<Array<T>> {
  PYBIND11_TYPE_CASTER(Array<T>, handle_type_name<array_t<T>>::name);

  bool load(handle source, bool) {
    if (!array_t<T, array::c_style>::check_(source)) return false;
    value = reinterpret_borrow<Array<T>>(source);
    if (!is_aligned(value)) throw value_error("an array's items are not aligned in memory");
    return true;
  }

  static handle cast(const handle &source, return_value_policy, handle) { return handle(source).inc_ref(); }
};
}  // namespace pybind11::detail

void bind_mapping(py::module_ &module);
void bind_returns(py::module_ &module);
void bind_sampling(py::module_ &module);
void bind_row_map(py::module_ &module);
void bind_column_writer(py::module_ &module);
void bind_consecutive(py::module_ &module);
void bind_product(py::module_ &module);
void bind_example(py::module_ &module);
void bind_heap_end(py::module_ &module);
void bind_hdf5_objects(py::module_ &module);
