// returns.hpp on hand-worked rollouts, under the sanitizers.
#include "returns.hpp"

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace {

void expect_near(double found, double wanted, const char *claim) {
  if (std::fabs(found - wanted) > 1e-12) {
    std::fprintf(stderr, "%s: found %.17g, expected %.17g\n", claim, found, wanted);
    std::exit(1);
  }
}

using Row = std::vector<double>;
using Flags = std::vector<std::uint8_t>;

rl::Rollout rollout(const Row &reward, std::size_t num_envs) {
  return {reward.size() / num_envs, num_envs, 0, num_envs};
}

Row gae(const Row &reward, const Row &value, const Row &next_value, const Flags &terminated, const Flags &truncated,
        std::size_t num_envs, double gamma, double lam) {
  Row advantage(reward.size(), -1e300);
  rl::gae<double>(rollout(reward, num_envs),
                  {reward.data(), value.data(), next_value.data(), terminated.data(), truncated.data()},
                  advantage.data(), gamma, lam);
  return advantage;
}

Row td_lambda(const Row &reward, const double *next_value, const Flags &terminated, const Flags &truncated,
              double gamma, double lam) {
  Row found(reward.size(), -1e300);
  rl::td_lambda<double>(rollout(reward, 1), {reward.data(), nullptr, next_value, terminated.data(), truncated.data()},
                        found.data(), gamma, lam);
  return found;
}

// Any number of environments side by side is each of them alone, whatever part of them a thread takes: vectors of every
// length, with what is left over, and more rows than are taken at once.
template <typename Real> void expect_columns(std::size_t num_steps, std::size_t num_envs) {
  const std::size_t size = num_steps * num_envs;
  std::vector<Real> x[4];
  std::vector<std::uint8_t> flags[2];
  std::uint32_t state = 1;
  const auto next = [&] { return (state = state * 1664525u + 1013904223u) >> 16; };
  for (auto &column : x)
    for (std::size_t i = 0; i < size; ++i)
      column.push_back(static_cast<Real>(next()) / Real(32768) - Real(1));
  for (auto &column : flags)
    for (std::size_t i = 0; i < size; ++i)
      column.push_back(next() % 8 == 0);
  const rl::Transitions<Real> in{x[0].data(), x[1].data(), x[2].data(), flags[0].data(), flags[1].data()};
  std::vector<Real> whole[4], parts[4];
  const auto run = [&](std::vector<Real>(&out)[4], std::size_t begin, std::size_t end) {
    for (auto &column : out)
      column.resize(size);
    const rl::Rollout part{num_steps, num_envs, begin, end};
    rl::gae<Real>(part, in, out[0].data(), Real(0.99), Real(0.95));
    rl::td_lambda<Real>(part, in, out[1].data(), Real(0.99), Real(0.95));
    rl::vtrace<Real>(part, in, x[3].data(), out[2].data(), out[3].data(), Real(0.99), Real(1), Real(0.5), Real(0.25));
  };
  run(whole, 0, num_envs);
  for (std::size_t e = 0; e < num_envs; ++e)
    run(parts, e, e + 1);
  for (std::size_t k = 0; k < 4; ++k)
    for (std::size_t i = 0; i < size; ++i)
      if (!(std::fabs(whole[k][i] - parts[k][i]) <= Real(1e-5)))
        expect_near(static_cast<double>(whole[k][i]), static_cast<double>(parts[k][i]), "columns do not mix");
}

}  // namespace

int main() {
  for (std::size_t num_envs = 1; num_envs <= 40; ++num_envs) {
    expect_columns<float>(5, num_envs);
    expect_columns<double>(5, num_envs);
  }
  expect_columns<float>(2500, 3);
  expect_columns<double>(2, 2500);

  auto one = gae({1}, {0.5}, {10}, {0}, {1}, 1, 0.9, 1.0);
  expect_near(one[0], 9.5, "a truncated step bootstraps");
  one = gae({1}, {0.5}, {NAN}, {1}, {0}, 1, 0.9, 1.0);
  expect_near(one[0], 0.5, "a terminated step does not, whatever stands there");

  auto two = gae({1, 2}, {3, 4}, {4, 10}, {0, 0}, {0, 0}, 1, 0.5, 1.0);
  expect_near(two[1], 3, "the last row bootstraps once");
  expect_near(two[0], 1.5, "lambda 1 is the return minus the value");

  // Two environments side by side: the first ends at row 0, the second goes on.
  auto wide = gae({0, 1, 7, 1}, {0, 0, 0, 0}, {5, 0, 0, 0}, {0, 0, 0, 0}, {1, 0, 0, 0}, 2, 1.0, 1.0);
  expect_near(wide[0], 5, "nothing crosses the end of an episode");
  expect_near(wide[1], 2, "environments do not mix");
  expect_near(wide[2], 7, "the next episode starts afresh");

  const Row values = {4, 10};
  auto lambda = td_lambda({1, 2}, values.data(), {0, 0}, {0, 0}, 0.5, 0.25);
  expect_near(lambda[1], 2 + 0.5 * 10, "the last row takes the value alone");
  expect_near(lambda[0], 1 + 0.5 * (0.75 * 4 + 0.25 * 7), "the row before mixes value and return");
  expect_near(td_lambda({1, 2}, nullptr, {0, 0}, {0, 0}, 0.5, 1.0)[0], 2, "rewards alone");

  Row target(2), advantage(2);
  const Row reward = {1, 2}, value = {3, 4}, ratio = {2, 0.5};
  const Flags never = {0, 0};
  rl::vtrace<double>(rollout(reward, 1), {reward.data(), value.data(), values.data(), never.data(), never.data()},
                     ratio.data(), target.data(), advantage.data(), 0.5, 1.0, 1.0, 1.0);
  expect_near(target[1], 4 + 0.5 * (2 + 5 - 4), "the ratio scales the difference");
  expect_near(target[0], 3 + (1 + 2 - 3) + 0.5 * (target[1] - 4), "the clipped trace carries the correction");
  expect_near(advantage[0], 1 + 0.5 * target[1] - 3, "the advantage is against the target of the row after");

  Row sum(4), discount(4);
  std::vector<std::int64_t> last(4);
  const Row rewards = {1, 2, 4, 8};
  const Flags ends = {0, 1, 0, 0}, not_cut = {0, 0, 0, 0};
  rl::n_step<double>(rollout(rewards, 1), {rewards.data(), nullptr, nullptr, ends.data(), not_cut.data()}, sum.data(),
                     discount.data(), last.data(), 0.5, 3);
  expect_near(sum[0], 2, "two rewards to the episode's end");
  expect_near(discount[0], 0, "which was terminal");
  expect_near(static_cast<double>(last[0]), 1, "at row 1");
  expect_near(sum[2], 8, "the data end after two steps");
  expect_near(discount[2], 0.25, "bootstrapped with gamma squared");
  expect_near(static_cast<double>(last[2]), 3, "from the last row");

  rl::gae<float>({0, 0, 0, 0}, {nullptr, nullptr, nullptr, nullptr, nullptr}, nullptr, 0.9F, 0.9F);  // empty is fine
  return 0;
}
