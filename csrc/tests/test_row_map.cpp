// RowMap against a brute-force table: random segments, streams, windows, episode ends, order of filling in.
#undef NDEBUG
#include "row_map.hpp"

#include <cassert>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <random>
#include <vector>

namespace {

struct Truth {
  std::int64_t value;
  std::int64_t next;  // 0 where unknown
  bool begins;        // an episode, or what is retained of a stream
};

struct Piece {
  std::size_t stream;
  std::int64_t first, rows;
  std::vector<std::int64_t> ends;
  std::vector<std::uint8_t> has_final;
  std::vector<std::int64_t> finals;  // three numbers each
};

std::uint8_t *bytes(std::vector<std::int64_t> &numbers) { return reinterpret_cast<std::uint8_t *>(numbers.data()); }
rl::Address address(const std::vector<std::int64_t> &numbers) { return reinterpret_cast<rl::Address>(numbers.data()); }

void random_maps_match_brute_force() {
  std::mt19937 random(1);
  for (int trial = 0; trial < 400; ++trial) {
    rl::RowMap map;
    const std::size_t wide = map.add_plain(24), narrow = map.add_plain(8), shifted = map.add_shift(wide);
    std::deque<std::vector<std::int64_t>> memory;
    std::deque<Piece> pieces;
    std::vector<Truth> truth;
    std::int64_t count = 0;
    const std::size_t streams = 1 + random() % 3;
    for (std::size_t s = 0; s < streams; ++s) {
      const std::int64_t rows = random() % 40;
      std::int64_t start = random() % 2 ? 0 : random() % (rows + 1);
      map.add_stream(random() % 2 ? start : 0);
      std::vector<std::int64_t> values;
      for (std::int64_t r = 0; r < rows; ++r)
        values.push_back(++count);
      memory.push_back({});
      auto &wide_rows = memory.back();
      for (std::int64_t r = 0; r < rows; ++r)
        wide_rows.insert(wide_rows.end(), 3, values[static_cast<std::size_t>(r)]);
      memory.push_back(values);
      auto &narrow_rows = memory.back();
      std::vector<rl::RowMap::Listed> listed;
      bool begins = true;
      for (std::int64_t first = 0; first < rows;) {
        const std::int64_t length = std::min<std::int64_t>(1 + random() % 15, rows - first);
        rl::Address base = address(wide_rows) + 24 * first;
        if (random() % 3 == 0) {  // somewhere else in memory
          memory.emplace_back(wide_rows.begin() + 3 * first, wide_rows.begin() + 3 * (first + length));
          base = address(memory.back());
        }
        listed.push_back({first, length, length, {base, address(narrow_rows) + 8 * first, nullptr}});
        pieces.push_back({s, first, length, {}, {}, {}});
        Piece &piece = pieces.back();
        for (std::int64_t r = first; r < first + length; ++r) {
          std::int64_t next = r + 1 < rows ? values[static_cast<std::size_t>(r + 1)] : 0;
          if (random() % 5 == 0) {
            const bool known = random() % 2 == 0;
            next = known ? -values[static_cast<std::size_t>(r)] : 0;
            piece.ends.push_back(r);
            piece.has_final.push_back(known);
            if (known) piece.finals.insert(piece.finals.end(), 3, next);
          }
          if (r >= start) truth.push_back({values[static_cast<std::size_t>(r)], next, r == start || begins});
          begins = piece.ends.size() > 0 && piece.ends.back() == r;
        }
        first += length;
      }
      map.add_segments(s, listed);
      map.evict(s, start);
      while (!pieces.empty() && pieces.back().stream == s && pieces.back().first + pieces.back().rows <= start &&
             pieces.back().first + pieces.back().rows < rows)
        pieces.pop_back();
      pieces.erase(std::remove_if(pieces.begin(), pieces.end(),
                                  [&](const Piece &p) {
                                    return p.stream == s && p.first + p.rows <= start && p.first + p.rows < rows;
                                  }),
                   pieces.end());
    }
    assert(map.num_rows() == static_cast<std::int64_t>(truth.size()));
    if (truth.empty()) continue;
    std::int64_t one = 0;
    std::vector<std::int64_t> out(3);
    if (!pieces.empty()) assert(map.gather(&one, 1, {wide}, {bytes(out)}) == rl::Outcome::untouched);
    assert(map.read(0, 1, {wide}, {bytes(out)}) == rl::Outcome::untouched);
    assert(map.stacks(&one, 1, {{narrow, 1}}, {bytes(out)}) == rl::Outcome::untouched);
    std::shuffle(pieces.begin(), pieces.end(), random);
    for (const Piece &p : pieces)
      map.fill(p.stream, p.first, p.rows, p.ends.data(), p.has_final.data(), p.ends.size(), {address(p.finals)});
    std::vector<std::int64_t> rows(1 + random() % 100);
    for (auto &row : rows)
      row = static_cast<std::int64_t>(random() % truth.size());
    const std::int64_t low = static_cast<std::int64_t>(random() % truth.size());
    const std::int64_t high =
        low + static_cast<std::int64_t>(random() % (truth.size() - static_cast<std::size_t>(low) + 1));
    for (const bool run : {false, true}) {
      if (run) {
        rows.clear();
        for (std::int64_t r = low; r < high; ++r)
          rows.push_back(r);
      }
      std::vector<std::int64_t> a(3 * rows.size(), 7), b(rows.size(), 7), c(3 * rows.size(), 7);
      const std::vector<std::uint8_t *> targets{bytes(a), bytes(b), bytes(c)};
      const auto outcome = run ? map.read(low, high, {wide, narrow, shifted}, targets)
                               : map.gather(rows.data(), rows.size(), {wide, narrow, shifted}, targets);
      assert(outcome == rl::Outcome::done);
      for (std::size_t i = 0; i < rows.size(); ++i) {
        const Truth &expected = truth[static_cast<std::size_t>(rows[i])];
        assert(a[3 * i] == expected.value && a[3 * i + 2] == expected.value && b[i] == expected.value);
        assert(c[3 * i] == expected.next && c[3 * i + 2] == expected.next);
      }
    }
    for (const std::size_t frames : {1u, 2u, 3u, 9u}) {
      std::vector<std::int64_t> now(rows.size() * 2 * frames), following(rows.size() * 3 * frames);
      const std::vector<std::uint8_t *> targets{bytes(now), bytes(following)};
      assert(map.stacks(rows.data(), rows.size(), {{narrow, 2 * frames}, {shifted, frames}}, targets) ==
             rl::Outcome::done);
      for (std::size_t i = 0; i < rows.size(); ++i) {
        auto row = static_cast<std::size_t>(rows[i]);
        std::int64_t newest = truth[row].next;
        for (std::size_t k = frames; k-- > 0;) {
          assert(following[3 * (i * frames + k)] == newest && following[3 * (i * frames + k) + 2] == newest);
          newest = truth[row].value;
          row -= !truth[row].begins;
        }
        row = static_cast<std::size_t>(rows[i]);
        for (std::size_t k = 2 * frames; k-- > 0; row -= !truth[row].begins)
          assert(now[i * 2 * frames + k] == truth[row].value);
      }
    }
    for (int k = 0; k < 20; ++k) {  // two runs, the second one first in the buffer, a row left between
      const auto total = static_cast<std::int64_t>(truth.size());
      std::vector<rl::RowMap::Run> runs;
      for (std::int64_t at : {std::int64_t{6}, std::int64_t{0}}) {
        const std::int64_t first = static_cast<std::int64_t>(random() % truth.size());
        runs.push_back({first, static_cast<std::int64_t>(random() % 6), at});
      }
      std::vector<std::int64_t> a(36, 7), c(36, 7);
      const auto outcome = map.read_runs(runs, {wide, shifted}, {bytes(a), bytes(c)});
      if (outcome == rl::Outcome::outside) continue;  // beyond its stream
      assert(outcome == rl::Outcome::done);
      for (const auto &run : runs) {
        assert(run.start + run.count <= total);
        for (std::int64_t i = 0; i < 6; ++i) {
          const auto at = static_cast<std::size_t>(3 * (run.at + i));
          const auto row = static_cast<std::size_t>(run.start + i);
          assert(a[at] == (i < run.count ? truth[row].value : 7) && a[at + 2] == a[at]);
          assert(c[at] == (i < run.count ? truth[row].next : 7) && c[at + 2] == c[at]);
        }
      }
    }
  }
}

void every_row_size_is_copied_whole_by_any_number_of_threads() {
  rl::Pool pool(3);
  for (std::size_t size : {1u, 2u, 3u, 4u, 5u, 7u, 8u, 11u, 12u, 16u, 17u, 24u, 64u, 68u, 300u, 512u, 513u, 30000u}) {
    std::vector<std::uint8_t> memory(40 * size);
    for (std::size_t i = 0; i < memory.size(); ++i)
      memory[i] = static_cast<std::uint8_t>(i * 31 + i / 256);
    rl::RowMap map;
    const std::size_t column = map.add_plain(size), shifted = map.add_shift(column);
    map.add_stream(0);
    map.add_segments(0, {{0, 40, 40, {memory.data(), nullptr}}});
    const std::int64_t end = 19;
    const std::uint8_t has_final = 0;
    map.fill(0, 0, 40, &end, &has_final, 1, {});
    std::vector<std::int64_t> rows;
    for (std::int64_t i = 0; i < 100; ++i)
      rows.push_back(i * 7 % 40);
    for (rl::Pool *threads : {static_cast<rl::Pool *>(nullptr), &pool}) {
      std::vector<std::uint8_t> out(rows.size() * size), next(rows.size() * size);
      assert(map.gather(rows.data(), rows.size(), {column, shifted}, {out.data(), next.data()}, threads) ==
             rl::Outcome::done);
      for (std::size_t i = 0; i < rows.size(); ++i) {
        const std::int64_t row = rows[i];
        assert(std::memcmp(&out[i * size], &memory[static_cast<std::size_t>(row) * size], size) == 0);
        for (std::size_t k = 0; k < size; ++k)
          assert(next[i * size + k] ==
                 (row == 19 || row == 39 ? 0 : memory[static_cast<std::size_t>(row + 1) * size + k]));
      }
    }
  }
}

void a_run_that_ends_with_an_episode_needs_no_further_segment() {
  rl::RowMap map;
  std::vector<std::int64_t> memory{1, 2, 3, 4}, final{9}, out(2);
  const std::size_t plain = map.add_plain(8), shifted = map.add_shift(plain);
  map.add_stream(0);
  map.add_segments(0, {{0, 2, 2, {address(memory), nullptr}}, {2, 2, 2, {address(memory) + 16, nullptr}}});
  const std::int64_t end = 1;
  const std::uint8_t yes = 1;
  map.fill(0, 0, 2, &end, &yes, 1, {address(final)});
  assert(map.read(0, 2, {shifted}, {bytes(out)}) == rl::Outcome::done);
  assert(out[0] == 2 && out[1] == 9);
  assert(map.read(0, 3, {plain}, {bytes(out)}) == rl::Outcome::untouched);
}

template <typename Call> bool throws(Call call) {
  try {
    call();
  } catch (const std::exception &) {
    return true;
  }
  return false;
}

void an_open_segment_grows() {
  rl::RowMap map;
  std::vector<std::int64_t> memory{1, 2, 3, 4, 5, 6}, finals{-1, -2}, out(6);
  const std::size_t plain = map.add_plain(8), shifted = map.add_shift(plain);
  map.add_stream(0);
  map.add_segments(0, {{0, 0, 6, {address(memory), nullptr}}});
  std::vector<std::int64_t> ends{1, 3};
  const std::uint8_t yes[] = {1, 1};
  map.fill(0, 0, 2, ends.data(), yes, 1, {address(finals)});
  assert(map.num_rows() == 2);
  map.fill(0, 0, 6, ends.data() + 1, yes, 1, {});
  assert(map.read(0, 6, {shifted}, {bytes(out)}) == rl::Outcome::done);
  assert((out == std::vector<std::int64_t>{2, -1, 4, -2, 6, 0}));
  assert(throws([&] { map.drop_empty(0); }));
  map.add_segments(0, {{6, 0, 0, {address(memory), nullptr}}});
  map.drop_empty(0);
  map.evict(0, 3);
  assert(map.num_rows() == 3);
  map.add_stream(7);
  map.add_segments(1, {{7, 2, 2, {address(memory), nullptr}}});
  const std::int64_t other = std::int64_t{1} << 40,
                     ids[] = {3, 5, 2, 6, other + 7, other + 8, other + 9, 2 * other, -1};
  std::int64_t found[9];
  map.rows_of(ids, 9, found);
  assert((std::vector<std::int64_t>(found, found + 9) == std::vector<std::int64_t>{0, 2, -1, -1, 3, 4, -1, -1, -1}));
  const std::int64_t rows[] = {0, 2};
  assert(map.gather(rows, 2, {plain}, {bytes(out)}) == rl::Outcome::done);
  assert(out[0] == 4 && out[1] == 6);
}

void what_cannot_be_is_refused() {
  rl::RowMap map;
  const std::size_t column = map.add_plain(8);
  map.add_stream(0);
  std::vector<std::int64_t> memory(8);
  const auto base = address(memory);
  const std::uint8_t no = 0;
  const auto fill = [&](std::int64_t first, std::int64_t rows, std::int64_t end) {
    map.fill(0, first, rows, &end, &no, end < 0 ? 0 : 1, {});
  };
  assert(throws([&] { map.add_shift(9); }));
  assert(throws([&] { map.add_plain(8); }));  // behind a stream
  assert(throws([&] { map.add_shift(0); }));
  assert(throws([&] { fill(0, 1, -1); }));  // rows without a segment
  assert(throws([&] { map.add_segments(0, {{3, 1, 1, {base}}}); }));
  assert(throws([&] { map.add_segments(0, {{0, 1, 1, {base, base}}}); }));
  assert(throws([&] { map.add_segments(1, {{0, 1, 1, {base}}}); }));
  assert(throws([&] { map.add_segments(0, {{0, 1, 1, {nullptr}}}); }));
  assert(throws([&] { map.add_segments(0, {{0, 2, 1, {base}}}); }));
  const std::int64_t most = std::int64_t{1} << 40;
  assert(throws([&] { map.add_segments(0, {{0, 1, most + 1, {base}}}); }));
  assert(throws([&] { map.add_segments(0, {{0, 1, most, {reinterpret_cast<rl::Address>(-most)}}}); }));
  assert(throws([&] { map.add_stream(most + 1); }));
  map.add_segments(0, {{0, 4, 4, {base}}, {4, 4, 4, {base + 32}}});
  assert(throws([&] { map.add_segments(0, {{9, 1, 1, {base}}}); }));
  assert(throws([&] { fill(0, 5, -1); }));
  fill(4, 4, 5);
  assert(throws([&] { fill(4, 3, -1); }));
  assert(throws([&] { fill(4, 4, 5); }));
  assert(throws([&] { fill(4, 4, 8); }));
  assert(throws([&] { fill(4, 5, -1); }));  // more than there is room for
  assert(throws([&] { map.evict(0, 9); }));
  std::int64_t out = 0;
  fill(0, 4, -1);
  for (std::int64_t row : {std::int64_t{-1}, std::int64_t{8}})
    assert(map.gather(&row, 1, {column}, {reinterpret_cast<std::uint8_t *>(&out)}) == rl::Outcome::outside);
  for (std::int64_t row : {std::int64_t{-1}, std::int64_t{8}})
    assert(map.stacks(&row, 1, {{column, 1}}, {reinterpret_cast<std::uint8_t *>(&out)}) == rl::Outcome::outside);
  for (std::int64_t row : {std::int64_t{8}, std::numeric_limits<std::int64_t>::max()})
    assert(map.read_runs({{row, 1, 0}}, {column}, {reinterpret_cast<std::uint8_t *>(&out)}) == rl::Outcome::outside);
  assert(map.read(7, 9, {column}, {reinterpret_cast<std::uint8_t *>(&out)}) == rl::Outcome::outside);
  map.evict(0, 4);
  assert(throws([&] { map.evict(0, 3); }));
  assert(throws([&] { fill(0, 4, -1); }));  // it has left
}

}  // namespace

int main() {
  every_row_size_is_copied_whole_by_any_number_of_threads();
  random_maps_match_brute_force();
  a_run_that_ends_with_an_episode_needs_no_further_segment();
  an_open_segment_grows();
  what_cannot_be_is_refused();
  std::puts("ok");
}
