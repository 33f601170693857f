#include "bind.hpp"
#include "product.hpp"

namespace {

rl::product::Matrix matrix(const py::array_t<float> &array) {
  constexpr auto size = static_cast<py::ssize_t>(sizeof(float));
  if (array.ndim() != 2 || !is_aligned(array) || array.strides(0) % size != 0 || array.strides(1) % size != 0)
    throw std::invalid_argument("a matrix of float32 is needed");
  return {array.data(), static_cast<std::size_t>(array.shape(0)), static_cast<std::size_t>(array.shape(1)),
          array.strides(0) / size, array.strides(1) / size};
}

bool is_dense(const rl::product::Matrix &matrix) { return matrix.row == 1 || matrix.column == 1; }

py::array_t<float> multiply(const py::array_t<float> &left, const py::array_t<float> &right) {
  const auto a = matrix(left), b = matrix(right);
  if (a.columns != b.rows) throw std::invalid_argument("the left matrix' columns are not as many as the right's rows");
  if (!is_dense(a) || !is_dense(b)) throw std::invalid_argument("one stride of each matrix must be 1");
  if (!rl::product::supported()) throw std::runtime_error("this CPU has no AMX units");
  py::array_t<float> out({static_cast<py::ssize_t>(a.rows), static_cast<py::ssize_t>(b.columns)});
  float *target = out.mutable_data();
  py::gil_scoped_release nogil;
  rl::product::multiply(a, b, target);
  return out;
}

}  // namespace

// For native programs that are compiled while the process runs; they check nothing either.
extern "C" __attribute__((visibility("default"))) void rl_multiply(const float *left, const std::int64_t *sizes,
                                                                   const std::int64_t *strides, const float *right,
                                                                   const std::int64_t *their_sizes,
                                                                   const std::int64_t *their_strides, float *out) {
  const auto size = [](std::int64_t value) { return static_cast<std::size_t>(value); };
  rl::product::multiply({left, size(sizes[0]), size(sizes[1]), strides[0], strides[1]},
                        {right, size(their_sizes[0]), size(their_sizes[1]), their_strides[0], their_strides[1]}, out);
}

void bind_product(py::module_ &module) {
  module.def("multiply", &multiply, py::arg("left").noconvert(), py::arg("right").noconvert(),
             "left [m, k] @ right [k, n] in float32 on AMX units; ValueError unless one stride of each is 1.");
  module.def("can_multiply", &rl::product::supported, "Whether `multiply` runs here: it needs AMX.");
}
