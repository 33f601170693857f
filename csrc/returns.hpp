// Backward scans over time-major rollouts. Plain loops over caller-owned memory.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rl {

// Generalised advantage estimation (Schulman et al., 2016, eq. 16), arrays [T, E] time-major.
// next_value is the value of the true next observation, so a truncated step bootstraps and a
// terminated one does not; the carry is cut wherever done = terminated | truncated.
template <typename Real>
void gae(const Real *reward, const Real *value, const Real *next_value, const std::uint8_t *terminated,
         const std::uint8_t *done, Real *advantage, std::size_t num_steps, std::size_t num_envs, Real gamma,
         Real lam) noexcept {
  for (std::size_t t = num_steps; t-- > 0;) {
    const std::size_t row = t * num_envs;
    for (std::size_t e = 0; e < num_envs; ++e) {
      const std::size_t i = row + e;
      const Real delta = reward[i] + gamma * (terminated[i] ? Real(0) : next_value[i]) - value[i];
      const Real carry = (t + 1 == num_steps || done[i]) ? Real(0) : advantage[i + num_envs];
      advantage[i] = delta + gamma * lam * carry;
    }
  }
}

}  // namespace rl
