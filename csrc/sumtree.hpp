// Trees over priorities: their sum or minimum, and the leaf that a point of the sum falls on.
#pragma once

#include "huge.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

namespace rl {

// Eight leaves or subtrees side by side: one cache line.
struct alignas(64) Octet {
  double of[8];
};

struct Sum {
  static constexpr double nothing = 0.0;
  static double of(const Octet &node) noexcept {
    return ((node.of[0] + node.of[1]) + (node.of[2] + node.of[3])) +
           ((node.of[4] + node.of[5]) + (node.of[6] + node.of[7]));
  }
};

struct Min {
  static constexpr double nothing = std::numeric_limits<double>::infinity();
  static double least(double a, double b) noexcept { return b < a ? b : a; }
  static double of(const Octet &node) noexcept {
    return least(least(least(node.of[0], node.of[1]), least(node.of[2], node.of[3])),
                 least(least(node.of[4], node.of[5]), least(node.of[6], node.of[7])));
  }
};

// Every node is worked out from its eight children whenever one of them changes, so what a tree says is a function
// of its leaves alone: rounding does not pile up over updates.
template <class Op> class Tree {
public:
  using Level = std::vector<Octet, HugePages<Octet>>;

  explicit Tree(std::size_t size = 0) { resize(size); }

  std::size_t size() const noexcept { return size_; }

  // New leaves hold nothing; leaves beyond `size` are dropped. O(size) when it leaves the room there is.
  void resize(std::size_t size) {
    if (levels_.empty() || size > room()) {
      Level leaves = levels_.empty() ? Level() : std::move(levels_[0]);
      std::size_t nodes = std::max<std::size_t>(1, (size + 7) / 8);
      if (!levels_.empty()) nodes = std::max(nodes, 2 * leaves.size());
      leaves.resize(nodes, empty());
      levels_.clear();
      levels_.push_back(std::move(leaves));
      while (levels_.back().size() > 1)
        levels_.emplace_back((levels_.back().size() + 7) / 8, empty());
      size_ = size;
      rebuild();
      return;
    }
    for (std::size_t leaf = size; leaf < size_; ++leaf)
      levels_[0][leaf / 8].of[leaf % 8] = Op::nothing;
    const bool shrinks = size < size_;
    size_ = size;
    if (shrinks) rebuild();
  }

  double operator[](std::size_t leaf) const noexcept { return levels_[0][leaf / 8].of[leaf % 8]; }

  double total() const noexcept { return Op::of(levels_.back()[0]); }

  // Leaf leaves[i] becomes values[i]; of equal leaves the last one counts. Precondition: leaves in [0, size()).
  void set(const std::int64_t *leaves, const double *values, std::size_t count) {
    std::vector<std::size_t> changed(count + 1);  // nodes, neighbours that are the same one once
    std::size_t kept = 0, last = levels_[0].size();
    const auto note = [&](std::size_t node, bool differs) {
      const bool is_new = differs & (node != last);
      changed[kept] = node;
      kept += is_new;
      last = is_new ? node : last;
    };
    Octet *octets = levels_[0].data();
    for (std::size_t i = 0; i < count; ++i) {
      const auto leaf = static_cast<std::size_t>(leaves[i]);
      double &value = octets[leaf / 8].of[leaf % 8];
      note(leaf / 8, value != values[i]);
      value = values[i];
    }
    for (std::size_t level = 1; level < levels_.size() && kept > 0; ++level) {
      if (2 * kept >= levels_[level - 1].size()) return rebuild(level);
      const Octet *below = std::exchange(octets, levels_[level].data());
      count = std::exchange(kept, 0), last = levels_[level].size();
      for (std::size_t i = 0; i < count; ++i) {
        const std::size_t child = changed[i];
        note(child / 8, refresh(octets, child, below));
      }
    }
  }

  // Leaves [first, first + count) become values[0 …]. O(count + log size).
  void set_range(std::size_t first, const double *values, std::size_t count) {
    if (count == 0) return;
    for (std::size_t i = 0; i < count; ++i)
      levels_[0][(first + i) / 8].of[(first + i) % 8] = values[i];
    std::size_t low = first / 8, high = (first + count - 1) / 8;
    for (std::size_t level = 1; level < levels_.size(); ++level, low /= 8, high /= 8)
      for (std::size_t node = low; node <= high; ++node)
        refresh(levels_[level].data(), node, levels_[level - 1].data());
  }

  void fetch(std::size_t leaf) const noexcept {
    __builtin_prefetch(&levels_[0][leaf / 8], 1, 3);
    if (levels_.size() > 1) __builtin_prefetch(&levels_[1][leaf / 64], 1, 3);
  }

protected:
  static Octet empty() noexcept {
    Octet node;
    for (double &value : node.of)
      value = Op::nothing;
    return node;
  }

  std::size_t room() const noexcept { return 8 * levels_[0].size(); }

  // What a node of the level below amounts to; returns whether that is new.
  static bool refresh(Octet *nodes, std::size_t child, const Octet *below) noexcept {
    double &value = nodes[child / 8].of[child % 8];
    const double before = value;
    value = Op::of(below[child]);
    return value != before;
  }

  // Works out the nodes of a level and of those above it.
  void rebuild(std::size_t level = 1) noexcept {
    for (; level < levels_.size(); ++level)
      for (std::size_t child = 0; child < levels_[level - 1].size(); ++child)
        refresh(levels_[level].data(), child, levels_[level - 1].data());
  }

  std::size_t size_ = 0;
  std::vector<Level> levels_;  // leaves first, the root last
};

class SumTree : public Tree<Sum> {
public:
  using Tree::Tree;

  // leaves[i] is the leaf that point points[i] falls on when the leaves lie side by side on [0, total()).
  // Points that rounding carried beyond a subtree fall on its last leaf. Never a leaf of 0.
  // Precondition: total() > 0, points >= 0.
  void find(const double *points, std::size_t count, std::int64_t *leaves) const {
    std::vector<double> rest(points, points + count);
    for (std::size_t i = 0; i < count; ++i)
      leaves[i] = 0;
    for (std::size_t level = levels_.size(); level-- > 0;) {
      const Octet *nodes = levels_[level].data();
      const Octet *below = level == 0 ? nullptr : levels_[level - 1].data();
      for (std::size_t i = 0; i < count; ++i) {
        const auto node = static_cast<std::size_t>(leaves[i]);
        const std::size_t child = 8 * node + descend(nodes[node], rest[i]);
        if (below != nullptr) __builtin_prefetch(below + child, 0, 3);
        leaves[i] = static_cast<std::int64_t>(child);
      }
    }
  }

  // The least of leaves 8 * group … 8 * group + 7 that is not 0; infinite if there is none.
  double least_of(std::size_t group) const noexcept {
    Octet drawn = levels_[0][group];
    for (double &value : drawn.of)
      value = value > 0 ? value : Min::nothing;
    return Min::of(drawn);
  }

private:
  // The child of a node with a positive sum that `point` falls on; `point` becomes what is left of it. Without
  // branches, as which way it goes cannot be predicted.
  static std::size_t descend(const Octet &node, double &point) noexcept {
    const double *v = node.of;
    double before[8];  // sums of the children before each one
    before[0] = 0;
    before[1] = v[0];
    before[2] = v[0] + v[1];
    before[3] = before[2] + v[2];
    before[4] = before[2] + (v[2] + v[3]);
    before[5] = before[4] + v[4];
    before[6] = before[4] + (v[4] + v[5]);
    before[7] = before[6] + v[6];
    std::size_t child = 0;
    for (std::size_t k = 1; k < 8; ++k)
      child += point >= before[k];
    if (!(v[child] > 0)) {  // rounding carried the point beyond all children
      while (!(v[child] > 0))
        child = (child + 7) % 8;
    }
    point -= before[child];
    return child;
  }
};

using MinTree = Tree<Min>;

}  // namespace rl
