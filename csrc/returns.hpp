// Backward scans over rollouts [T, E], time-major (rows of one run: E = 1). Plain loops over caller-owned memory.
//
// Row t of environment e is a transition; `next_value` is the value of its true next observation. A terminated
// transition bootstraps from nothing; what is carried back from later rows stops at terminated | truncated and after
// the last row. `next_value` where terminated is set is not used, so it may be anything, NaN too.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

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

// All bits, or none: what becomes of a number where a flag is not set, or is.
template <typename Real> using Mask = std::conditional_t<sizeof(Real) == 4, std::uint32_t, std::uint64_t>;

// All bits if the flag is 0: the sign of flag - 1. A comparison would become a branch.
template <typename Real> RL_INLINE inline Mask<Real> unless(std::uint8_t flag) {
  using Signed = std::make_signed_t<Mask<Real>>;
  return static_cast<Mask<Real>>((static_cast<Signed>(flag) - 1) >> (8 * sizeof(Real) - 1));
}

// How many transitions that lie side by side a step takes: one, or as many as fill a register of any processor.
template <typename Real> struct Alone {
  using Values = Real;
  using Masks = Mask<Real>;
};
template <typename Real> struct Abreast {
  typedef Real Values __attribute__((vector_size(16)));
  typedef Mask<Real> Masks __attribute__((vector_size(16)));
};

// The transitions from i on: a recursion that is written with it does the same arithmetic in both forms.
template <typename Real, template <typename> class Form> struct At {
  using Values = typename Form<Real>::Values;
  using Masks = typename Form<Real>::Masks;
  static constexpr std::size_t count = sizeof(Values) / sizeof(Real);

  std::size_t i;
  Masks bootstraps, goes_on;

  template <typename To, typename From> static RL_INLINE To load(const From *from) {
    To values;
    std::memcpy(&values, from, sizeof(values));
    return values;
  }
  // x where the mask is all bits, `other` where it is none, whatever both are. Without a branch.
  static RL_INLINE Values select(Masks mask, Values x, Values other) {
    Masks bits, others;
    std::memcpy(&bits, &x, sizeof(x));
    std::memcpy(&others, &other, sizeof(other));
    bits = (bits & mask) | (others & ~mask);
    std::memcpy(&x, &bits, sizeof(x));
    return x;
  }
  static RL_INLINE Values least(Values x, Real limit) {
    if constexpr (count == 1)
      return select(-static_cast<Masks>(x < limit), x, limit);
    else
      return x < limit ? x : limit;
  }

  RL_INLINE Values operator()(const Real *column) const { return load<Values>(column + i); }
  // The carry, and `other` where it ends. A lone one waits for nothing but its arithmetic: ends are rare, and so
  // guessed.
  RL_INLINE Values kept(Values carry, Values other = Values{}) const {
    if constexpr (count == 1)
      return goes_on ? carry : other;
    else
      return select(goes_on, carry, other);
  }
  RL_INLINE Values bootstrap(const Real *next_value) const { return select(bootstraps, (*this)(next_value), Values{}); }
  RL_INLINE Values put(Real *column, Values values) const {
    std::memcpy(column + i, &values, sizeof(values));
    return values;
  }
};

// Some environments whose carries and masks stay in the first cache.
template <typename Real> struct Scan {
  static constexpr std::size_t kMost = 8192 / sizeof(Real);
  Real carry[kMost] = {};
  Mask<Real> bootstraps[kMost], goes_on[kMost];

  // Rows that lie side by side: `width` environments of `stride`, the first at i.
  struct Rows {
    std::size_t count, i, stride, width;
  };

  // The masks of transitions that lie side by side. A loop of its own, of the kind that compilers vectorise.
  RL_INLINE void read(const std::uint8_t *terminated, const std::uint8_t *truncated, std::size_t count) {
    for (std::size_t k = 0; k < count; ++k) {
      bootstraps[k] = unless<Real>(terminated[k]);
      goes_on[k] = unless<Real>(terminated[k] | truncated[k]);
    }
  }

  // All rows, the last one first, for the environments [e, stop): Parts vectors with their carries in registers, so
  // that none waits for another. The last vector ends at `stop` and may share environments with the one before, for
  // which it does the same.
  template <template <typename> class Form, std::size_t Parts, typename Step>
  RL_INLINE void pass(const Rows &rows, std::size_t e, std::size_t stop, Step step) {
    using Here = At<Real, Form>;
    using Masks = typename Here::Masks;
    const auto column = [=](std::size_t part)
                            RL_INLINE { return part + 1 < Parts ? e + part * Here::count : stop - Here::count; };
    typename Here::Values own[Parts];
    for (std::size_t part = 0; part < Parts; ++part)
      own[part] = Here::template load<typename Here::Values>(carry + column(part));
    for (std::size_t t = rows.count; t-- > 0;) {
      for (std::size_t part = 0; part < Parts; ++part) {
        const std::size_t k = t * rows.width + column(part);
        const Here at{rows.i + t * rows.stride + column(part), Here::template load<Masks>(bootstraps + k),
                      Here::template load<Masks>(goes_on + k)};
        own[part] = step(at, own[part]);
      }
    }
    for (std::size_t part = 0; part < Parts; ++part)
      std::memcpy(carry + column(part), &own[part], sizeof(own[part]));
  }

  // The environments [e, width) in one pass of at most Most parts.
  template <template <typename> class Form, std::size_t Most, typename Step>
  RL_INLINE void last_pass(const Rows &rows, std::size_t e, Step step) {
    if constexpr (Most > 1)
      if (rows.width - e <= (Most - 1) * At<Real, Form>::count) return last_pass<Form, Most - 1>(rows, e, step);
    pass<Form, Most>(rows, e, rows.width, step);
  }

  template <typename Step> RL_INLINE void back(const Rows &rows, Step step) {
    constexpr std::size_t kLanes = At<Real, Abreast>::count, kParts = 4;
    if (rows.width < kLanes) return last_pass<Alone, kLanes - 1>(rows, 0, step);
    std::size_t e = 0;
    for (; rows.width - e > (kParts + 1) * kLanes; e += kParts * kLanes)  // what is left fills a vector at least
      pass<Abreast, kParts>(rows, e, e + kParts * kLanes, step);
    last_pass<Abreast, kParts + 1>(rows, e, step);
  }
};

// For each environment, from the last row to the first: carry = step(at, carry). The carry begins at 0.
template <typename Real, typename Step>
RL_INLINE inline void scan_back(const Rollout &rollout, const Transitions<Real> &in, Step step) {
  const std::size_t stride = rollout.num_envs;
  for (std::size_t first = rollout.begin, width; first < rollout.end; first += width) {
    Scan<Real> scan;
    width = std::min(scan.kMost, rollout.end - first);
    const std::size_t at_once = width == stride ? scan.kMost / width : 1;  // rows that lie side by side
    for (std::size_t stop = rollout.num_steps, count; stop > 0; stop -= count) {
      count = std::min(stop, at_once);
      const std::size_t top = (stop - count) * stride + first;
      scan.read(in.terminated + top, in.truncated + top, count * width);
      if (stop == rollout.num_steps) std::fill_n(scan.goes_on + (count - 1) * width, width, Mask<Real>{0});
      scan.back({count, top, stride, width}, step);
    }
  }
}

// Generalised advantage estimation (Schulman et al., 2016, eq. 11 and 16).
template <typename Real>
RL_INLINE inline void gae(const Rollout &rollout, const Transitions<Real> &in, Real *advantage, Real gamma, Real lam) {
  const Transitions<Real> x = in;
  const Real decay = gamma * lam;
  scan_back<Real>(rollout, x, [=](auto at, auto carry) RL_INLINE {
    const auto delta = at(x.reward) + gamma * at.bootstrap(x.next_value) - at(x.value);
    return at.put(advantage, delta + decay * at.kept(carry));
  });
}

// The lambda-return (Sutton & Barto, 2018, eq. 12.18): reward + gamma ((1 - lam) V(s') + lam * the next row's return),
// and reward + gamma V(s') where nothing follows. lam = 1 is the discounted return.
template <typename Real>
RL_INLINE inline void td_lambda(const Rollout &rollout, const Transitions<Real> &in, Real *return_, Real gamma,
                                Real lam) {
  const Transitions<Real> x = in;
  if (x.next_value == nullptr) {
    scan_back<Real>(rollout, x, [=](auto at, auto carry) RL_INLINE {
      return at.put(return_, at(x.reward) + gamma * lam * at.kept(carry));
    });
    return;
  }
  scan_back<Real>(rollout, x, [=](auto at, auto carry) RL_INLINE {
    const auto next = at.bootstrap(x.next_value);
    return at.put(return_, at(x.reward) + gamma * (1 - lam) * next + gamma * lam * at.kept(carry, next));
  });
}

// V-trace targets and advantages (Espeholt et al., 2018, eq. 1 and section 4.2). `ratio` is pi / mu of the action;
// rho_bar and c_bar clip it in the temporal difference and in the trace. The carry is vs - V of the row after.
template <typename Real>
RL_INLINE inline void vtrace(const Rollout &rollout, const Transitions<Real> &in, const Real *ratio, Real *target,
                             Real *advantage, Real gamma, Real lam, Real rho_bar, Real c_bar) {
  const Transitions<Real> x = in;
  scan_back<Real>(rollout, x, [=](auto at, auto carry) RL_INLINE {
    const auto found = at(ratio), value = at(x.value), kept = at.kept(carry);
    const auto rho = at.least(found, rho_bar), trace = lam * at.least(found, c_bar);
    const auto difference = at(x.reward) + gamma * at.bootstrap(x.next_value) - value;
    const auto moved = rho * difference + gamma * trace * kept;
    at.put(target, value + moved);
    at.put(advantage, rho * (difference + gamma * kept));  // vs of the row after is V(s') + kept
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
