// The row path of a segment that is written: columns, their hashes, and the record that commits them.
#pragma once

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include <unistd.h>

#include "journal_tail.hpp"
#include "xxh3.hpp"

namespace rl {

// The hashes of a file that only grows: of each block of 1 MiB, and of everything. SPEC.md sections 8 and 9.
class GrowingSums {
public:
  static constexpr std::size_t BLOCK = 1 << 20;

  void update(const std::uint8_t *data, std::size_t size) {
    while (size) {
      const std::size_t part = std::min(size, BLOCK - filled_);
      all_.update(data, part);
      if (!blocks_.empty()) block_.update(data, part);
      data += part, size -= part, filled_ += part;
      if (filled_ == BLOCK) close_block();
    }
  }

  const Xxh3 &all() const noexcept { return all_; }

  // One hash per block that has bytes; in the last one zeros follow, up to the end of a file of `size` bytes.
  std::vector<std::uint64_t> blocks(std::size_t size) const {
    std::vector<std::uint64_t> found = blocks_;
    if (filled_ == 0) return found;
    constexpr std::uint8_t zeros[4096] = {};
    Xxh3 last = current();
    const std::size_t end = std::min(BLOCK, size - blocks_.size() * BLOCK);
    for (std::size_t at = filled_; at < end; at += sizeof zeros) last.update(zeros, std::min(end - at, sizeof zeros));
    found.push_back(last.digest());
    return found;
  }

private:
  // Until the first block is full, everything is that block.
  const Xxh3 &current() const noexcept { return blocks_.empty() ? all_ : block_; }

  void close_block() {
    blocks_.push_back(current().digest());
    block_.reset();
    filled_ = 0;
  }

  Xxh3 all_, block_;
  std::size_t filled_ = 0;  // bytes of the last block
  std::vector<std::uint64_t> blocks_;
};

// The column files of one segment; descriptors are the caller's. Rows are hashed as they are written: since the last
// `digest`, for the record that commits them, and from the first row on, for the segment's seal.
class ColumnWriter {
public:
  ColumnWriter(std::vector<int> fds, std::vector<std::size_t> row_bytes)
      : fds_(std::move(fds)), row_bytes_(std::move(row_bytes)), hashes_(fds_.size()), sums_(fds_.size()),
        digests_(fds_.size(), __builtin_bswap64(Xxh3().digest())) {}

  std::size_t num_columns() const noexcept { return fds_.size(); }
  std::size_t row_bytes(std::size_t column) const noexcept { return row_bytes_[column]; }
  const GrowingSums &sums(std::size_t column) const noexcept { return sums_[column]; }

  // Rows `at … at + rows` of every column, the next ones. Returns 0 or an errno; then some may be written.
  int write(const std::uint8_t *const *data, std::size_t rows, std::uint64_t at) {
    for (std::size_t i = 0; i < fds_.size(); ++i) {
      const std::uint64_t start = at * row_bytes_[i];
      const std::size_t size = rows * row_bytes_[i];
      for (std::size_t done = 0; done < size; done += PIECE) {  // hashed while it is in the cache
        const std::size_t part = std::min(size - done, PIECE);
        if (const int error = write_all(fds_[i], data[i] + done, part, start + done)) return error;
        add(i, data[i] + done, part);
      }
    }
    return 0;
  }

  // `write` of rows that somebody else writes.
  void hash(const std::uint8_t *const *data, std::size_t rows) {
    for (std::size_t i = 0; i < fds_.size(); ++i) add(i, data[i], rows * row_bytes_[i]);
  }

  // Takes in the next bytes of a column whose rows are committed.
  void resume(std::size_t column, const std::uint8_t *data, std::size_t size) { sums_[column].update(data, size); }

  // The hash of a commit: of the columns' digests, big-endian, and of `others` behind them. Starts anew.
  std::uint64_t digest(const std::uint8_t *others, std::size_t size) noexcept {
    const bool was_idle = is_idle_;
    for (std::size_t i = 0; i < hashes_.size() && !was_idle; ++i) {
      digests_[i] = __builtin_bswap64(hashes_[i].digest());
      hashes_[i].reset();
    }
    Xxh3 all;
    all.update(reinterpret_cast<const std::uint8_t *>(digests_.data()), 8 * digests_.size());
    all.update(others, size);
    if (!was_idle) std::fill(digests_.begin(), digests_.end(), __builtin_bswap64(Xxh3().digest()));
    is_idle_ = true;
    return all.digest();
  }

private:
  static constexpr std::size_t PIECE = 1 << 18;

  void add(std::size_t column, const std::uint8_t *data, std::size_t size) {
    hashes_[column].update(data, size);
    sums_[column].update(data, size);
    is_idle_ = false;
  }

  std::vector<int> fds_;
  std::vector<std::size_t> row_bytes_;
  std::vector<Xxh3> hashes_;
  std::vector<GrowingSums> sums_;
  std::vector<std::uint64_t> digests_;  // of nothing, between commits
  bool is_idle_ = true;
};

}  // namespace rl
