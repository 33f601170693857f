// What a process says when a mapped file fails under it: another cut it short, the disk is full or the device fails.
//
// The system reports that as SIGBUS, which ends a process without a word. Only calls that are safe in a signal handler
// are made there.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

namespace rl {

// A line, the file's path between its pieces, and the exit code of the process that says it.
struct LastWords {
  std::vector<std::string> pieces;
  int code;
};

namespace bus_error {

struct Words {
  LastWords cut, failed;
};

inline Words *words = nullptr;  // never freed: a handler may need it until the process ends

inline void say(const char *text, std::size_t size) noexcept {
  while (size > 0) {
    const ssize_t written = ::write(STDERR_FILENO, text, size);
    if (written <= 0) return;
    text += written, size -= static_cast<std::size_t>(written);
  }
}

// A number of this base, which `text` is moved behind.
inline std::uint64_t number(const char *&text, unsigned base) noexcept {
  std::uint64_t value = 0;
  for (;; ++text) {
    const unsigned char letter = static_cast<unsigned char>(*text);
    const unsigned digit = letter >= 'a' ? letter - 'a' + 10u : letter - '0' + 0u;
    if (letter < '0' || digit >= base) return value;
    value = value * base + digit;
  }
}

// A mapped file and how far into it an address is.
struct Place {
  char path[4096] = {};
  std::uint64_t offset = 0;
};

// From a line of /proc/self/maps: "begin-end perms offset device inode   path". False for other addresses.
inline bool is_there(const char *line, std::uint64_t address, Place &place) noexcept {
  const std::uint64_t begin = number(line, 16);
  if (*line++ != '-') return false;
  const std::uint64_t end = number(line, 16);
  if (address < begin || address >= end) return false;
  for (int fields = 0; fields < 2; ++fields) {
    if ((line = std::strchr(line, ' ')) == nullptr) return false;
    ++line;
  }
  place.offset = number(line, 16) + (address - begin);
  const char *path = std::strchr(line, '/');
  if (path == nullptr) return false;
  std::strncpy(place.path, path, sizeof place.path - 1);
  return true;
}

inline bool find(std::uint64_t address, Place &place) noexcept {
  const int fd = ::open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  static char line[sizeof place.path + 128];
  std::size_t length = 0;
  char letter;
  bool found = false;
  while (!found && ::read(fd, &letter, 1) == 1) {  // slowly, once in a life
    if (letter != '\n') {
      if (length + 1 < sizeof line) line[length++] = letter;
      continue;
    }
    line[length] = '\0', length = 0;
    found = is_there(line, address, place);
  }
  ::close(fd);
  return found;
}

inline void handle(int number, siginfo_t *info, void *) noexcept {
  static Place place;
  const bool found = info->si_code == BUS_ADRERR && find(reinterpret_cast<std::uintptr_t>(info->si_addr), place);
  if (!found) {  // no file of ours: the system's way, as the instruction is run again
    ::signal(number, SIG_DFL);
    return;
  }
  struct stat status;
  const bool is_cut = ::stat(place.path, &status) == 0 && static_cast<std::uint64_t>(status.st_size) <= place.offset;
  const LastWords &said = is_cut ? words->cut : words->failed;
  for (std::size_t k = 0; k < said.pieces.size(); ++k) {
    if (k > 0) say(place.path, std::strlen(place.path));
    say(said.pieces[k].data(), said.pieces[k].size());
  }
  ::_exit(said.code);
}

}  // namespace bus_error

// From now on a failing mapped file ends the process with these words: `cut` where the file has become shorter,
// `failed` where it is as long as it was. Throws `std::system_error`.
inline void explain_bus_errors(LastWords cut, LastWords failed) {
  bus_error::words = new bus_error::Words{std::move(cut), std::move(failed)};
  struct sigaction action = {};
  action.sa_sigaction = bus_error::handle;
  action.sa_flags = SA_SIGINFO;
  if (::sigaction(SIGBUS, &action, nullptr) != 0) throw std::system_error(errno, std::generic_category());
}

}  // namespace rl
