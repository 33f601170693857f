// XXH3 against published values and itself in pieces, CRC-32, and files written by ColumnWriter.
#undef NDEBUG
#include "column_writer.hpp"

#include <cassert>
#include <cstdio>
#include <cstdlib>

namespace {

std::uint64_t of(const std::uint8_t *data, std::size_t size) {
  rl::Xxh3 hash;
  hash.update(data, size);
  return hash.digest();
}

void known_values() {
  assert(of(nullptr, 0) == 0x2D06800538D394C2);  // of nothing, from the XXH3 sanity tests
  const auto *text = reinterpret_cast<const std::uint8_t *>("123456789");
  assert(rl::crc32(text, 9) == 0xCBF43926);  // the CRC's check value
}

// Any way to cut the bytes gives the hash of the whole.
void pieces() {
  std::vector<std::uint8_t> data(3000);
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<std::uint8_t>(i * 131 + i * i * 7);
  for (std::size_t size = 0; size < data.size(); size += 1 + size / 40) {
    const std::uint64_t whole = of(data.data(), size);
    for (std::size_t step : {std::size_t{1}, std::size_t{63}, std::size_t{64}, std::size_t{255}, std::size_t{256}, std::size_t{257}, std::size_t{1024}}) {
      rl::Xxh3 hash;
      for (std::size_t at = 0; at < size; at += step) hash.update(data.data() + at, std::min(step, size - at));
      assert(hash.digest() == whole);
      assert(hash.digest() == whole);
    }
  }
}

int empty_file() {
  char name[] = "/tmp/rl-columns-XXXXXX";
  const int fd = ::mkstemp(name);
  assert(fd >= 0);
  ::unlink(name);
  return fd;
}

void columns() {
  const std::vector<int> fds{empty_file(), empty_file()};
  rl::ColumnWriter writer(fds, {4, 3});
  const std::vector<std::uint8_t> first{1, 2, 3, 4, 5, 6, 7, 8}, second{9, 8, 7, 6, 5, 4};
  const std::uint8_t *data[] = {first.data(), second.data()};
  assert(writer.write(data, 2, 1) == 0);
  std::vector<std::uint8_t> found(8);
  assert(::pread(fds[0], found.data(), 8, 4) == 8 && found == first);
  assert(::pread(fds[1], found.data(), 8, 3) == 6);
  const std::uint64_t whole = writer.digest(nullptr, 0);
  const std::uint8_t *halves[] = {first.data() + 4, second.data() + 3};
  writer.hash(data, 1);
  writer.hash(halves, 1);
  assert(writer.digest(nullptr, 0) == whole);  // in two calls, and after a digest anew
  assert(writer.digest(nullptr, 0) != whole);
  ::close(fds[1]);
  assert(writer.write(data, 1, 0) == EBADF);
  ::close(fds[0]);
}

}  // namespace

int main() {
  known_values();
  pieces();
  columns();
  std::puts("ok");
}
