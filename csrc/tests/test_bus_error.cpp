// explain_bus_errors: which file failed and why is said, and the process ends with the code that belongs to it.
#undef NDEBUG
#include "bus_error.hpp"

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cassert>
#include <cstdio>
#include <cstdlib>
#include <string>

namespace {

std::string path;

// What a child that runs `fail` says on standard error, and how it ends.
template <typename Fail> std::string said(Fail fail, int &status) {
  int ends[2];
  assert(::pipe(ends) == 0);
  const pid_t child = ::fork();
  assert(child >= 0);
  if (child == 0) {
    ::dup2(ends[1], STDERR_FILENO);
    rl::explain_bus_errors({{"cut: ", " (", ")\n"}, 4}, {{"failed: ", "\n"}, 7});
    fail();
    ::_exit(0);
  }
  ::close(ends[1]);
  std::string text;
  char letter;
  while (::read(ends[0], &letter, 1) == 1)
    text += letter;
  ::close(ends[0]);
  assert(::waitpid(child, &status, 0) == child);
  return text;
}

// Maps the file's three pages, leaves it `left` bytes and reads a byte of each page.
void read_what_was_cut(off_t left) {
  constexpr std::size_t page = 4096;
  const int fd = ::open(path.c_str(), O_RDWR);
  const auto *mapped = static_cast<volatile char *>(::mmap(nullptr, 3 * page, PROT_READ, MAP_SHARED, fd, 0));
  assert(mapped != MAP_FAILED && ::ftruncate(fd, left) == 0);
  for (std::size_t at = 0; at < 3 * page; at += page)
    (void)mapped[at];
}

}  // namespace

int main() {
  char name[] = "/tmp/rl bus-XXXXXX";
  const int fd = ::mkstemp(name);
  path = name;
  int status = 0;

  assert(fd >= 0 && ::ftruncate(fd, 3 * 4096) == 0);
  assert(said([] { read_what_was_cut(3 * 4096); }, status).empty() && WIFEXITED(status) && WEXITSTATUS(status) == 0);
  assert(said([] { read_what_was_cut(100); }, status) == "cut: " + path + " (" + path + ")\n");
  assert(WIFEXITED(status) && WEXITSTATUS(status) == 4);

  // A signal that another process sends is about no file: it ends the process as it always did.
  assert(said([] { ::raise(SIGBUS), ::raise(SIGBUS); }, status).empty());
  assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);

  ::unlink(name);
  std::puts("ok");
}
