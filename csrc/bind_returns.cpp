#include "bind.hpp"
#include "returns.hpp"

#include <stdexcept>
#include <string>

namespace {

template <typename T>
using Array = py::array_t<T, py::array::c_style>;  // no forcecast: a wrong dtype is an error, not a copy

template <typename Real>
Array<Real> gae(const Array<Real> &reward, const Array<Real> &value, const Array<Real> &next_value,
                const Array<bool> &terminated, const Array<bool> &done, double gamma, double lam) {
  if (reward.ndim() != 2) throw std::invalid_argument("reward must be [T, E]");
  for (const py::array *other : {static_cast<const py::array *>(&value), static_cast<const py::array *>(&next_value),
                                 static_cast<const py::array *>(&terminated), static_cast<const py::array *>(&done)}) {
    if (other->ndim() != 2 || other->shape(0) != reward.shape(0) || other->shape(1) != reward.shape(1))
      throw std::invalid_argument("all arrays must have the shape of reward, [T, E]");
  }
  Array<Real> advantage({reward.shape(0), reward.shape(1)});
  const auto *terminated_data = reinterpret_cast<const std::uint8_t *>(terminated.data());
  const auto *done_data = reinterpret_cast<const std::uint8_t *>(done.data());
  Real *out = advantage.mutable_data();
  const auto num_steps = static_cast<std::size_t>(reward.shape(0));
  const auto num_envs = static_cast<std::size_t>(reward.shape(1));
  {
    py::gil_scoped_release nogil;
    rl::gae<Real>(reward.data(), value.data(), next_value.data(), terminated_data, done_data, out, num_steps, num_envs,
                  static_cast<Real>(gamma), static_cast<Real>(lam));
  }
  return advantage;
}

}  // namespace

void bind_returns(py::module_ &module) {
  module.def("gae_float32", &gae<float>, py::arg("reward").noconvert(), py::arg("value").noconvert(),
             py::arg("next_value").noconvert(), py::arg("terminated").noconvert(), py::arg("done").noconvert(),
             py::kw_only(), py::arg("gamma"), py::arg("lam"));
  module.def("gae_float64", &gae<double>, py::arg("reward").noconvert(), py::arg("value").noconvert(),
             py::arg("next_value").noconvert(), py::arg("terminated").noconvert(), py::arg("done").noconvert(),
             py::kw_only(), py::arg("gamma"), py::arg("lam"));
}
