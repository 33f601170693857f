#include "bind.hpp"
#include "pool.hpp"
#include "returns.hpp"

#include <pybind11/stl.h>

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <stdexcept>
#include <vector>

namespace {

using rl::Rollout;
using rl::Transitions;

using Flags = Array<bool>;

// [T, E] or [T] of the first array; the others must have its shape.
Rollout shape_of(std::initializer_list<const py::array *> arrays) {
  const py::array &first = **arrays.begin();
  if (first.ndim() < 1 || first.ndim() > 2) throw std::invalid_argument("reward must be [T] or [T, E]");
  for (const py::array *other : arrays) {
    if (other->ndim() != first.ndim() || other->size() != first.size() || other->shape(0) != first.shape(0))
      throw std::invalid_argument("all arrays must have the shape of reward");
  }
  const auto num_steps = static_cast<std::size_t>(first.shape(0));
  const auto num_envs = first.ndim() == 2 ? static_cast<std::size_t>(first.shape(1)) : 1;
  return {num_steps, num_envs, 0, num_envs};
}

template <typename Real> Array<Real> like(const Array<Real> &other) {
  return Array<Real>(std::vector<py::ssize_t>(other.shape(), other.shape() + other.ndim()));
}

const std::uint8_t *bytes(const Flags &flags) { return reinterpret_cast<const std::uint8_t *>(flags.data()); }

constexpr std::size_t kFewest = 64;  // environments that a thread should have: columns of a few cache lines

// Shares the environments among threads; each computes its own columns.
void share(const Rollout &rollout, std::size_t threads, const std::function<void(const Rollout &)> &part) {
  static rl::Workers workers;
  const std::shared_ptr<rl::Pool> pool =
      workers.of(std::min({threads, rollout.num_envs / kFewest, rl::Workers::kMost}));
  if (pool == nullptr) return part(rollout);
  pool->run(rollout.num_envs,
            [&](std::size_t begin, std::size_t end) { part({rollout.num_steps, rollout.num_envs, begin, end}); });
}

template <typename Real>
Array<Real> bound_gae(const Array<Real> &reward, const Array<Real> &value, const Array<Real> &next_value,
                      const Flags &terminated, const Flags &truncated, Real gamma, Real lam, std::size_t threads) {
  const Rollout rollout = shape_of({&reward, &value, &next_value, &terminated, &truncated});
  Array<Real> advantage = like(reward);
  const Transitions<Real> in{reward.data(), value.data(), next_value.data(), bytes(terminated), bytes(truncated)};
  Real *out = advantage.mutable_data();
  py::gil_scoped_release nogil;
  share(rollout, threads, [&](const Rollout &part) { rl::gae<Real>(part, in, out, gamma, lam); });
  return advantage;
}

template <typename Real>
Array<Real> bound_td_lambda(const Array<Real> &reward, const std::optional<Array<Real>> &next_value,
                            const Flags &terminated, const Flags &truncated, Real gamma, Real lam,
                            std::size_t threads) {
  const Rollout rollout = shape_of({&reward, next_value ? &*next_value : &reward, &terminated, &truncated});
  Array<Real> return_ = like(reward);
  const Transitions<Real> in{reward.data(), nullptr, next_value ? next_value->data() : nullptr, bytes(terminated),
                             bytes(truncated)};
  Real *out = return_.mutable_data();
  py::gil_scoped_release nogil;
  share(rollout, threads, [&](const Rollout &part) { rl::td_lambda<Real>(part, in, out, gamma, lam); });
  return return_;
}

template <typename Real>
std::pair<Array<Real>, Array<Real>> bound_vtrace(const Array<Real> &reward, const Array<Real> &ratio,
                                                 const Array<Real> &value, const Array<Real> &next_value,
                                                 const Flags &terminated, const Flags &truncated, Real gamma, Real lam,
                                                 Real rho_bar, Real c_bar, std::size_t threads) {
  const Rollout rollout = shape_of({&reward, &ratio, &value, &next_value, &terminated, &truncated});
  Array<Real> target = like(reward), advantage = like(reward);
  const Transitions<Real> in{reward.data(), value.data(), next_value.data(), bytes(terminated), bytes(truncated)};
  const Real *ratios = ratio.data();
  Real *targets = target.mutable_data(), *advantages = advantage.mutable_data();
  {
    py::gil_scoped_release nogil;
    share(rollout, threads, [&](const Rollout &part) {
      rl::vtrace<Real>(part, in, ratios, targets, advantages, gamma, lam, rho_bar, c_bar);
    });
  }
  return {std::move(target), std::move(advantage)};
}

template <typename Real>
std::tuple<Array<Real>, Array<Real>, Array<std::int64_t>> bound_n_step(const Array<Real> &reward,
                                                                       const Flags &terminated, const Flags &truncated,
                                                                       Real gamma, std::size_t n, std::size_t threads) {
  if (n < 1) throw std::invalid_argument("n must be at least 1");
  const Rollout rollout = shape_of({&reward, &terminated, &truncated});
  Array<Real> return_ = like(reward), discount = like(reward);
  Array<std::int64_t> last(std::vector<py::ssize_t>(reward.shape(), reward.shape() + reward.ndim()));
  const Transitions<Real> in{reward.data(), nullptr, nullptr, bytes(terminated), bytes(truncated)};
  Real *sums = return_.mutable_data(), *discounts = discount.mutable_data();
  std::int64_t *rows = last.mutable_data();
  {
    py::gil_scoped_release nogil;
    share(rollout, threads, [&](const Rollout &part) { rl::n_step<Real>(part, in, sums, discounts, rows, gamma, n); });
  }
  return {std::move(return_), std::move(discount), std::move(last)};
}

template <typename Real> void bind(py::module_ &module) {
  const auto reward = py::arg("reward").noconvert(), value = py::arg("value").noconvert();
  const auto next_value = py::arg("next_value").noconvert(), ratio = py::arg("ratio").noconvert();
  const auto terminated = py::arg("terminated").noconvert(), truncated = py::arg("truncated").noconvert();
  const auto gamma = py::arg("gamma"), lam = py::arg("lam"), threads = py::arg("threads");
  module.def("gae", &bound_gae<Real>, reward, value, next_value, terminated, truncated, py::kw_only(), gamma, lam,
             threads);
  module.def("td_lambda", &bound_td_lambda<Real>, reward, next_value, terminated, truncated, py::kw_only(), gamma, lam,
             threads);
  module.def("vtrace", &bound_vtrace<Real>, reward, ratio, value, next_value, terminated, truncated, py::kw_only(),
             gamma, lam, py::arg("rho_bar"), py::arg("c_bar"), threads);
  module.def("n_step", &bound_n_step<Real>, reward, terminated, truncated, py::kw_only(), gamma, py::arg("n"), threads);
}

}  // namespace

void bind_returns(py::module_ &module) {
  bind<float>(module);  // the overload follows the arrays' dtype
  bind<double>(module);
}
