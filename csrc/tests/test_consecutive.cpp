// Rows in any number and of any size: those that differ are told, and each gets its step and its episode.
#undef NDEBUG
#include "consecutive.hpp"

#include <cassert>

namespace {

void differing(std::size_t rows, std::size_t row_bytes, std::size_t every) {
  std::vector<std::uint8_t> a(rows * row_bytes, 7), b = a;
  std::vector<std::int64_t> expected;
  for (std::size_t row = every - 1; row < rows && row_bytes; row += every) {
    b[row * row_bytes + row % row_bytes] ^= 1;
    expected.push_back(static_cast<std::int64_t>(row));
  }
  assert(rl::differing_rows(a.data(), b.data(), rows, row_bytes) == expected);
}

void numbers(const std::vector<rl::EpisodePart> &parts, std::size_t rows) {
  std::vector<std::int64_t> step(rows, -1), episode(rows, -1);
  std::vector<std::uint8_t> is_first(rows, 2);
  rl::number_rows(parts.data(), parts.size(), rows, step.data(), episode.data(), is_first.data());
  for (std::size_t row = 0, part = 0; row < rows; ++row) {
    while (part + 1 < parts.size() && parts[part + 1].first <= static_cast<std::int64_t>(row))
      ++part;
    assert(step[row] == parts[part].step + static_cast<std::int64_t>(row) - parts[part].first);
    assert(episode[row] == parts[part].number && is_first[row] == (step[row] == 0));
  }
}

}  // namespace

int main() {
  for (const std::size_t rows : {0, 1, 2, 63, 4096, 5000})
    for (const std::size_t row_bytes : {0, 1, 3, 68, 5000})
      for (const std::size_t every : {1, 2, 1000, 9999})
        differing(rows, row_bytes, every);
  numbers({}, 0);
  numbers({{0, 0, 4}}, 1);
  numbers({{0, 9, 4}, {3, 0, 5}, {3, 0, 6}, {4, 0, 7}}, 12);
  numbers({{0, 0, 1}, {5, 0, 2}}, 5);
}
