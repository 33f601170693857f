// Powers against the C library's in extended precision, and each by itself against all at once.
#undef NDEBUG
#include "power.hpp"

#include <cassert>
#include <cmath>
#include <cstdio>
#include <limits>
#include <random>
#include <vector>

namespace {

void they_are_right_to_a_few_units_in_the_last_place() {
  std::mt19937_64 random(1);
  std::uniform_real_distribution<double> digits(-75, 75), usual(-7, 4), free(-4, 4);
  for (int trial = 0; trial < 3000; ++trial) {
    const double exponent = trial % 3 == 0 ? 0.6 : trial % 3 == 1 ? -0.4 : free(random);
    std::vector<double> bases(1 + random() % 150), found(bases.size());
    for (double &base : bases)
      base = std::pow(10.0, trial % 2 ? digits(random) : usual(random));
    rl::powers(bases.data(), bases.size(), exponent, found.data());
    for (std::size_t i = 0; i < bases.size(); ++i) {
      const long double truth = std::pow(static_cast<long double>(bases[i]), static_cast<long double>(exponent));
      assert(std::abs(static_cast<long double>(found[i]) - truth) <= 8e-16L * truth);
    }
  }
}

void one_is_as_many_and_every_way_of_working_them_out_is_the_same() {
  std::mt19937_64 random(2);
  std::uniform_real_distribution<double> digits(-90, 90);  // some beyond what the fast way can do
  std::vector<double> bases(200), found(200), again(200);
  for (double &base : bases)
    base = std::pow(10.0, digits(random));
  for (double exponent : {0.6, -0.4, 0.0, 0.5, 1.0, -1.0, 4.0, 5.5}) {
    rl::powers(bases.data(), bases.size(), exponent, found.data());
    for (std::size_t i = 0; i < bases.size(); ++i) {
      double one = bases[i];
      rl::powers(&one, 1, exponent, &one);
      assert(one == found[i]);
    }
    rl::power::fastest()(bases.data(), bases.size(), exponent, found.data());
    rl::power::portably(bases.data(), bases.size(), exponent, again.data());
    if (std::abs(exponent) <= rl::power::kMostExponent) assert(found == again);
  }
}

void edges_are_those_of_the_c_library() {
  const double most = std::numeric_limits<double>::max(), least = 5e-324;
  for (double exponent : {0.6, -0.4, 0.0, 0.5, 1.0, 2.0, 30.0})
    for (double base : {0.0, least, 1e-310, 1e-75, 1.0, 1e75, 1e100, most, HUGE_VAL}) {
      double found = 0;
      rl::powers(&base, 1, exponent, &found);
      const double truth = std::pow(base, exponent);
      assert(found == truth || std::abs(found / truth - 1) < 1e-15);
    }
  double found = 0;
  const double one = 1;
  for (double exponent : {0.3, -2.7, 4.0}) {
    rl::powers(&one, 1, exponent, &found);
    assert(found == 1);
  }
}

}  // namespace

int main() {
  they_are_right_to_a_few_units_in_the_last_place();
  one_is_as_many_and_every_way_of_working_them_out_is_the_same();
  edges_are_those_of_the_c_library();
  std::puts("ok");
}
