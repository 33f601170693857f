// Rows that lie one after the other: which differ, and which step of which episode each is.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace rl {

// The rows, of `row_bytes` each, in which two tables of `rows` rows hold other bytes, ascending.
inline std::vector<std::int64_t> differing_rows(const std::uint8_t *a, const std::uint8_t *b, std::size_t rows,
                                                std::size_t row_bytes) {
  constexpr std::size_t NEAR = 4096;  // bytes that are compared at once
  const std::size_t step = std::max<std::size_t>(1, NEAR / std::max<std::size_t>(1, row_bytes));
  std::vector<std::int64_t> found;
  for (std::size_t row = 0; row < rows && row_bytes; row += step) {
    const std::size_t end = std::min(rows, row + step);
    if (std::memcmp(a + row * row_bytes, b + row * row_bytes, (end - row) * row_bytes) == 0) continue;
    for (std::size_t one = row; one < end; ++one)
      if (std::memcmp(a + one * row_bytes, b + one * row_bytes, row_bytes) != 0)
        found.push_back(static_cast<std::int64_t>(one));
  }
  return found;
}

// Rows of one episode from row `first` on, of which that is step `step`.
struct EpisodePart {
  std::int64_t first, step, number;
};

// Writes the step and the episode of `rows` rows, and whether each is its episode's first. Precondition: parts begin at
// row 0 and rise, none behind `rows`.
inline void number_rows(const EpisodePart *parts, std::size_t count, std::size_t rows, std::int64_t *step,
                        std::int64_t *episode, std::uint8_t *is_first) {
  std::fill(is_first, is_first + rows, std::uint8_t{0});
  for (std::size_t i = 0; i < count; ++i) {
    const EpisodePart part = parts[i];
    const std::int64_t end = i + 1 < count ? parts[i + 1].first : static_cast<std::int64_t>(rows);
    for (std::int64_t row = part.first; row < end; ++row)
      step[row] = part.step + row - part.first;
    std::fill(episode + part.first, episode + end, part.number);
    if (part.first < end && part.step == 0) is_first[part.first] = 1;
  }
}

}  // namespace rl
