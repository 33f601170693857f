// The end of a heap file that is written: bytes are hashed as they are appended. SPEC.md sections 8, 9 and 14.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>

#include <sys/uio.h>

#include "column_writer.hpp"
#include "span.hpp"

namespace rl {

class HeapEnd {
public:
  // Of all bytes.
  const GrowingSums &sums() const noexcept { return sums_; }
  std::uint64_t size() const noexcept { return sums_.all().total(); }

  // Appends values to the file, one after the other. Returns 0 or an errno; then some may be written.
  int write(int fd, const Span *values, std::size_t count) {
    for (std::size_t at = 0, done = 0; at < count;) {  // `done` bytes of the value at `at`
      iovec parts[MOST];
      std::size_t number = 0, bytes = 0;
      while (at < count && number < MOST && bytes < PIECE) {
        const std::size_t part = std::min(values[at].size() - done, PIECE - bytes);
        if (part) parts[number++] = {const_cast<std::uint8_t *>(values[at].data + done), part};
        bytes += part, done += part;
        if (done == values[at].size()) ++at, done = 0;
      }
      if (const int error = write_parts(fd, parts, number, size())) return error;
      for (std::size_t i = 0; i < number; ++i) {  // while they are in the cache
        const auto *data = static_cast<const std::uint8_t *>(parts[i].iov_base);
        hash({data, data + parts[i].iov_len});
      }
    }
    return 0;
  }

  // `write` of bytes that somebody else writes.
  void hash(Span bytes) {
    while (bytes.size()) {
      const std::size_t part = std::min(bytes.size(), NEAR);
      since_.update(bytes.data, part);
      sums_.update(bytes.data, part);
      bytes.data += part;
    }
  }

  // Takes in the next bytes, which are committed.
  void resume(Span bytes) { sums_.update(bytes.data, bytes.size()); }

  // The hash of what was appended since `reset`.
  std::uint64_t digest() const noexcept { return since_.digest(); }
  void reset() noexcept { since_.reset(); }

private:
  static constexpr std::size_t MOST = 64;        // values in one call; the system takes 1,024
  static constexpr std::size_t PIECE = 1 << 18;  // bytes in one call
  static constexpr std::size_t NEAR = 1 << 14;   // bytes that are in the nearest cache when they are hashed again

  static int write_parts(int fd, const iovec *given, std::size_t number, std::uint64_t offset) {
    iovec parts[MOST];
    std::copy(given, given + number, parts);
    for (std::size_t at = 0; at < number;) {
      ssize_t done = ::pwritev(fd, parts + at, static_cast<int>(number - at), static_cast<off_t>(offset));
      if (done < 0 && errno == EINTR) continue;
      if (done <= 0) return done < 0 ? errno : EIO;
      offset += static_cast<std::uint64_t>(done);
      for (; at < number && static_cast<std::size_t>(done) >= parts[at].iov_len; ++at)
        done -= static_cast<ssize_t>(parts[at].iov_len);
      if (done) {
        parts[at].iov_base = static_cast<std::uint8_t *>(parts[at].iov_base) + done;
        parts[at].iov_len -= static_cast<std::size_t>(done);
      }
    }
    return 0;
  }

  Xxh3 since_;
  GrowingSums sums_;
};

}  // namespace rl
