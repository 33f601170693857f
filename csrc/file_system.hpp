// Which file system a file is on.
#pragma once

#if defined(__linux__)
#include <sys/vfs.h>
#endif

namespace rl {

enum class FileSystem : unsigned long { other = 0, ext = 0xEF53, tmpfs = 0x01021994, xfs = 0x58465342 };

// `other` also where the system does not tell.
inline FileSystem file_system(int fd) noexcept {
#if defined(__linux__)
  struct statfs found;
  if (::fstatfs(fd, &found) == 0) return static_cast<FileSystem>(static_cast<unsigned long>(found.f_type) & 0xFFFFFFFF);
#endif
  (void)fd;
  return FileSystem::other;
}

}  // namespace rl
