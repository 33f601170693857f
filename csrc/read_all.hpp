// One thing every reader of files needs.
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>

#include <unistd.h>

namespace rl {

// Reads `size` bytes from `offset` on, however many calls that takes. False if the file ends early or the device fails.
inline bool read_all(int fd, void *out, std::size_t size, std::uint64_t offset) noexcept {
  auto *at = static_cast<std::uint8_t *>(out);
  while (size) {
    const ssize_t done = ::pread(fd, at, size, static_cast<off_t>(offset));
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) return false;
    at += done, size -= static_cast<std::size_t>(done), offset += static_cast<std::uint64_t>(done);
  }
  return true;
}

}  // namespace rl
