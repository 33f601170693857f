// Stands before the C library (LD_PRELOAD) and makes one call on a file fail, or do less than it was asked for: a call
// on a path that begins with a prefix, or on a descriptor of such a file, whoever makes it. `fail_arm` says which.
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstring>

namespace {

enum Class : unsigned {
  OPEN = 1,
  READ = 2,
  WRITE = 4,
  SYNC = 8,
  NAME = 16,
  STAT = 32,
  CLOSE = 64,
  LOCK = 128,
  MAP = 256
};
enum Mode { COUNT, ONCE, LASTING, SHORT_ONCE, SHORT };

struct {
  char prefix[512];
  std::size_t length = 0;
  unsigned classes = 0;
  long at = 0, calls = 0, failed = 0;
  long by_kind[2 * 256] = {};  // calls of each kind, a kind being a set of classes
  int error = 0;
  Mode mode = COUNT;
  const char *name = "";
  bool armed = false;
} state;

constexpr int MOST = 1 << 16;
bool ours[MOST];  // descriptors of files below the prefix

bool is_ours(const char *path) { return state.length && path && std::strncmp(path, state.prefix, state.length) == 0; }
bool is_ours(int fd) { return fd >= 0 && fd < MOST && ours[fd]; }
bool is_ours(int folder, const char *path) { return is_ours(path) || (path && path[0] != '/' && is_ours(folder)); }
void mark(int fd, bool is) {
  if (fd >= 0 && fd < MOST) ours[fd] = is;
}

bool is_due(Class kind, const char *name, bool shortens) {
  if (!state.armed || !(state.classes & kind)) return false;
  ++state.by_kind[kind];
  const long number = state.calls++;
  const bool is_short = state.mode == SHORT || state.mode == SHORT_ONCE;
  if (state.mode == COUNT || shortens != is_short) return false;
  const bool lasts = state.mode == LASTING || state.mode == SHORT;
  if (lasts ? number < state.at : number != state.at) return false;
  if (!state.failed++) state.name = name;
  return true;
}

// Whether this call is to fail; errno is set then.
bool fails(Class kind, const char *name) {
  if (!is_due(kind, name, false)) return false;
  errno = state.error;
  return true;
}

bool is_short() { return state.mode == SHORT || state.mode == SHORT_ONCE; }
std::size_t half(std::size_t size) { return size - size / 2; }

template <typename Function> Function *next(Function *, const char *name) {
  return reinterpret_cast<Function *>(dlsym(RTLD_NEXT, name));
}

}  // namespace

extern "C" {

void fail_arm(const char *prefix, unsigned classes, long at, int error, int mode) {
  std::snprintf(state.prefix, sizeof state.prefix, "%s", prefix);
  state.length = std::strlen(state.prefix);
  state.classes = classes, state.at = at, state.error = error, state.mode = static_cast<Mode>(mode);
  state.calls = state.failed = 0, state.name = "", state.armed = true;
  std::memset(state.by_kind, 0, sizeof state.by_kind);
}
void fail_disarm() { state.armed = false; }
long fail_calls(unsigned classes) {
  long found = 0;
  for (unsigned kind = 0; kind < 2 * 256; ++kind)
    if (kind & classes) found += state.by_kind[kind];
  return found;
}
const char *fail_name() { return state.name; }

// Opening a file to write or create it is WRITE too: a full disk and a read-only one refuse it.
#define OPENING(NAME, FOLDER, PARAMETERS, ARGUMENTS)                                                                   \
  int NAME PARAMETERS {                                                                                                \
    static auto *real = next(&NAME, #NAME);                                                                            \
    mode_t mode = 0;                                                                                                   \
    if (flags & (O_CREAT | O_TMPFILE)) {                                                                               \
      va_list list;                                                                                                    \
      va_start(list, flags), mode = va_arg(list, mode_t), va_end(list);                                                \
    }                                                                                                                  \
    const bool is = is_ours(FOLDER, path);                                                                             \
    const bool writes = (flags & O_ACCMODE) != O_RDONLY || (flags & O_CREAT);                                          \
    const Class kind = static_cast<Class>(OPEN | (writes ? WRITE : 0));                                                \
    if (is && fails(kind, "open")) return -1;                                                                          \
    const int fd = real ARGUMENTS;                                                                                     \
    mark(fd, is);                                                                                                      \
    return fd;                                                                                                         \
  }
OPENING(open, AT_FDCWD, (const char *path, int flags, ...), (path, flags, mode))
OPENING(open64, AT_FDCWD, (const char *path, int flags, ...), (path, flags, mode))
OPENING(openat, folder, (int folder, const char *path, int flags, ...), (folder, path, flags, mode))
OPENING(openat64, folder, (int folder, const char *path, int flags, ...), (folder, path, flags, mode))

int close(int fd) {
  static auto *real = next(&close, "close");
  const bool fail = is_ours(fd) && fails(CLOSE, "close");
  const int error = errno;
  mark(fd, false);
  const int done = real(fd);
  if (fail) errno = error;
  return fail ? -1 : done;
}

#define CALL(KIND, TYPE, NAME, SUBJECT, PARAMETERS, ARGUMENTS)                                                         \
  TYPE NAME PARAMETERS {                                                                                               \
    static auto *real = next(&NAME, #NAME);                                                                            \
    if (is_ours SUBJECT && fails(KIND, #NAME)) return (TYPE) - 1;                                                      \
    return real ARGUMENTS;                                                                                             \
  }
// Those that may do less than they were asked for.
#define SIZED(KIND, NAME, PARAMETERS, ARGUMENTS)                                                                       \
  ssize_t NAME PARAMETERS {                                                                                            \
    static auto *real = next(&NAME, #NAME);                                                                            \
    if (is_ours(fd)) {                                                                                                 \
      if (!is_short() && fails(KIND, #NAME)) return -1;                                                                \
      if (is_short() && is_due(KIND, #NAME, true)) size = half(size);                                                  \
    }                                                                                                                  \
    return real ARGUMENTS;                                                                                             \
  }
SIZED(READ, read, (int fd, void *data, std::size_t size), (fd, data, size))
SIZED(READ, pread, (int fd, void *data, std::size_t size, off_t at), (fd, data, size, at))
SIZED(READ, pread64, (int fd, void *data, std::size_t size, off64_t at), (fd, data, size, at))
SIZED(WRITE, write, (int fd, const void *data, std::size_t size), (fd, data, size))
SIZED(WRITE, pwrite, (int fd, const void *data, std::size_t size, off_t at), (fd, data, size, at))
SIZED(WRITE, pwrite64, (int fd, const void *data, std::size_t size, off64_t at), (fd, data, size, at))
CALL(READ, ssize_t, preadv, (fd), (int fd, const iovec *parts, int count, off_t at), (fd, parts, count, at))
CALL(READ, ssize_t, preadv64, (fd), (int fd, const iovec *parts, int count, off64_t at), (fd, parts, count, at))
CALL(WRITE, ssize_t, writev, (fd), (int fd, const iovec *parts, int count), (fd, parts, count))
CALL(WRITE, ssize_t, copy_file_range, (to), (int fd, off64_t *a, int to, off64_t *b, std::size_t size, unsigned flags),
     (fd, a, to, b, size, flags))
CALL(WRITE, ssize_t, sendfile64, (to), (int to, int fd, off64_t *at, std::size_t size), (to, fd, at, size))
CALL(WRITE, ssize_t, sendfile, (to), (int to, int fd, off_t *at, std::size_t size), (to, fd, at, size))
CALL(WRITE, int, ftruncate, (fd), (int fd, off_t size), (fd, size))
CALL(WRITE, int, ftruncate64, (fd), (int fd, off64_t size), (fd, size))
CALL(WRITE, int, fallocate, (fd), (int fd, int mode, off_t at, off_t size), (fd, mode, at, size))
CALL(WRITE, int, fallocate64, (fd), (int fd, int mode, off64_t at, off64_t size), (fd, mode, at, size))
CALL(SYNC, int, fsync, (fd), (int fd), (fd))
CALL(SYNC, int, fdatasync, (fd), (int fd), (fd))
CALL(STAT, int, fstat, (fd), (int fd, struct stat *found), (fd, found))
CALL(STAT, int, fstat64, (fd), (int fd, struct stat64 *found), (fd, found))
CALL(STAT, int, stat, (path), (const char *path, struct stat *found), (path, found))
CALL(STAT, int, stat64, (path), (const char *path, struct stat64 *found), (path, found))
CALL(STAT, int, lstat, (path), (const char *path, struct stat *found), (path, found))
CALL(STAT, int, lstat64, (path), (const char *path, struct stat64 *found), (path, found))
CALL(STAT, int, fstatat, (folder, path), (int folder, const char *path, struct stat *found, int flags),
     (folder, path, found, flags))
CALL(STAT, int, fstatat64, (folder, path), (int folder, const char *path, struct stat64 *found, int flags),
     (folder, path, found, flags))
CALL(NAME, int, link, (path), (const char *path, const char *to), (path, to))
CALL(NAME, int, linkat, (folder, path), (int folder, const char *path, int other, const char *to, int flags),
     (folder, path, other, to, flags))
CALL(NAME, int, symlink, (path), (const char *to, const char *path), (to, path))
CALL(NAME, int, rename, (path), (const char *path, const char *to), (path, to))
CALL(NAME, int, renameat, (folder, path), (int folder, const char *path, int other, const char *to),
     (folder, path, other, to))
CALL(NAME, int, unlink, (path), (const char *path), (path))
CALL(NAME, int, unlinkat, (folder, path), (int folder, const char *path, int flags), (folder, path, flags))
CALL(NAME, int, mkdir, (path), (const char *path, mode_t mode), (path, mode))
CALL(NAME, int, mkdirat, (folder, path), (int folder, const char *path, mode_t mode), (folder, path, mode))
CALL(NAME, int, rmdir, (path), (const char *path), (path))
CALL(LOCK, int, flock, (fd), (int fd, int operation), (fd, operation))
CALL(MAP, void *, mmap, (fd), (void *at, std::size_t size, int access, int flags, int fd, off_t offset),
     (at, size, access, flags, fd, offset))
CALL(MAP, void *, mmap64, (fd), (void *at, std::size_t size, int access, int flags, int fd, off64_t offset),
     (at, size, access, flags, fd, offset))

// These report an error as their result.
#define RETURNS(NAME, TYPE)                                                                                            \
  int NAME(int fd, TYPE at, TYPE size) {                                                                               \
    static auto *real = next(&NAME, #NAME);                                                                            \
    return is_ours(fd) && fails(WRITE, #NAME) ? errno : real(fd, at, size);                                            \
  }
RETURNS(posix_fallocate, off_t)
RETURNS(posix_fallocate64, off64_t)

DIR *opendir(const char *path) {
  static auto *real = next(&opendir, "opendir");
  return is_ours(path) && fails(OPEN, "opendir") ? nullptr : real(path);
}
DIR *fdopendir(int fd) {
  static auto *real = next(&fdopendir, "fdopendir");
  return is_ours(fd) && fails(OPEN, "fdopendir") ? nullptr : real(fd);
}

}  // extern "C"
