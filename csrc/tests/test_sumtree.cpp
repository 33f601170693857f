// Trees against sums over all leaves, and at rounding edges.
#undef NDEBUG
#include "priorities.hpp"

#include <cassert>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <random>
#include <vector>

namespace {

void totals_are_those_of_the_leaves() {
  std::mt19937_64 random(1);
  std::uniform_real_distribution<double> value(0, 10);
  for (std::size_t size : {1u, 7u, 8u, 9u, 64u, 65u, 1000u, 5000u}) {
    rl::SumTree sum(size);
    rl::MinTree min(size);
    std::vector<double> truth(size, 0.0);
    for (int round = 0; round < 50; ++round) {
      std::vector<std::int64_t> leaves(1 + random() % 40);
      std::vector<double> values(leaves.size());
      for (std::size_t i = 0; i < leaves.size(); ++i) {
        leaves[i] = static_cast<std::int64_t>(random() % size);
        values[i] = random() % 4 == 0 ? 0 : value(random);
        truth[static_cast<std::size_t>(leaves[i])] = values[i];
      }
      sum.set(leaves.data(), values.data(), leaves.size());
      min.set(leaves.data(), values.data(), leaves.size());
    }
    double total = 0;
    for (std::size_t i = 0; i < size; ++i) {
      assert(sum[i] == truth[i]);
      total += truth[i];
    }
    assert(std::abs(sum.total() - total) <= 1e-12 * total);
    rl::SumTree anew(size);
    anew.set_range(0, truth.data(), size);
    assert(anew.total() == sum.total());  // the same to the last bit: nothing has piled up
    anew.resize(size / 2);
    anew.resize(3 * size);
    double half = 0;
    for (std::size_t i = 0; i < size / 2; ++i)
      half += truth[i];
    assert(std::abs(anew.total() - half) <= 1e-12 * (1 + half) && anew[size] == 0);
  }
}

void points_fall_on_their_leaves() {
  rl::SumTree tree(100);
  std::vector<double> values(100);
  for (std::size_t i = 0; i < 100; ++i)
    values[i] = static_cast<double>(i % 3);  // whole numbers: sums are exact
  tree.set_range(0, values.data(), 100);
  std::vector<double> points;
  std::vector<std::int64_t> expected, found(200);
  for (std::size_t i = 0; i < 100; ++i)
    for (int k = 0; k < static_cast<int>(values[i]); ++k) {
      points.push_back(static_cast<double>(points.size()));
      expected.push_back(static_cast<std::int64_t>(i));
    }
  tree.find(points.data(), points.size(), found.data());
  for (std::size_t i = 0; i < points.size(); ++i)
    assert(found[i] == expected[i]);
}

void nothing_without_priority_is_found_at_any_edge() {
  std::mt19937_64 random(2);
  for (int trial = 0; trial < 2000; ++trial) {
    const std::size_t size = 1 + random() % 200;
    rl::SumTree tree(size);
    std::vector<double> values(size, 0.0);
    for (int k = 0; k < 1 + static_cast<int>(random() % 5); ++k)
      values[random() % size] = std::ldexp(1.0 + static_cast<double>(random() % 1000) / 999.0,
                                           static_cast<int>(random() % 200) - 100);  // sizes that swallow each other
    tree.set_range(0, values.data(), size);
    const double total = tree.total();
    std::vector<double> points{0.0, total, std::nextafter(total, 0.0), total * 2, 1e308, 5e-324};
    for (int k = 0; k < 20; ++k)
      points.push_back(total * static_cast<double>(random() % 1000001) / 1e6);
    std::vector<std::int64_t> found(points.size());
    tree.find(points.data(), points.size(), found.data());
    for (std::int64_t leaf : found)
      assert(values[static_cast<std::size_t>(leaf)] > 0);
  }
}

void draws_follow_the_priorities() {
  rl::Priorities priorities(0.5, 0.0);
  priorities.resize(6);
  const std::int64_t leaves[] = {0, 1, 2, 4};
  const double given[] = {1, 4, 9, 16};  // leaves 1, 2, 3, 4 of 10; leaves 3 and 5 are not set
  assert(priorities.set(leaves, given, 4) == 16);
  assert(priorities.total() == 10 && priorities.least() == 1);
  double kept[6];
  priorities.priorities(kept);
  assert(kept[1] == 4 && kept[3] == -1 && kept[4] == 16);
  const double share[] = {0.1, 0.2, 0.3, 0, 0.4, 0};
  for (bool stratified : {false, true}) {
    std::vector<std::int64_t> drawn(100000);
    std::vector<float> weights(drawn.size());
    assert(
        priorities.sample(rl::Random(3, 0, stratified), drawn.size(), stratified, 0.5, drawn.data(), weights.data()));
    std::vector<double> counts(6);
    for (std::size_t i = 0; i < drawn.size(); ++i) {
      const auto leaf = static_cast<std::size_t>(drawn[i]);
      ++counts[leaf];
      assert(std::abs(weights[i] - std::pow(share[leaf] / 0.1, -0.5)) < 1e-6);
    }
    for (std::size_t leaf = 0; leaf < 6; ++leaf) {
      const double expected = 1e5 * share[leaf];
      assert(std::abs(counts[leaf] - expected) <= (stratified ? 1 : 5 * std::sqrt(expected + 1)));
      if (expected == 0) assert(counts[leaf] == 0);
    }
  }
}

void distinct_draws_are_distinct_and_leave_no_trace() {
  rl::Priorities priorities(1.0, 0.0);
  priorities.resize(50);
  priorities.fill(0, 50, 2.0);
  priorities.exclude(10, 5);
  const double before = priorities.total();
  std::vector<std::int64_t> drawn(50);
  std::vector<float> weights(50);
  assert(priorities.sample_distinct(rl::Random(1, 0, 0), 50, 0.4, drawn.data(), weights.data()) == 45);
  std::vector<int> seen(50);
  for (std::size_t i = 0; i < 45; ++i) {
    const auto leaf = static_cast<std::size_t>(drawn[i]);
    assert(++seen[leaf] == 1 && (leaf < 10 || leaf >= 15));
  }
  assert(priorities.total() == before);
}

template <typename Call> bool throws(Call call) {
  try {
    call();
  } catch (const std::exception &) {
    return true;
  }
  return false;
}

void what_cannot_be_is_refused() {
  rl::Priorities priorities(1.0, 0.0);
  std::int64_t leaf = 0;
  float weight = 0;
  assert(!priorities.sample(rl::Random(0, 0, 0), 1, false, 1, &leaf, &weight));
  priorities.resize(4);
  assert(!priorities.sample(rl::Random(0, 0, 0), 1, true, 1, &leaf, &weight));
  for (double wrong : {-1.0, std::nan(""), 1e101, HUGE_VAL})
    assert(throws([&] { priorities.set(&leaf, &wrong, 1); }));
  leaf = 4;
  const double one = 1;
  assert(throws([&] { priorities.set(&leaf, &one, 1); }));
  leaf = -1;
  assert(priorities.set(&leaf, &one, 1) == 0 && priorities.total() == 0);
  assert(throws([&] { priorities.fill(3, 2, 1); }));
}

}  // namespace

int main() {
  totals_are_those_of_the_leaves();
  points_fall_on_their_leaves();
  nothing_without_priority_is_found_at_any_edge();
  draws_follow_the_priorities();
  distinct_draws_are_distinct_and_leave_no_trace();
  what_cannot_be_is_refused();
  std::puts("ok");
}
