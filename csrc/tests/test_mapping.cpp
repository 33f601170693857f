// AddressRange: files side by side, nothing outside the range, pages that appear when a file grows.
#undef NDEBUG
#include "mapping.hpp"

#include <cassert>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

namespace {

int file_of(const std::vector<std::uint8_t> &bytes) {
  char name[] = "/tmp/rl-mapping-XXXXXX";
  const int fd = ::mkstemp(name);
  assert(fd >= 0);
  ::unlink(name);
  assert(::write(fd, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
  return fd;
}

template <typename Call> bool throws(Call call) {
  try {
    call();
  } catch (const std::system_error &) {
    return true;
  }
  return false;
}

}  // namespace

int main() {
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const int first = file_of(std::vector<std::uint8_t>(2 * page, 1)),
            second = file_of(std::vector<std::uint8_t>(page, 2));
  {
    rl::AddressRange range(4 * page);
    assert(range.map_file(first, 0, 2 * page) == range.address());
    assert(range.map_file(second, 2 * page, page) == range.address() + 2 * page);
    range.expect(true, 0, 2 * page);
    range.expect(true, 3 * page, 2 * page);  // beyond the range: nothing
    assert(range.address()[2 * page - 1] == 1 && range.address()[2 * page] == 2);
    assert(throws([&] { range.map_file(first, 3 * page, 2 * page); }));
    assert(throws([&] { range.map_file(first, 5 * page, page); }));
    assert(throws([&] { range.map_file(first, 0, 0); }));
    assert(throws([&] { range.map_file(first, 1, page); }));
    assert(throws([&] { range.map_file(-1, 0, page); }));
  }
  assert(throws([&] { rl::AddressRange nothing(0); }));
  {
    rl::AddressRange range(4 * page);
    const int growing = file_of(std::vector<std::uint8_t>(10, 3));
    const std::uint8_t *bytes = range.map_file(growing, 0, 4 * page);
    assert(bytes[9] == 3);
    const std::vector<std::uint8_t> more(3 * page, 4);
    assert(::pwrite(growing, more.data(), more.size(), 10) == static_cast<ssize_t>(more.size()));
    assert(bytes[10] == 4 && bytes[3 * page] == 4);
    ::close(growing);
  }
  const int code = rl::punch_hole(first, 0, static_cast<std::int64_t>(page));
  std::uint8_t byte = 9;
  assert(::pread(first, &byte, 1, 0) == 1);
  assert(code != 0 || byte == 0);
  assert(::lseek(first, 0, SEEK_END) == static_cast<off_t>(2 * page));
  ::close(first);
  ::close(second);
  std::puts("ok");
}
