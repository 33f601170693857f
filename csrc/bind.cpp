// The extension module: each bind_<name>.cpp adds its functions through one registrar.
#include "bind.hpp"

PYBIND11_MODULE(_native, module) {
  module.doc() = "Native kernels of rlcli. Links neither torch nor NumPy.";
  bind_mapping(module);
  bind_returns(module);
  bind_sampling(module);
  bind_row_map(module);
  bind_column_writer(module);
  bind_consecutive(module);
  bind_product(module);
  bind_example(module);
  bind_heap_end(module);
  bind_hdf5_objects(module);
}
