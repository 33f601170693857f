// Prioritised draws (Schaul et al., 2016): leaves of priority^alpha, and importance weights.
#pragma once

#include "power.hpp"
#include "random.hpp"
#include "sumtree.hpp"

#include <algorithm>
#include <stdexcept>
#include <vector>

namespace rl {

// Leaf i is drawn with probability (p_i + epsilon)^alpha / sum, never one that was not set or was excluded. The
// priorities themselves are kept beside the trees, -1 where there is none. Not for several threads at once.
class Priorities {
public:
  Priorities(double alpha, double epsilon) : alpha_(alpha), epsilon_(epsilon) {}

  static constexpr double kMost = 1e100;

  std::size_t size() const { return sum_.size(); }

  double total() const { return sum_.total(); }

  // The least leaf that can be drawn; infinite if none can.
  double least() const { return min_.total(); }

  void resize(std::size_t size) {
    const bool shrinks = size < sum_.size();
    sum_.resize(size);
    min_.resize((size + 7) / 8);
    raw_.resize(size, -1.0);
    if (shrinks) refresh_least(0, size);
  }

  // Brings what `set` touches for a leaf into the caches.
  void fetch(std::size_t leaf) const noexcept {
    sum_.fetch(leaf);
    __builtin_prefetch(&raw_[leaf], 1, 3);
  }

  // Copies the priorities of all leaves, -1 where there is none.
  void priorities(double *out) const { std::copy(raw_.begin(), raw_.end(), out); }

  // Leaf leaves[i] gets priority priorities[i], in [0, 1e100]; a negative leaf is passed over. Returns the greatest
  // priority given, 0 if none. Throws, with nothing changed, for a priority or a leaf that cannot be.
  double set(const std::int64_t *leaves, const double *priorities, std::size_t count) {
    bool can = true, there = true;
    for (std::size_t i = 0; i < count; ++i) {
      can &= priorities[i] >= 0 && priorities[i] <= kMost;
      there &= leaves[i] < static_cast<std::int64_t>(sum_.size());
    }
    if (!can) throw std::invalid_argument("a priority is not in [0, 1e100]");
    if (!there) throw std::out_of_range("no such leaf");
    std::vector<std::int64_t> kept(count);
    std::vector<double> values(count);
    std::size_t number = 0;
    for (std::size_t i = 0; i < count; number += leaves[i++] >= 0) {
      kept[number] = leaves[i];
      values[number] = priorities[i];
    }
    double greatest = 0;
    for (std::size_t i = 0; i < number; ++i) {
      raw_[static_cast<std::size_t>(kept[i])] = values[i];
      greatest = std::max(greatest, values[i]);
    }
    raise(values.data(), number);
    apply(kept.data(), values.data(), number);
    return greatest;
  }

  // All leaves [first, first + count) get one priority.
  void fill(std::size_t first, std::size_t count, double priority) {
    if (first + count > sum_.size()) throw std::out_of_range("no such leaf");
    double leaf = priority;
    raise(&leaf, 1);
    put(first, count, leaf, priority);
  }

  // Leaves [first, first + count) are never drawn until they are set again.
  void exclude(std::size_t first, std::size_t count) {
    if (first + count > sum_.size()) throw std::out_of_range("no such leaf");
    put(first, count, 0.0, -1.0);
  }

  // Draws `count` leaves with random numbers 0, 1, … of `random`. Stratified: one from each of `count` equal parts
  // of the sum, in order. weights[i] is (P(i) / least P of all leaves)^-beta, at most 1. Returns false if no leaf can
  // be drawn.
  bool sample(const Random &random, std::size_t count, bool stratified, double beta, std::int64_t *leaves,
              float *weights) const {
    const double total = sum_.total();
    if (!(total > 0)) return false;
    std::vector<std::uint64_t> numbers(count);
    random.fill(numbers.data(), count);
    std::vector<double> points(count);
    for (std::size_t i = 0; i < count; ++i) {
      const double u = unit(numbers[i]);
      points[i] = (stratified ? (static_cast<double>(i) + u) / static_cast<double>(count) : u) * total;
    }
    sum_.find(points.data(), count, leaves);
    weigh(leaves, count, beta, weights);
    return true;
  }

  // Draws different leaves, one after the other, each from what is left. Returns how many there were: fewer than
  // `count` if no more can be drawn. Weights are those of independent draws.
  std::size_t sample_distinct(const Random &random, std::size_t count, double beta, std::int64_t *leaves,
                              float *weights) {
    std::vector<std::uint64_t> numbers(count);
    random.fill(numbers.data(), count);
    std::vector<double> taken;
    for (std::size_t i = 0; i < count && sum_.total() > 0; ++i) {
      const double point = unit(numbers[i]) * sum_.total(), nothing = 0;
      sum_.find(&point, 1, leaves + i);
      taken.push_back(sum_[static_cast<std::size_t>(leaves[i])]);
      sum_.set(leaves + i, &nothing, 1);
    }
    sum_.set(leaves, taken.data(), taken.size());
    weigh(leaves, taken.size(), beta, weights);
    return taken.size();
  }

  // Whether a leaf has a priority. Looks at the priorities only where the leaf does not tell.
  bool has(std::size_t leaf) const noexcept { return sum_[leaf] > 0 || raw_[leaf] >= 0; }

  // Of one leaf, -1 if there is none.
  double priority(std::size_t leaf) const noexcept { return raw_[leaf]; }

private:
  // Leaves of priorities.
  void raise(double *values, std::size_t count) const {
    for (std::size_t i = 0; i < count; ++i)
      values[i] += epsilon_;
    powers(values, count, alpha_, values);
  }

  void weigh(const std::int64_t *leaves, std::size_t count, double beta, float *weights) const {
    const double least = min_.total();
    double shares[kTogether];
    for (std::size_t begin = 0; begin < count; begin += kTogether) {
      const std::size_t length = std::min(kTogether, count - begin);
      for (std::size_t i = 0; i < length; ++i)
        shares[i] = sum_[static_cast<std::size_t>(leaves[begin + i])] / least;
      powers(shares, length, -beta, shares);
      std::copy_n(shares, length, weights + begin);
    }
  }

  void apply(const std::int64_t *leaves, const double *values, std::size_t count) {
    std::vector<std::int64_t> groups(count);
    std::vector<double> least(count);
    for (std::size_t i = 0; i < count; ++i)
      least[i] = sum_.least_of(static_cast<std::size_t>(leaves[i] / 8));
    sum_.set(leaves, values, count);
    std::size_t changed = 0;  // few groups have another least leaf: the others' place in the tree is not touched
    for (std::size_t i = 0; i < count; ++i) {
      const double before = least[i], after = sum_.least_of(static_cast<std::size_t>(leaves[i] / 8));
      groups[changed] = leaves[i] / 8;
      least[changed] = after;
      changed += after != before;
    }
    min_.set(groups.data(), least.data(), changed);
  }

  void put(std::size_t first, std::size_t count, double leaf, double priority) {
    sum_.set_range(first, std::vector<double>(count, leaf).data(), count);
    std::fill_n(raw_.begin() + static_cast<std::ptrdiff_t>(first), count, priority);
    refresh_least(first, count);
  }

  void refresh_least(std::size_t first, std::size_t count) {
    if (count == 0) return;
    const std::size_t low = first / 8, high = (first + count - 1) / 8;
    std::vector<double> least;
    for (std::size_t group = low; group <= high; ++group)
      least.push_back(sum_.least_of(group));
    min_.set_range(low, least.data(), least.size());
  }

  static constexpr std::size_t kTogether = 64;

  double alpha_, epsilon_;
  SumTree sum_;
  MinTree min_;  // over the leaves of `sum_` by eights
  std::vector<double, HugePages<double>> raw_;
};

}  // namespace rl
