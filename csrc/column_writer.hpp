// The row path of a segment that is written: columns, their hashes, and the record that commits them.
#pragma once

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <ctime>
#include <utility>
#include <vector>

#include <unistd.h>

#include "xxh3.hpp"

namespace rl {

// Writes all bytes at `offset`, however many calls that takes. Returns 0 or an errno.
inline int write_all(int fd, const std::uint8_t *data, std::size_t size, std::uint64_t offset) noexcept {
  while (size) {
    const ssize_t done = ::pwrite(fd, data, size, static_cast<off_t>(offset));
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) return done < 0 ? errno : EIO;
    data += done, size -= static_cast<std::size_t>(done), offset += static_cast<std::uint64_t>(done);
  }
  return 0;
}

// CRC-32 as zlib computes it.
inline std::uint32_t crc32(const std::uint8_t *data, std::size_t size) noexcept {
  static const auto table = [] {
    std::array<std::uint32_t, 256> made{};
    for (std::uint32_t n = 0; n < 256; ++n) {
      std::uint32_t value = n;
      for (int bit = 0; bit < 8; ++bit) value = value & 1 ? 0xEDB88320u ^ value >> 1 : value >> 1;
      made[n] = value;
    }
    return made;
  }();
  std::uint32_t crc = ~0u;
  for (std::size_t i = 0; i < size; ++i) crc = table[(crc ^ data[i]) & 0xFF] ^ crc >> 8;
  return ~crc;
}

// What a rows record says. SPEC.md section 7.
struct RowsRecord {
  std::uint16_t stream;
  std::uint64_t sequence, first, rows, hash, time_ns, tag;
  bool durable;
  std::uint32_t chain;  // CRC of the record before
};

constexpr std::size_t RECORD_BYTES = 64;

// Fills in the 64 bytes and returns their CRC.
inline std::uint32_t pack(const RowsRecord &record, std::uint8_t *out) noexcept {
  std::memcpy(out, "RLJ1", 4);
  out[4] = 1;
  out[5] = record.durable;
  std::memcpy(out + 6, &record.stream, 2);
  const std::uint64_t words[6] = {record.sequence, record.first, record.rows, record.hash, record.time_ns, record.tag};
  std::memcpy(out + 8, words, sizeof words);
  std::memcpy(out + 56, &record.chain, 4);
  const std::uint32_t crc = crc32(out, 60);
  std::memcpy(out + 60, &crc, 4);
  return crc;
}

inline std::uint64_t now_ns() noexcept {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000u + static_cast<std::uint64_t>(now.tv_nsec);
}

// The column files of one segment; descriptors are the caller's. One hash per column over what was written
// since the last `digest`.
class ColumnWriter {
public:
  ColumnWriter(std::vector<int> fds, std::vector<std::size_t> row_bytes)
      : fds_(std::move(fds)), row_bytes_(std::move(row_bytes)), hashes_(fds_.size()), digests_(fds_.size()) {}

  std::size_t num_columns() const noexcept { return fds_.size(); }
  std::size_t row_bytes(std::size_t column) const noexcept { return row_bytes_[column]; }

  // Rows `at … at + rows` of every column, hashed. Returns 0 or an errno; then some may be written.
  int write(const std::uint8_t *const *data, std::size_t rows, std::uint64_t at) noexcept {
    for (std::size_t i = 0; i < fds_.size(); ++i)
      if (const int error = write_all(fds_[i], data[i], rows * row_bytes_[i], at * row_bytes_[i])) return error;
    hash(data, rows);
    return 0;
  }

  void hash(const std::uint8_t *const *data, std::size_t rows) noexcept {
    for (std::size_t i = 0; i < fds_.size(); ++i) hashes_[i].update(data[i], rows * row_bytes_[i]);
  }

  // The hash of a commit: of the columns' digests, big-endian, and of `others` behind them. Starts anew.
  std::uint64_t digest(const std::uint8_t *others, std::size_t size) noexcept {
    for (std::size_t i = 0; i < hashes_.size(); ++i) {
      digests_[i] = __builtin_bswap64(hashes_[i].digest());
      hashes_[i].reset();
    }
    Xxh3 all;
    all.update(reinterpret_cast<const std::uint8_t *>(digests_.data()), 8 * digests_.size());
    all.update(others, size);
    return all.digest();
  }

private:
  std::vector<int> fds_;
  std::vector<std::size_t> row_bytes_;
  std::vector<Xxh3> hashes_;
  std::vector<std::uint64_t> digests_;
};

}  // namespace rl
