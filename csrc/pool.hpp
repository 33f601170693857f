// A few threads of our own that share one loop. Waking them costs tens of microseconds: not for small work.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace rl {

// The caller is one of the threads. One loop at a time; callers wait for each other.
class Pool {
public:
  // Throws std::system_error, with no thread left behind, where there cannot be as many.
  explicit Pool(std::size_t threads) : size_(std::max<std::size_t>(threads, 1)) {
    try {
      for (std::size_t k = 1; k < size_; ++k)
        workers_.emplace_back([this] { work(); });
    } catch (...) {
      stop();
      throw;
    }
  }

  Pool(const Pool &) = delete;
  Pool &operator=(const Pool &) = delete;

  ~Pool() { stop(); }

  std::size_t size() const noexcept { return size_; }

  // Calls part(begin, end) for disjoint parts of [0, count) that make all of it, and returns when all have ended.
  // Threads take parts until none is left: one that does not wake in time is not waited for. `part` must not throw.
  void run(std::size_t count, const std::function<void(std::size_t, std::size_t)> &part) {
    std::lock_guard one(turn_);
    std::unique_lock lock(mutex_);
    part_ = &part;
    count_ = count;
    parts_ = pending_ = size_ == 1 ? 1 : kParts * size_;
    next_ = 0;
    wake_.notify_all();
    take(lock);
    ended_.wait(lock, [this] { return pending_ == 0; });
  }

private:
  static constexpr std::size_t kParts = 2;  // per thread: few, for neighbours in memory are read best by one

  void stop() {
    {
      std::lock_guard lock(mutex_);
      stopped_ = true;
    }
    wake_.notify_all();
    for (std::thread &worker : workers_)
      worker.join();
  }

  void take(std::unique_lock<std::mutex> &lock) {
    while (next_ < parts_) {
      const std::size_t k = next_++, begin = count_ * k / parts_, end = count_ * (k + 1) / parts_;
      lock.unlock();
      if (begin < end) (*part_)(begin, end);
      lock.lock();
      if (--pending_ == 0) ended_.notify_one();
    }
  }

  void work() {
    std::unique_lock lock(mutex_);
    while (true) {
      wake_.wait(lock, [this] { return stopped_ || next_ < parts_; });
      if (stopped_) return;
      take(lock);
    }
  }

  std::size_t size_;
  std::vector<std::thread> workers_;
  std::mutex turn_, mutex_;
  std::condition_variable wake_, ended_;
  const std::function<void(std::size_t, std::size_t)> *part_ = nullptr;
  std::size_t count_ = 0, parts_ = 0, next_ = 0, pending_ = 0;
  bool stopped_ = false;
};

// A pool that is made when it is first needed, and anew in a forked process, which has none of its parent's threads.
class Workers {
public:
  static constexpr std::size_t kMost = 256;  // what is shared is bound by memory long before

  // Throws std::invalid_argument for a number of threads that nobody can mean.
  static void check(std::size_t threads) {
    if (threads < 1 || threads > kMost) throw std::invalid_argument("threads must be 1 to " + std::to_string(kMost));
  }

  Workers() = default;
  Workers(const Workers &) = delete;
  Workers &operator=(const Workers &) = delete;
  ~Workers() { abandon(); }

  // A pool of as many threads, null for one.
  std::shared_ptr<Pool> of(std::size_t threads) {
    if (threads <= 1) return nullptr;
    std::lock_guard lock(mutex_);
    abandon();
    if (pool_ == nullptr || pool_->size() != threads) pool_ = std::make_shared<Pool>(threads);
    owner_ = ::getpid();
    return pool_;
  }

private:
  // Lets go of another process's pool without joining threads that are not here.
  void abandon() {
    if (pool_ != nullptr && owner_ != ::getpid()) new std::shared_ptr<Pool>(std::move(pool_));
  }

  std::mutex mutex_;
  std::shared_ptr<Pool> pool_;
  pid_t owner_ = 0;
};

}  // namespace rl
