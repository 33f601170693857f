// A few threads of our own that share one loop. Waking them costs tens of microseconds: not for small work.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <cstddef>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace rl {

// The caller is one of the threads. One loop at a time; callers wait for each other.
class Pool {
public:
  explicit Pool(std::size_t threads) : size_(std::max<std::size_t>(threads, 1)) {
    for (std::size_t k = 1; k < size_; ++k)
      workers_.emplace_back([this, k] { work(k); });
  }

  Pool(const Pool &) = delete;
  Pool &operator=(const Pool &) = delete;

  ~Pool() {
    {
      std::lock_guard lock(mutex_);
      stopped_ = true;
    }
    wake_.notify_all();
    for (std::thread &worker : workers_)
      worker.join();
  }

  std::size_t size() const noexcept { return size_; }

  // Calls part(begin, end) for equal shares of [0, count), one per thread, and returns when all have ended. `part` must
  // not throw.
  void run(std::size_t count, const std::function<void(std::size_t, std::size_t)> &part) {
    std::lock_guard one(turn_);
    {
      std::lock_guard lock(mutex_);
      part_ = &part;
      count_ = count;
      pending_ = size_ - 1;
      ++round_;
    }
    wake_.notify_all();
    share(0, part, count);
    std::unique_lock lock(mutex_);
    ended_.wait(lock, [this] { return pending_ == 0; });
  }

private:
  void share(std::size_t k, const std::function<void(std::size_t, std::size_t)> &part, std::size_t count) const {
    part(count * k / size_, count * (k + 1) / size_);
  }

  void work(std::size_t k) {
    std::size_t seen = 0;
    std::unique_lock lock(mutex_);
    while (true) {
      wake_.wait(lock, [&] { return stopped_ || round_ != seen; });
      if (stopped_) return;
      seen = round_;
      const auto &part = *part_;
      const std::size_t count = count_;
      lock.unlock();
      share(k, part, count);
      lock.lock();
      if (--pending_ == 0) ended_.notify_one();
    }
  }

  std::size_t size_;
  std::vector<std::thread> workers_;
  std::mutex turn_, mutex_;
  std::condition_variable wake_, ended_;
  const std::function<void(std::size_t, std::size_t)> *part_ = nullptr;
  std::size_t count_ = 0, pending_ = 0, round_ = 0;
  bool stopped_ = false;
};

}  // namespace rl
