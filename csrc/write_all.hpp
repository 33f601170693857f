// One thing every writer of files needs.
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>

#include <unistd.h>

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

}  // namespace rl
