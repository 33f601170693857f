// Philox against the published known answers, the permutation against what a permutation is.
#undef NDEBUG
#include "random.hpp"

#include <cassert>
#include <cstdint>
#include <cstdio>
#include <vector>

namespace {

void philox_gives_the_published_answers() {
  // Known answers of philox4x64 with 10 rounds (Random123, kat_vectors): counter 0, key 0.
  std::uint64_t words[4];
  rl::Random(0, 0, 0).block(0, words);
  assert(words[0] == 0x16554d9eca36314cu && words[1] == 0xdb20fe9d672d0fdcu && words[2] == 0xd7e772cee186176bu &&
         words[3] == 0x7e68b68aec7ba23bu);
}

void numbers_do_not_depend_on_how_many_are_asked_for() {
  const rl::Random random(7, 1, 3);
  std::vector<std::uint64_t> many(101), few(10);
  random.fill(many.data(), many.size());
  random.fill(few.data(), few.size());
  for (std::size_t i = 0; i < few.size(); ++i)
    assert(few[i] == many[i]);
  std::uint64_t words[4];
  random.block(25, words);
  assert(words[0] == many[100]);
}

void ranges_hold_at_their_edges() {
  const std::uint64_t most = ~std::uint64_t{0};
  assert(rl::below(0, 5) == 0 && rl::below(most, 5) == 4 && rl::below(most, 1) == 0);
  assert(rl::below(most, most) == most - 1);
  assert(rl::unit(0) == 0.0 && rl::unit(most) < 1.0 && rl::unit(most) > 0.9999999999999998);
}

void permutations_are_one_to_one() {
  for (std::uint64_t count : {1u, 2u, 3u, 4u, 5u, 7u, 16u, 17u, 100u, 1000u, 65537u}) {
    for (std::uint64_t epoch : {0u, 1u}) {
      const rl::Permutation permutation(3, 2, epoch, count);
      std::vector<bool> seen(count);
      for (std::uint64_t i = 0; i < count; ++i) {
        const std::uint64_t image = permutation(i);
        assert(image < count && !seen[image]);
        seen[image] = true;
      }
    }
  }
}

void every_place_is_equally_likely() {
  const std::uint64_t count = 12, epochs = 24000;
  std::vector<double> seen(count * count);
  for (std::uint64_t epoch = 0; epoch < epochs; ++epoch) {
    const rl::Permutation permutation(11, 0, epoch, count);
    for (std::uint64_t i = 0; i < count; ++i)
      ++seen[i * count + permutation(i)];
  }
  const double expected = static_cast<double>(epochs) / static_cast<double>(count);
  double chi_square = 0;
  for (double n : seen)
    chi_square += (n - expected) * (n - expected) / expected;
  assert(chi_square > 73 && chi_square < 182);  // 121 degrees of freedom, p = 0.0003 at each end
}

}  // namespace

int main() {
  philox_gives_the_published_answers();
  numbers_do_not_depend_on_how_many_are_asked_for();
  ranges_hold_at_their_edges();
  permutations_are_one_to_one();
  every_place_is_equally_likely();
  std::puts("ok");
}
