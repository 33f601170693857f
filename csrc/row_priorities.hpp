// Priorities of rows by identity: streams that grow at one end and are evicted at the other share one tree.
#pragma once

#include "priorities.hpp"

#include <algorithm>
#include <functional>
#include <mutex>
#include <stdexcept>
#include <vector>

namespace rl {

// A row's identity is stream << 40 | row. Leaves are handed out in chunks of consecutive rows of a stream, in the order
// in which rows come; chunks of evicted rows are used again. Several threads may call it.
class RowPriorities {
public:
  static constexpr std::int64_t kChunk = 1024;
  static constexpr int kRowBits = 40;

  RowPriorities(double alpha, double epsilon) : leaves_(alpha, epsilon) {}

  static std::int64_t id(std::int64_t stream, std::int64_t row) noexcept { return stream << kRowBits | row; }

  // Rows [first, first + count) of a stream can be drawn, with this priority; a negative one: they cannot.
  void cover(std::int64_t stream, std::int64_t first, std::int64_t count, double priority) {
    std::lock_guard lock(mutex_);
    if (stream < 0 || stream >= kStreams || first < 0 || first > kRows || count < 0 || count > kRows - first)
      throw std::out_of_range("no such row");
    if (!(priority <= Priorities::kMost)) throw std::invalid_argument("a priority is not in [0, 1e100]");
    for (const std::int64_t end = first + count; first < end;) {
      const std::int64_t stop = std::min(end, (first / kChunk + 1) * kChunk);
      const std::size_t leaf = static_cast<std::size_t>(chunk(stream, first / kChunk) * kChunk + first % kChunk);
      if (priority < 0)
        leaves_.exclude(leaf, static_cast<std::size_t>(stop - first));
      else
        leaves_.fill(leaf, static_cast<std::size_t>(stop - first), priority);
      first = stop;
    }
  }

  // Rows of a stream before `start` are gone: never drawn, and not updated.
  void evict(std::int64_t stream, std::int64_t start) {
    std::lock_guard lock(mutex_);
    if (start < 0 || stream < 0 || static_cast<std::size_t>(stream) >= streams_.size()) return;
    Stream &s = streams_[static_cast<std::size_t>(stream)];
    while (!s.chunks.empty() && s.first < start / kChunk) {
      release(s.chunks.front());
      s.chunks.erase(s.chunks.begin());
      ++s.first;
    }
    if (!s.chunks.empty() && s.first == start / kChunk && s.chunks.front() >= 0)
      leaves_.exclude(static_cast<std::size_t>(s.chunks.front() * kChunk), static_cast<std::size_t>(start % kChunk));
  }

  // Rows get new priorities; those that are gone, or never came, are passed over. Returns the greatest priority set.
  double set(const std::int64_t *ids, const double *priorities, std::size_t count) {
    std::lock_guard lock(mutex_);
    std::vector<std::int64_t> leaves(count);
    for (std::size_t i = 0; i < count; ++i) {
      leaves[i] = place_of(ids[i]);
      if (leaves[i] >= 0) leaves_.fetch(static_cast<std::size_t>(leaves[i]));
    }
    for (std::int64_t &leaf : leaves)
      if (leaf >= 0 && !leaves_.has(static_cast<std::size_t>(leaf))) leaf = -1;
    return leaves_.set(leaves.data(), priorities, count);
  }

  // The rows' priorities, -1 where there is none.
  void get(const std::int64_t *ids, std::size_t count, double *out) const {
    std::lock_guard lock(mutex_);
    for (std::size_t i = 0; i < count; ++i) {
      const std::int64_t leaf = place_of(ids[i]);
      out[i] = leaf < 0 ? -1.0 : leaves_.priority(static_cast<std::size_t>(leaf));
    }
  }

  // As `Priorities::sample`, but gives identities.
  bool sample(const Random &random, std::size_t count, bool stratified, double beta, std::int64_t *ids,
              float *weights) const {
    std::lock_guard lock(mutex_);
    if (!leaves_.sample(random, count, stratified, beta, ids, weights)) return false;
    identify(ids, count);
    return true;
  }

  std::size_t sample_distinct(const Random &random, std::size_t count, double beta, std::int64_t *ids, float *weights) {
    std::lock_guard lock(mutex_);
    const std::size_t found = leaves_.sample_distinct(random, count, beta, ids, weights);
    identify(ids, found);
    return found;
  }

  double total() const {
    std::lock_guard lock(mutex_);
    return leaves_.total();
  }

  // The least leaf that can be drawn; infinite if none can.
  double least() const {
    std::lock_guard lock(mutex_);
    return leaves_.least();
  }

  // The owner of each chunk of leaves as the identity of its first row, -1 for free ones, and all priorities: the
  // state.
  std::vector<std::int64_t> owners() const {
    std::lock_guard lock(mutex_);
    return owners_;
  }

  std::vector<double> priorities() const {
    std::lock_guard lock(mutex_);
    std::vector<double> found(leaves_.size());
    leaves_.priorities(found.data());
    return found;
  }

  void restore(const std::vector<std::int64_t> &owners, const std::vector<double> &priorities) {
    std::lock_guard lock(mutex_);
    if (priorities.size() != owners.size() * static_cast<std::size_t>(kChunk))
      throw std::invalid_argument("a chunk of priorities for every owner");
    owners_.clear(), free_.clear(), streams_.clear();
    leaves_.resize(0);
    leaves_.resize(priorities.size());
    for (std::size_t k = 0; k < owners.size(); ++k) {
      owners_.push_back(owners[k]);
      if (owners[k] < 0)
        free_.push_back(static_cast<std::int64_t>(k));
      else
        place(owners[k] >> kRowBits, (owners[k] & kRowMask) / kChunk) = static_cast<std::int64_t>(k);
    }
    std::sort(free_.rbegin(), free_.rend());
    std::vector<std::int64_t> leaves;
    std::vector<double> values;
    for (std::size_t leaf = 0; leaf < priorities.size(); ++leaf) {
      if (!(priorities[leaf] >= 0)) continue;
      leaves.push_back(static_cast<std::int64_t>(leaf));
      values.push_back(priorities[leaf]);
    }
    leaves_.set(leaves.data(), values.data(), leaves.size());
  }

private:
  static constexpr std::int64_t kStreams = std::int64_t{1} << 22;
  static constexpr std::int64_t kRows = std::int64_t{1} << kRowBits, kRowMask = kRows - 1;

  struct Stream {
    std::int64_t first = 0;            // number of the first chunk
    std::vector<std::int64_t> chunks;  // where their leaves are, -1 where there are none
  };

  std::int64_t &place(std::int64_t stream, std::int64_t number) {
    if (static_cast<std::size_t>(stream) >= streams_.size()) streams_.resize(static_cast<std::size_t>(stream) + 1);
    Stream &s = streams_[static_cast<std::size_t>(stream)];
    if (s.chunks.empty()) s.first = number;
    if (number < s.first) {
      s.chunks.insert(s.chunks.begin(), static_cast<std::size_t>(s.first - number), -1);
      s.first = number;
    }
    const auto at = static_cast<std::size_t>(number - s.first);
    if (at >= s.chunks.size()) s.chunks.resize(at + 1, -1);
    return s.chunks[at];
  }

  // Where the leaves of a chunk are; it gets the first free ones if it has none.
  std::int64_t chunk(std::int64_t stream, std::int64_t number) {
    std::int64_t &where = place(stream, number);
    if (where < 0) {
      if (free_.empty()) {
        where = static_cast<std::int64_t>(owners_.size());
        owners_.push_back(-1);
        leaves_.resize(owners_.size() * static_cast<std::size_t>(kChunk));
      } else {
        where = free_.back();
        free_.pop_back();
      }
      owners_[static_cast<std::size_t>(where)] = id(stream, number * kChunk);
    }
    return where;
  }

  void release(std::int64_t chunk) {
    if (chunk < 0) return;
    leaves_.exclude(static_cast<std::size_t>(chunk * kChunk), static_cast<std::size_t>(kChunk));
    owners_[static_cast<std::size_t>(chunk)] = -1;
    free_.insert(std::lower_bound(free_.begin(), free_.end(), chunk, std::greater<>()), chunk);
  }

  // The leaf of a row, -1 if it is gone or never came.
  std::int64_t place_of(std::int64_t id) const noexcept {
    const std::int64_t stream = id >> kRowBits, row = id & kRowMask;
    if (id < 0 || static_cast<std::size_t>(stream) >= streams_.size()) return -1;
    const Stream &s = streams_[static_cast<std::size_t>(stream)];
    const std::int64_t at = row / kChunk - s.first;
    if (at < 0 || static_cast<std::size_t>(at) >= s.chunks.size() || s.chunks[static_cast<std::size_t>(at)] < 0)
      return -1;
    return s.chunks[static_cast<std::size_t>(at)] * kChunk + row % kChunk;
  }

  void identify(std::int64_t *leaves, std::size_t count) const noexcept {
    for (std::size_t i = 0; i < count; ++i)
      leaves[i] = owners_[static_cast<std::size_t>(leaves[i] / kChunk)] + leaves[i] % kChunk;
  }

  mutable std::mutex mutex_;
  Priorities leaves_;
  std::vector<std::int64_t> owners_;
  std::vector<std::int64_t> free_;  // descending, the first one last
  std::vector<Stream> streams_;
};

}  // namespace rl
