// A reserved range of addresses into which files are mapped side by side, read-only.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <string>
#include <system_error>

#include "file_system.hpp"
#include "read_all.hpp"
#include "write_all.hpp"

namespace rl {

// A regular file that is no link, open for reading while the object lives.
class RegularFile {
public:
  explicit RegularFile(const std::string &path)
      : fd_(::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK)) {
    struct stat found;
    is_there_ = fd_ >= 0 && ::fstat(fd_, &found) == 0 && S_ISREG(found.st_mode);
    if (is_there_) size_ = static_cast<std::size_t>(found.st_size);
  }
  RegularFile(const RegularFile &) = delete;
  RegularFile &operator=(const RegularFile &) = delete;
  ~RegularFile() {
    if (fd_ >= 0) ::close(fd_);
  }

  bool is_there() const noexcept { return is_there_; }
  std::size_t size() const noexcept { return size_; }
  int descriptor() const noexcept { return fd_; }

  // Reads `size` bytes from `offset` on. False if the file ends early or the device fails.
  bool read(char *out, std::size_t size, std::size_t offset = 0) const noexcept {
    return read_all(fd_, out, size, offset);
  }

private:
  int fd_;
  bool is_there_;
  std::size_t size_ = 0;
};

// One that is exactly `size` bytes long.
class ExactFile : public RegularFile {
public:
  ExactFile(const std::string &path, std::size_t size) : RegularFile(path), fits_(is_there() && this->size() == size) {}

  bool fits() const noexcept { return fits_; }

private:
  bool fits_;
};

// Owns [address(), address() + size()). Nothing in it is readable until a file is mapped there;
// everything is unmapped when the object dies. Offsets and lengths given to map_file() are checked.
class AddressRange {
public:
  explicit AddressRange(std::size_t size) : size_(size) {
    if (size == 0) throw std::system_error(EINVAL, std::generic_category(), "empty address range");
    void *found = ::mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (found == MAP_FAILED) throw std::system_error(errno, std::generic_category(), "cannot reserve addresses");
    base_ = static_cast<std::uint8_t *>(found);
  }
  AddressRange(const AddressRange &) = delete;
  AddressRange &operator=(const AddressRange &) = delete;
  ~AddressRange() { ::munmap(base_, size_); }

  // Maps the first `length` bytes of a file at `offset`, which must be a multiple of the page size.
  // The file may still be shorter; touching what is beyond its last page is the caller's mistake.
  const std::uint8_t *map_file(int fd, std::size_t offset, std::size_t length) {
    if (length == 0 || offset > size_ || length > size_ - offset)
      throw std::system_error(EINVAL, std::generic_category(), "outside the address range");
    void *found = ::mmap(base_ + offset, length, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0);
    if (found == MAP_FAILED) throw std::system_error(errno, std::generic_category(), "cannot map");
    return static_cast<const std::uint8_t *>(found);
  }

  // Gives up what is mapped at [offset, offset + length), whole pages; nothing is readable there any more.
  void unmap(std::size_t offset, std::size_t length) {
    if (length == 0 || offset > size_ || length > size_ - offset)
      throw std::system_error(EINVAL, std::generic_category(), "outside the address range");
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
    if (::mmap(base_ + offset, length, PROT_NONE, flags, -1, 0) == MAP_FAILED)
      throw std::system_error(errno, std::generic_category(), "cannot unmap");
  }

  // Lets the system take back the memory of clean pages of files there; they are read again when touched.
  void release(std::size_t offset, std::size_t length) noexcept {
    if (offset <= size_ && length <= size_ - offset) ::madvise(base_ + offset, length, MADV_DONTNEED);
  }

  // What will be read there: rows at random, of which the neighbours are not wanted, or runs. Only a wish.
  void expect(bool random, std::size_t offset, std::size_t length) noexcept {
    if (offset <= size_ && length <= size_ - offset)
      ::madvise(base_ + offset, length, random ? MADV_RANDOM : MADV_NORMAL);
  }

  const std::uint8_t *address() const noexcept { return base_; }
  std::size_t size() const noexcept { return size_; }

private:
  std::uint8_t *base_ = nullptr;
  std::size_t size_;
};

// Gives a new file its size, and reserves its space where that is on a disk. What is kept in memory (tmpfs) would be
// filled with pages, one by one, of which most come with the bytes at no cost. Returns whether that went well.
inline bool reserve(int fd, std::size_t size) noexcept {
  if (file_system(fd) == FileSystem::tmpfs) return ::ftruncate(fd, static_cast<off_t>(size)) == 0;
  return ::posix_fallocate(fd, 0, static_cast<off_t>(size)) == 0;
}

// A descriptor of a new file of zeros whose space is reserved, or -1; then there is no file, or it was there before.
inline int create_file(const std::string &path, std::size_t size) noexcept {
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
  if (fd < 0 || size == 0 || reserve(fd, size)) return fd;
  ::close(fd), ::unlink(path.c_str());
  return -1;
}

// Makes a new file with these bytes. Returns whether that went well; if not there is no file, or it was there before.
inline bool write_file(const std::string &path, const char *data, std::size_t size) noexcept {
  const int fd = create_file(path, 0);
  if (fd < 0) return false;
  const bool is_whole = write_all(fd, reinterpret_cast<const std::uint8_t *>(data), size, 0) == 0;
  if (!is_whole) ::unlink(path.c_str());
  ::close(fd);
  return is_whole;
}

// Zeroes a range of a file and frees its space, keeping the size. Returns 0 or an errno.
inline int punch_hole(int fd, std::int64_t offset, std::int64_t size) noexcept {
#if defined(FALLOC_FL_PUNCH_HOLE)
  return ::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, size) == 0 ? 0 : errno;
#else
  (void)fd, (void)offset, (void)size;
  return EOPNOTSUPP;
#endif
}

}  // namespace rl
