// StoredFile: what is stored is read from the file, and survives a process that is killed.
#undef NDEBUG
#include "stored_file.hpp"

#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cassert>
#include <csignal>
#include <cstdio>
#include <cstdlib>

int main() {
  constexpr std::size_t size = 3 * 4096 + 100;
  char name[] = "/tmp/rl-stored-XXXXXX";
  const int fd = ::mkstemp(name);
  assert(fd >= 0 && ::ftruncate(fd, size) == 0);
  ::unlink(name);
  const bool reserves = rl::reserves_stores(fd, size);
  struct stat found;
  assert(::fstat(fd, &found) == 0 && found.st_size == size);
  if (reserves) assert(static_cast<std::size_t>(found.st_blocks) * 512 >= size);
  {
    rl::StoredFile file(fd, size);
    assert(file.address()[size - 1] == 0);
    file.address()[size - 1] = 7;
    std::uint8_t byte = 0;
    assert(::pread(fd, &byte, 1, size - 1) == 1 && byte == 7);
    assert(::pwrite(fd, "x", 1, 5) == 1 && file.address()[5] == 'x');
  }
  const pid_t child = ::fork();
  if (child == 0) {
    rl::StoredFile file(fd, size);
    file.address()[9] = 9;
    ::kill(::getpid(), SIGKILL);
  }
  int status = 0;
  assert(::waitpid(child, &status, 0) == child && WIFSIGNALED(status));
  std::uint8_t byte = 0;
  assert(::pread(fd, &byte, 1, 9) == 1 && byte == 9);
  ::close(fd);
  const int pipe = ::open("/dev/null", O_RDWR);
  assert(!rl::reserves_stores(pipe, size) && !rl::reserves_stores(-1, size));
  ::close(pipe);
  std::puts("ok");
}
