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
    if (held() + count > MANY) fold(held());
    if (taken_) held_.erase(held_.begin(), held_.begin() + static_cast<std::ptrdiff_t>(taken_));
    taken_ = 0;
    held_.insert(held_.end(), values, values + count);
  }

  std::size_t held() const noexcept { return held_.size() - taken_; }

  // The sum of all values but the last `rest`, which begin the next one. Precondition: rest <= held().
  double take(std::size_t rest) {
    fold(held() - rest);
    const double sum = total_;
    total_ = 0;
    return sum;
  }

private:
  static constexpr std::size_t MANY = 4096;

  void fold(std::size_t count) {
    for (const std::size_t end = taken_ + count; taken_ < end; ++taken_)
      total_ += held_[taken_];
  }

  double total_;
  std::vector<double> held_;
  std::size_t taken_ = 0;  // of `held_`, from its front: in a sum by now
};

}  // namespace rl
