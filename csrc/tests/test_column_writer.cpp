// XXH3 against published values and itself in pieces, CRC-32, and files written by ColumnWriter.
#undef NDEBUG
#include "column_writer.hpp"
#include "journal_tail.hpp"
#include "reward_sum.hpp"

#include <array>
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
  std::uint8_t bytes[67];
  std::uint32_t crc = ~0u;
  for (std::size_t size = 0; size < sizeof bytes; ++size) {  // bit by bit
    assert(rl::crc32(bytes, size) == static_cast<std::uint32_t>(~crc));
    crc ^= bytes[size] = static_cast<std::uint8_t>(size * 37 + 11);
    for (int bit = 0; bit < 8; ++bit)
      crc = crc & 1 ? 0xEDB88320u ^ crc >> 1 : crc >> 1;
  }
}

// Any way to cut the bytes gives the hash of the whole.
void pieces() {
  std::vector<std::uint8_t> data(3000);
  for (std::size_t i = 0; i < data.size(); ++i)
    data[i] = static_cast<std::uint8_t>(i * 131 + i * i * 7);
  for (std::size_t size = 0; size < data.size(); size += 1 + size / 40) {
    const std::uint64_t whole = of(data.data(), size);
    for (std::size_t step : {std::size_t{1}, std::size_t{63}, std::size_t{64}, std::size_t{255}, std::size_t{256},
                             std::size_t{257}, std::size_t{1024}}) {
      rl::Xxh3 hash;
      for (std::size_t at = 0; at < size; at += step)
        hash.update(data.data() + at, std::min(step, size - at));
      assert(hash.digest() == whole);
      assert(hash.digest() == whole);
    }
  }
}

// Every processor's loop does what the portable one does, which does to a twin what it does alone.
void lanes() {
  std::vector<std::uint8_t> data(64 * 50);
  for (std::size_t i = 0; i < data.size(); ++i)
    data[i] = static_cast<std::uint8_t>(i * 29 + i * i * 5);
  std::vector<rl::xxh3::Consume> loops{rl::xxh3::fastest_consume(), rl::xxh3::consume_portably};
#if defined(__x86_64__) && defined(__GNUC__)
  if (__builtin_cpu_supports("avx2")) loops.push_back(rl::xxh3::consume_avx2);
#endif
  using Lanes = std::array<std::uint64_t, 8>;
  for (const auto loop : loops)
    for (std::size_t before = 0; before < rl::xxh3::STRIPES_PER_BLOCK; ++before)
      for (std::size_t count = 0; count <= 50; ++count) {
        const auto run = [&](rl::xxh3::Consume each, Lanes &acc, Lanes *twin) {
          return each(acc.data(), twin ? twin->data() : nullptr, before, data.data(), count, rl::xxh3::SECRET);
        };
        const Lanes first{1, 2, 3, 4, 5, 6, 7, 8}, second{9, 8, 7, 6, 5, 4, 3, 2};
        Lanes expected = first, twin = second, found = first, other = second, alone = first;
        const auto stripes = run(rl::xxh3::consume_portably, expected, nullptr);
        assert(run(rl::xxh3::consume_portably, twin, nullptr) == stripes);
        assert(run(loop, found, &other) == stripes && found == expected && other == twin);
        assert(run(loop, alone, nullptr) == stripes && alone == expected);
      }
}

// The sums of a file that grew in odd steps are those of its bytes with zeros behind.
void growing() {
  constexpr std::size_t BLOCK = rl::GrowingSums::BLOCK;
  std::vector<std::uint8_t> file(3 * BLOCK + 777);
  const std::size_t used = 2 * BLOCK + 12345;
  for (std::size_t i = 0; i < used; ++i)
    file[i] = static_cast<std::uint8_t>(i * 131 + (i >> 9));
  for (const std::size_t step : {std::size_t{4099}, std::size_t{1 << 19}, used}) {
    rl::GrowingSums sums;
    for (std::size_t at = 0; at < used; at += step) {
      const std::size_t so_far = std::min(used, at + step);
      sums.update(file.data() + at, so_far - at);
      const auto blocks = sums.blocks(file.size());
      assert(blocks.size() == (so_far + BLOCK - 1) / BLOCK);
      std::vector<std::uint8_t> last(BLOCK);
      const std::size_t start = (blocks.size() - 1) * BLOCK;
      std::copy(file.data() + start, file.data() + so_far, last.data());
      assert(blocks.back() == of(last.data(), BLOCK));
      assert(blocks.size() == 1 || blocks[0] == of(file.data(), BLOCK));
    }
    assert(sums.blocks(used).back() == of(file.data() + 2 * BLOCK, used - 2 * BLOCK));  // a file without a rest
    assert(sums.all().total() == used && sums.all().digest() == of(file.data(), used));
    assert(sums.all().digest128()[0] == sums.all().digest());  // so it is of more than 240 bytes
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
  rl::ColumnWriter writer(fds, {4, 3}, 1, 1);
  const std::vector<std::uint8_t> first{1, 2, 3, 4, 5, 6, 7, 8}, second{9, 8, 7, 6, 5, 4};
  const std::uint8_t *data[] = {first.data(), second.data()};
  assert(writer.write(data, 2) == 0 && writer.rows() == 3);
  std::vector<std::uint8_t> found(8);
  assert(::pread(fds[0], found.data(), 8, 4) == 8 && found == first);
  assert(::pread(fds[1], found.data(), 8, 3) == 6);
  const std::uint64_t whole = writer.digest();
  const std::uint8_t *halves[] = {first.data() + 4, second.data() + 3};
  writer.hash(data, 1);
  writer.hash(halves, 1);
  assert(writer.digest() == whole);  // in two calls, and after a digest anew
  assert(writer.digest() != whole);
  const std::uint8_t other[] = {1, 2, 3, 4, 5, 6, 7, 8};
  const std::uint64_t idle = writer.digest();
  assert(writer.digest(other) != idle && writer.digest() == idle);  // the others of one commit are not the next one's
  ::close(fds[1]);
  assert(writer.write(data, 1) == EBADF);
  ::close(fds[0]);
}

// Rewards in any portions, and episodes that end inside the last one.
void rewards() {
  rl::RewardSum sum(0.5);
  const std::vector<float> first(5000, 0.1f), second{1e16f, 1, -1e16f, 3};
  double expected = 0.5;
  for (const float value : first)
    expected += static_cast<double>(value);
  sum.add(first.data(), first.size());
  assert(sum.held() == first.size());
  sum.add(second.data(), second.size());
  for (int i = 0; i < 2; ++i)
    expected += static_cast<double>(second[static_cast<std::size_t>(i)]);
  assert(sum.held() >= second.size() && sum.take(2) == expected);
  assert(sum.take(2) == 0 && sum.held() == 2);
  sum.add(first.data(), 1);
  assert(sum.take(0) == (-1e16f + 3.0) + static_cast<double>(0.1f) && sum.take(0) == 0);
}

}  // namespace

int main() {
  known_values();
  pieces();
  lanes();
  growing();
  columns();
  rewards();
  std::puts("ok");
}
