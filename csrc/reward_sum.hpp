// The return of an episode while its rows come. SPEC.md section 7.
#pragma once

#include <cstddef>
#include <vector>

namespace rl {

// Adds rewards in float64, one after the other: the same bits however they come. The last ones are kept apart, since
// the episode may end before them.
class RewardSum {
public:
  explicit RewardSum(double start = 0) noexcept : total_(start) {}

  // All values of one write.
  template <class Reward> void add(const Reward *values, std::size_t count) {
    if (held_.size() + count > MANY) fold(held_.size());
    held_.insert(held_.end(), values, values + count);
  }

  std::size_t held() const noexcept { return held_.size(); }

  // The sum of all values but the last `rest`, which begin the next one. Precondition: rest <= held().
  double take(std::size_t rest) {
    fold(held_.size() - rest);
    const double sum = total_;
    total_ = 0;
    return sum;
  }

private:
  static constexpr std::size_t MANY = 4096;

  void fold(std::size_t count) {
    for (std::size_t i = 0; i < count; ++i)
      total_ += held_[i];
    held_.erase(held_.begin(), held_.begin() + static_cast<std::ptrdiff_t>(count));
  }

  double total_;
  std::vector<double> held_;
};

}  // namespace rl
