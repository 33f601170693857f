// Backward scans over rollouts [T, E], time-major (rows of one run: E = 1). Plain loops over caller-owned memory.
//
// Row t of environment e is a transition; `next_value` is the value of its true next observation. A terminated
// transition bootstraps from nothing; what is carried back from later rows stops at terminated | truncated and after
// the last row. `next_value` where terminated is set is not used, so it may be anything, NaN too.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#define RL_INLINE __attribute__((always_inline))

namespace rl {

// The environments [begin, end) of a rollout of num_steps x num_envs: threads take a part each.
struct Rollout {
  std::size_t num_steps, num_envs, begin, end;
};

template <typename Real> struct Transitions {
  const Real *reward;
  const Real *value;       // of the observation of the row; unused by td_lambda and n_step
  const Real *next_value;  // null: nothing is bootstrapped; unused by n_step
  const std::uint8_t *terminated, *truncated;
};

// For each environment, from the last row to the first: carry = step(row, carry). The carry begins at 0.
template <typename Real, typename Step> RL_INLINE inline void scan_back(const Rollout &rollout, Step step) {
  constexpr std::size_t kBlock = 1024;
  Real carry[kBlock];
  for (std::size_t first = rollout.begin; first < rollout.end; first += kBlock) {
    const std::size_t width = std::min(kBlock, rollout.end - first);
    std::fill_n(carry, width, Real(0));
    for (std::size_t t = rollout.num_steps; t-- > 0;) {
      const std::size_t row = t * rollout.num_envs + first;
#pragma GCC ivdep
      for (std::size_t e = 0; e < width; ++e)
        carry[e] = step(row + e, carry[e]);
    }
  }
}

// Generalised advantage estimation (Schulman et al., 2016, eq. 11 and 16).
template <typename Real>
RL_INLINE inline void gae(const Rollout &rollout, const Transitions<Real> &in, Real *advantage, Real gamma, Real lam) {
  const Transitions<Real> x = in;
  const Real decay = gamma * lam;
  scan_back<Real>(rollout, [=](std::size_t i, Real carry) RL_INLINE {
    const Real bootstrap = x.terminated[i] ? Real(0) : x.next_value[i];
    const Real kept = (x.terminated[i] | x.truncated[i]) ? Real(0) : carry;
    return advantage[i] = x.reward[i] + gamma * bootstrap - x.value[i] + decay * kept;
  });
}

// The lambda-return (Sutton & Barto, 2018, eq. 12.18): reward + gamma ((1 - lam) V(s') + lam * the next row's return),
// and reward + gamma V(s') where nothing follows. lam = 1 is the discounted return.
template <typename Real>
RL_INLINE inline void td_lambda(const Rollout &rollout, const Transitions<Real> &in, Real *return_, Real gamma,
                                Real lam) {
  const Transitions<Real> x = in;
  if (x.next_value == nullptr) {
    scan_back<Real>(rollout, [=](std::size_t i, Real carry) RL_INLINE {
      const Real kept = (x.terminated[i] | x.truncated[i]) ? Real(0) : carry;
      return return_[i] = x.reward[i] + gamma * lam * kept;
    });
    return;
  }
  // The carry is G - V(s) of the row after, with V(s) = V(s') of this row: where nothing follows it is 0, and so it is
  // after the last row.
  const std::size_t num_envs = rollout.num_envs;
  scan_back<Real>(rollout, [=](std::size_t i, Real carry) RL_INLINE {
    const Real bootstrap = x.terminated[i] ? Real(0) : x.next_value[i];
    const Real kept = (x.terminated[i] | x.truncated[i]) ? Real(0) : carry;
    const Real found = x.reward[i] + gamma * (bootstrap + lam * kept);
    return_[i] = found;
    return found - (i < num_envs ? Real(0) : x.next_value[i - num_envs]);
  });
}

// V-trace targets and advantages (Espeholt et al., 2018, eq. 1 and section 4.2). `ratio` is pi / mu of the action;
// rho_bar and c_bar clip it in the temporal difference and in the trace. The carry is vs - V of the row after.
template <typename Real>
RL_INLINE inline void vtrace(const Rollout &rollout, const Transitions<Real> &in, const Real *ratio, Real *target,
                             Real *advantage, Real gamma, Real lam, Real rho_bar, Real c_bar) {
  const Transitions<Real> x = in;
  scan_back<Real>(rollout, [=](std::size_t i, Real carry) RL_INLINE {
    const Real rho = ratio[i] < rho_bar ? ratio[i] : rho_bar;
    const Real trace = lam * (ratio[i] < c_bar ? ratio[i] : c_bar);
    const Real bootstrap = x.terminated[i] ? Real(0) : x.next_value[i];
    const Real kept = (x.terminated[i] | x.truncated[i]) ? Real(0) : carry;
    const Real difference = x.reward[i] + gamma * bootstrap - x.value[i];
    const Real moved = rho * difference + gamma * trace * kept;
    target[i] = x.value[i] + moved;
    advantage[i] = rho * (difference + gamma * kept);  // vs of the row after is V(s') + kept
    return moved;
  });
}

// The sum of the next n discounted rewards, fewer where the episode or the rollout ends; `discount` = gamma^m for the m
// rewards that were summed, 0 where the last of them terminated; `last` is the row of the last one, whose next
// observation is the one to bootstrap from.
template <typename Real>
void n_step(const Rollout &rollout, const Transitions<Real> &in, Real *return_, Real *discount, std::int64_t *last,
            Real gamma, std::size_t n) noexcept {
  for (std::size_t t = 0; t < rollout.num_steps; ++t) {
    const std::size_t furthest = std::min(n, rollout.num_steps - t) - 1;
    for (std::size_t e = rollout.begin; e < rollout.end; ++e) {
      const std::size_t first = t * rollout.num_envs + e;
      const std::size_t stop = first + furthest * rollout.num_envs;
      Real sum = 0, power = 1;
      std::size_t row = first;
      while (true) {
        sum += power * in.reward[row];
        power *= gamma;
        if (row == stop || (in.terminated[row] | in.truncated[row])) break;
        row += rollout.num_envs;
      }
      return_[first] = sum;
      discount[first] = in.terminated[row] ? Real(0) : power;
      last[first] = static_cast<std::int64_t>(row);
    }
  }
}

}  // namespace rl
