// The segments of a stream of rows, and where its episodes end.
#pragma once

#include "scattered.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

namespace rl {

// A set of rows, with a bit for each in chunks that hold any.
class RowSet {
public:
  bool contains(std::int64_t row) const noexcept {
    const auto at = static_cast<std::uint64_t>(row);
    const std::uint64_t chunk = at / kRows - static_cast<std::uint64_t>(first_);
    if (chunk >= chunks_.size()) return false;
    const Chunk *bits = chunks_[chunk].get();
    return bits != nullptr && (*bits)[at % kRows / 64] >> (at % 64) & 1;
  }

  void set(std::int64_t row) {
    const std::int64_t chunk = row / kRows - first_;
    if (chunk < 0) return;  // it has left
    if (chunk >= static_cast<std::int64_t>(chunks_.size())) chunks_.resize(static_cast<std::size_t>(chunk) + 1);
    auto &bits = chunks_[static_cast<std::size_t>(chunk)];
    if (bits == nullptr) bits = std::make_unique<Chunk>();
    (*bits)[static_cast<std::size_t>(row % kRows / 64)] |= std::uint64_t{1} << (row % 64);
  }

  // Forgets rows before `row`, as far as whole chunks go.
  void drop_before(std::int64_t row) {
    const auto gone = std::min(row / kRows - first_, static_cast<std::int64_t>(chunks_.size()));
    if (gone <= 0) return;
    chunks_.erase(chunks_.begin(), chunks_.begin() + gone);
    first_ += gone;
  }

private:
  static constexpr std::int64_t kRows = 1 << 16;
  using Chunk = std::array<std::uint64_t, kRows / 64>;

  std::int64_t first_ = 0;  // number of the first chunk
  std::vector<std::unique_ptr<Chunk>> chunks_;
};

struct Segment {
  std::int64_t first;
  std::int64_t rows;
  std::int64_t room;                 // rows that its memory holds
  std::vector<Address> bases;        // per column
  bool touched = false;              // its files are mapped, its episodes known
  std::vector<std::int64_t> ends;    // last rows of episodes, ascending
  std::vector<std::int64_t> finals;  // per end: which final it has, or -1
  std::vector<Address> final_bases;  // per derived column
  std::int64_t num_finals = 0;

  Segment(std::int64_t first_row, std::int64_t num_rows, std::int64_t most, std::vector<Address> addresses)
      : first(first_row), rows(num_rows), room(most), bases(std::move(addresses)) {}

  void add_end(std::int64_t row, bool has_final) {
    ends.push_back(row);
    finals.push_back(has_final ? num_finals++ : -1);
  }

  std::size_t end_at(std::int64_t row) const {
    return static_cast<std::size_t>(std::lower_bound(ends.begin(), ends.end(), row) - ends.begin());
  }

  // The final value of end number `end`, null where it is unknown.
  Address final_at(std::size_t end, std::size_t derived, std::size_t row_bytes) const {
    return finals[end] < 0 ? nullptr : final_bases[derived] + static_cast<std::size_t>(finals[end]) * row_bytes;
  }
};

// Rows [start, rows) are retained; the first segment may begin before `start`.
struct Stream {
  std::int64_t start = 0;
  std::int64_t rows = 0;
  std::int64_t logical = 0;   // number of row `start` among those of all streams
  std::size_t untouched = 0;  // segments
  std::vector<Segment> segments;
  std::vector<std::size_t> runs;  // segments that do not follow the one before in memory
  RowSet ends;

  std::size_t position_of(std::int64_t row) const {
    const auto after = std::upper_bound(segments.begin(), segments.end(), row,
                                        [](std::int64_t r, const Segment &segment) { return r < segment.first; });
    return static_cast<std::size_t>(after - segments.begin()) - 1;
  }

  Segment &at(std::int64_t first) {
    const std::size_t position = position_of(first);
    if (position >= segments.size() || segments[position].first != first)
      throw std::invalid_argument("no such segment");
    return segments[position];
  }

  const Segment &segment_of(std::int64_t row) const { return segments[position_of(row)]; }

  // The first of the last `most` rows up to `row` that are retained and of its episode.
  std::int64_t back(std::int64_t row, std::int64_t most) const noexcept {
    const std::int64_t least = std::max(row - most + 1, start);
    while (row > least && !ends.contains(row - 1))
      --row;
    return row;
  }

  template <typename Visit> void each_segment(std::int64_t low, std::int64_t high, Visit visit) const {
    if (low >= high) return;
    for (std::size_t k = position_of(low); k < segments.size() && segments[k].first < high; ++k)
      visit(segments[k]);
  }

  bool is_touched(std::int64_t low, std::int64_t high) const {
    bool all = true;
    if (untouched) each_segment(low, high, [&](const Segment &segment) { all &= segment.touched; });
    return all;
  }
};

}  // namespace rl
