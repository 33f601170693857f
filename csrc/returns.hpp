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
  // x, and 0 where the mask is, whatever x is.
  static RL_INLINE Values masked(Values x, Masks mask) {
    Masks bits;
    std::memcpy(&bits, &x, sizeof(x));
    bits &= mask;
    std::memcpy(&x, &bits, sizeof(x));
    return x;
  }

  // Of the rows themselves, or of rows `back` before them.
  RL_INLINE Values operator()(const Real *column, std::size_t back = 0) const {
    return load<Values>(column + (i - back));
  }
  RL_INLINE Values kept(Values carry) const { return masked(carry, goes_on); }
  RL_INLINE Values bootstrap(const Real *next_value) const { return masked((*this)(next_value), bootstraps); }
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

  // The masks of transitions that lie side by side. A loop of its own, of the kind that compilers vectorise.
  RL_INLINE void read(const std::uint8_t *terminated, const std::uint8_t *truncated, std::size_t count) {
    for (std::size_t k = 0; k < count; ++k) {
      bootstraps[k] = unless<Real>(terminated[k]);
      goes_on[k] = unless<Real>(terminated[k] | truncated[k]);
    }
  }

  // Environments from e on, Count of them with their carries in registers at a time, through `rows` rows of which the
  // first begins at i and with the first masks. Returns the first environment that is left.
  template <template <typename> class Form, std::size_t Count, typename Step>
  RL_INLINE std::size_t columns(std::size_t rows, std::size_t i, std::size_t stride, std::size_t e, std::size_t width,
                                Step step) {
    using Here = At<Real, Form>;
    using Masks = typename Here::Masks;
    constexpr std::size_t kParts = Count / Here::count;
    for (; e + Count <= width; e += Count) {
      typename Here::Values own[kParts];
      std::memcpy(own, carry + e, sizeof(own));
      for (std::size_t t = rows; t-- > 0;) {
        for (std::size_t part = 0; part < kParts; ++part) {
          const std::size_t column = e + part * Here::count, k = t * width + column;
          const Here at{i + t * stride + column, Here::template load<Masks>(bootstraps + k),
                        Here::template load<Masks>(goes_on + k)};
          own[part] = step(at, own[part]);
        }
      }
      std::memcpy(carry + e, own, sizeof(own));
    }
    return e;
  }

  // All `width` environments through `rows` rows, the last one first.
  template <typename Step>
  RL_INLINE void back(std::size_t rows, std::size_t i, std::size_t stride, std::size_t width, Step step) {
    constexpr std::size_t kLanes = At<Real, Abreast>::count;
    std::size_t e = columns<Abreast, 4 * kLanes>(rows, i, stride, 0, width, step);
    e = columns<Abreast, 2 * kLanes>(rows, i, stride, e, width, step);
    e = columns<Abreast, kLanes>(rows, i, stride, e, width, step);
    e = columns<Alone, 2>(rows, i, stride, e, width, step);
    columns<Alone, 1>(rows, i, stride, e, width, step);
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
      scan.back(count, top, stride, width, step);
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
  // The carry is G - V(s) of the row after, with V(s) = V(s') of this row: where nothing follows it is 0, and so it is
  // after the last row.
  const std::size_t num_envs = rollout.num_envs;
  scan_back<Real>(rollout, x, [=](auto at, auto carry) RL_INLINE {
    const auto found = at.put(return_, at(x.reward) + gamma * (at.bootstrap(x.next_value) + lam * at.kept(carry)));
    return at.i < num_envs ? found : found - at(x.next_value, num_envs);  // before the first row is none
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
    const auto rho = found < rho_bar ? found : rho_bar, trace = lam * (found < c_bar ? found : c_bar);
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
