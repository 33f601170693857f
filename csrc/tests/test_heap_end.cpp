// Values of a heap in any portions: the file holds them one after the other, the hashes are those of its bytes.
#undef NDEBUG
#include "heap_end.hpp"

#include <cassert>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace {

void values(const std::vector<std::size_t> &sizes, std::size_t at_once) {
  std::vector<std::vector<std::uint8_t>> values;
  std::vector<std::uint8_t> all;
  for (const std::size_t size : sizes) {
    values.emplace_back(size);
    for (std::size_t i = 0; i < size; ++i)
      values.back()[i] = static_cast<std::uint8_t>(i * 31 + i * i * 7 + size);
    all.insert(all.end(), values.back().begin(), values.back().end());
  }
  std::FILE *file = std::tmpfile();
  assert(file != nullptr);
  rl::HeapEnd end;
  rl::GrowingSums sums;
  sums.update(all.data(), all.size());
  for (std::size_t at = 0; at < values.size();) {
    std::vector<rl::Span> spans;
    rl::Xxh3 since;
    for (; at < values.size() && spans.size() < at_once; ++at) {
      spans.push_back({values[at].data(), values[at].data() + values[at].size()});
      since.update(values[at].data(), values[at].size());
    }
    assert(end.write(fileno(file), spans.data(), spans.size()) == 0);
    assert(end.digest() == since.digest());
    end.reset();
  }
  assert(end.size() == all.size());
  assert(end.sums().blocks(all.size()) == sums.blocks(all.size()));
  if (all.size() > rl::Xxh3::SHORT) assert(end.sums().all().digest128() == sums.all().digest128());
  std::vector<std::uint8_t> found(all.size() + 1);
  assert(::pread(fileno(file), found.data(), found.size(), 0) == static_cast<ssize_t>(all.size()));
  found.pop_back();
  assert(found == all);
  std::fclose(file);
}

}  // namespace

int main() {
  std::vector<std::size_t> many(300, 1000);
  many[7] = 0;
  many[150] = (1 << 20) + 3;
  for (const std::size_t at_once : {1, 2, 64, 65, 1000}) {
    values({}, at_once);
    values({0}, at_once);
    values({1, 0, 2}, at_once);
    values({1 << 18, 1, (1 << 18) + 1, 0, 3 << 18}, at_once);
    values(many, at_once);
  }
  const std::uint8_t byte = 0;
  const rl::Span one{&byte, &byte + 1};
  assert(rl::HeapEnd().write(-1, &one, 1) == EBADF);
}
