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

std::vector<double> gae(const std::vector<double> &reward, const std::vector<double> &value,
                        const std::vector<double> &next_value, const std::vector<std::uint8_t> &terminated,
                        const std::vector<std::uint8_t> &done, std::size_t num_envs, double gamma, double lam) {
  std::vector<double> advantage(reward.size(), -1e300);
  rl::gae<double>(reward.data(), value.data(), next_value.data(), terminated.data(), done.data(), advantage.data(),
                  reward.size() / num_envs, num_envs, gamma, lam);
  return advantage;
}

}  // namespace

int main() {
  auto one = gae({1}, {0.5}, {10}, {0}, {1}, 1, 0.9, 1.0);
  expect_near(one[0], 9.5, "a truncated step bootstraps");
  one = gae({1}, {0.5}, {10}, {1}, {1}, 1, 0.9, 1.0);
  expect_near(one[0], 0.5, "a terminated step does not");

  auto two = gae({1, 2}, {3, 4}, {4, 10}, {0, 0}, {0, 0}, 1, 0.5, 1.0);
  expect_near(two[1], 3, "the last row bootstraps once");
  expect_near(two[0], 1.5, "lambda 1 is the return minus the value");

  // Two environments side by side: the first ends at row 0, the second goes on.
  auto wide = gae({0, 1, 7, 1}, {0, 0, 0, 0}, {5, 0, 0, 0}, {0, 0, 0, 0}, {1, 0, 0, 0}, 2, 1.0, 1.0);
  expect_near(wide[0], 5, "nothing crosses the end of an episode");
  expect_near(wide[1], 2, "environments do not mix");
  expect_near(wide[2], 7, "the next episode starts afresh");

  rl::gae<float>(nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, 0, 0, 0.9F, 0.9F);  // empty is fine
  return 0;
}
