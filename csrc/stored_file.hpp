// A file whose bytes are changed by stores into memory.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <system_error>

#include "file_system.hpp"

namespace rl {

// Whether a store into the first `size` bytes of a mapped file cannot fail for want of room: their blocks are its own
// and stay where they are. Reserves them. False where the file system is not known to be like that, as one that copies
// on write is not: there a full disk would kill the process, where a write is an error.
inline bool reserves_stores(int fd, std::size_t size) noexcept {
  const FileSystem type = file_system(fd);
  const auto length = static_cast<off_t>(size);
  if (type == FileSystem::ext || type == FileSystem::tmpfs) return ::posix_fallocate(fd, 0, length) == 0;
#if defined(FALLOC_FL_UNSHARE_RANGE)
  if (type == FileSystem::xfs)
    return ::fallocate(fd, FALLOC_FL_UNSHARE_RANGE, 0, length) == 0;  // of a copy by reference
#endif
  return false;
}

// The first `size` bytes of a file that is open for reading and writing. What is stored is in the file, for every
// process and whatever becomes of this one.
class StoredFile {
public:
  StoredFile(int fd, std::size_t size) : size_(size) {
    void *found = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (found == MAP_FAILED) throw std::system_error(errno, std::generic_category(), "cannot map");
    base_ = static_cast<std::uint8_t *>(found);
  }
  StoredFile(const StoredFile &) = delete;
  StoredFile &operator=(const StoredFile &) = delete;
  ~StoredFile() { ::munmap(base_, size_); }

  std::uint8_t *address() const noexcept { return base_; }

private:
  std::uint8_t *base_ = nullptr;
  std::size_t size_;
};

}  // namespace rl
