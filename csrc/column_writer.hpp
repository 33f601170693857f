// The row path of a segment that is written: columns, their hashes, and the record that commits them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include <unistd.h>

#include "write_all.hpp"
#include "xxh3.hpp"

namespace rl {

// The hashes of a file that only grows: of each block of 1 MiB, and of everything. SPEC.md sections 8 and 9.
class GrowingSums {
public:
  static constexpr std::size_t BLOCK = 1 << 20;

  void update(const std::uint8_t *data, std::size_t size) {
    while (size) {
      if (filled_ == BLOCK) {
        blocks_.push_back(all_.digest(block_, BLOCK));
        all_.settle();
        std::memcpy(block_, xxh3::START, sizeof block_);
        filled_ = 0;
      }
      const std::size_t part = std::min(size, BLOCK - filled_);
      all_.update(data, part, block_);
      data += part, size -= part, filled_ += part;
    }
  }

  const Xxh3 &all() const noexcept { return all_; }

  // One hash per block that has bytes; in the last one zeros follow, up to the end of a file of `size` bytes.
  std::vector<std::uint64_t> blocks(std::size_t size) const {
    std::vector<std::uint64_t> found = blocks_;
    if (filled_ == 0) return found;
    constexpr std::uint8_t zeros[4096] = {};
    Xxh3 last = all_;
    std::uint64_t block[8];
    std::memcpy(block, block_, sizeof block);
    const std::size_t end = std::min(BLOCK, size - blocks_.size() * BLOCK);
    for (std::size_t at = filled_; at < end; at += sizeof zeros)
      last.update(zeros, std::min(end - at, sizeof zeros), block);
    found.push_back(last.digest(block, end));
    return found;
  }

private:
  Xxh3 all_;
  std::uint64_t block_[8] = {xxh3::START[0], xxh3::START[1], xxh3::START[2], xxh3::START[3],
                             xxh3::START[4], xxh3::START[5], xxh3::START[6], xxh3::START[7]};
  std::size_t filled_ = 0;  // bytes of the last block
  std::vector<std::uint64_t> blocks_;
};

// The column files of one segment; descriptors are the caller's. Rows are hashed as they are written: since the last
// `digest`, for the record that commits them, and from the first row on, for the segment's seal.
class ColumnWriter {
public:
  // Appends behind `rows` rows. Beside columns a commit may have `others`: finals, heaps.
  ColumnWriter(std::vector<int> fds, std::vector<std::size_t> row_bytes, std::size_t others, std::uint64_t rows)
      : fds_(std::move(fds)), row_bytes_(std::move(row_bytes)), rows_(rows), hashes_(fds_.size()), sums_(fds_.size()),
        digests_(fds_.size() + others, NOTHING) {}

  std::size_t num_columns() const noexcept { return fds_.size(); }
  std::size_t row_bytes(std::size_t column) const noexcept { return row_bytes_[column]; }
  std::size_t num_others() const noexcept { return digests_.size() - fds_.size(); }
  std::uint64_t rows() const noexcept { return rows_; }
  const GrowingSums &sums(std::size_t column) const noexcept { return sums_[column]; }

  // The next rows of every column. Returns 0 or an errno; then some may be written.
  int write(const std::uint8_t *const *data, std::size_t rows) {
    for (std::size_t i = 0; i < fds_.size(); ++i) {
      const std::uint64_t start = rows_ * row_bytes_[i];
      const std::size_t size = rows * row_bytes_[i];
      for (std::size_t done = 0; done < size; done += PIECE) {  // hashed while it is in the cache
        const std::size_t part = std::min(size - done, PIECE);
        if (const int error = write_all(fds_[i], data[i] + done, part, start + done)) return error;
        add(i, data[i] + done, part);
      }
    }
    rows_ += rows;
    return 0;
  }

  // `write` of rows that somebody else writes.
  void hash(const std::uint8_t *const *data, std::size_t rows) {
    for (std::size_t i = 0; i < fds_.size(); ++i)
      add(i, data[i], rows * row_bytes_[i]);
    rows_ += rows;
  }

  // Takes in the next bytes of a column whose rows are committed.
  void resume(std::size_t column, const std::uint8_t *data, std::size_t size) { sums_[column].update(data, size); }

  // The hash of a commit: of the big-endian digests of columns, and of the others, where there are any in this commit
  // `num_others` * 8 bytes. Starts anew.
  std::uint64_t digest(const std::uint8_t *others = nullptr) noexcept {
    const bool was_idle = is_idle_ && others == nullptr;
    for (std::size_t i = 0; i < hashes_.size() && !is_idle_; ++i) {
      digests_[i] = __builtin_bswap64(hashes_[i].digest());
      hashes_[i].reset();
    }
    if (others != nullptr) std::memcpy(digests_.data() + fds_.size(), others, 8 * num_others());
    Xxh3 all;
    all.update(reinterpret_cast<const std::uint8_t *>(digests_.data()), 8 * digests_.size());
    if (!was_idle) std::fill(digests_.begin(), digests_.end(), NOTHING);
    is_idle_ = true;
    return all.digest();
  }

private:
  static constexpr std::size_t PIECE = 1 << 18;

  static constexpr std::size_t NEAR = 1 << 14;  // bytes that are in the nearest cache when they are hashed again

  void add(std::size_t column, const std::uint8_t *data, std::size_t size) {
    for (std::size_t part; size; data += part, size -= part) {
      part = std::min(size, NEAR);
      hashes_[column].update(data, part);
      sums_[column].update(data, part);
    }
    is_idle_ = false;
  }

  std::vector<int> fds_;
  std::vector<std::size_t> row_bytes_;
  std::uint64_t rows_;
  std::vector<Xxh3> hashes_;
  std::vector<GrowingSums> sums_;
  std::vector<std::uint64_t> digests_;  // of nothing, between commits
  inline static const std::uint64_t NOTHING = __builtin_bswap64(Xxh3().digest());
  bool is_idle_ = true;
};

}  // namespace rl
