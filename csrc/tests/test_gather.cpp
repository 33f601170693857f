// RowTable against a brute-force table: random pieces, streams, episode ends.
#undef NDEBUG
#include "gather.hpp"

#include <cassert>
#include <cstdint>
#include <cstdio>
#include <random>
#include <vector>

namespace {

struct Truth {
  std::int64_t value;
  std::int64_t next;  // 0 where unknown
};

void random_tables_match_brute_force() {
  std::mt19937 random(1);
  for (int trial = 0; trial < 300; ++trial) {
    rl::RowTable table;
    const std::size_t wide = table.add_plain(24), narrow = table.add_plain(8), shifted = table.add_shift(wide);
    std::vector<std::vector<std::int64_t>> memory;  // three numbers per row and piece: value, value, value
    memory.reserve(1000);
    std::vector<Truth> truth;
    std::vector<std::vector<std::int64_t>> finals;
    finals.reserve(10000);
    std::int64_t count = 0;
    const int streams = 1 + static_cast<int>(random() % 3);
    for (int s = 0; s < streams; ++s) {
      table.add_stream();
      const std::int64_t rows = random() % 40;
      std::vector<std::int64_t> values, ends;
      std::vector<std::vector<rl::Address>> addresses;
      for (std::int64_t r = 0; r < rows; ++r)
        values.push_back(++count);
      for (std::int64_t first = 0; first < rows;) {
        const std::int64_t length = std::min<std::int64_t>(1 + random() % 15, rows - first);
        memory.emplace_back();
        auto &wide_rows = memory.back();
        for (std::int64_t r = first; r < first + length; ++r)
          wide_rows.insert(wide_rows.end(), 3, values[r]);
        memory.emplace_back(values.begin() + first, values.begin() + first + length);
        table.add_piece(s, first,
                        {reinterpret_cast<rl::Address>(wide_rows.data()),
                         reinterpret_cast<rl::Address>(memory.back().data()), nullptr});
        first += length;
      }
      for (std::int64_t r = 0; r < rows; ++r) {
        std::int64_t next = r + 1 < rows ? values[r + 1] : 0;
        if (random() % 5 == 0) {
          ends.push_back(r);
          const bool known = random() % 2 == 0;
          next = known ? -values[r] : 0;
          finals.push_back(std::vector<std::int64_t>(3, next));
          addresses.push_back({known ? reinterpret_cast<rl::Address>(finals.back().data()) : nullptr});
        }
        truth.push_back({values[r], next});
      }
      table.advance(s, rows, ends, addresses);
    }
    assert(table.num_rows() == static_cast<std::int64_t>(truth.size()));
    if (truth.empty()) continue;
    std::vector<std::int64_t> rows(1 + random() % 100);
    for (auto &row : rows)
      row = static_cast<std::int64_t>(random() % truth.size());
    std::vector<std::int64_t> a(3 * rows.size(), 7), b(rows.size(), 7), c(3 * rows.size(), 7);
    const bool inside =
        table.gather(rows.data(), rows.size(), {wide, narrow, shifted},
                     {reinterpret_cast<std::uint8_t *>(a.data()), reinterpret_cast<std::uint8_t *>(b.data()),
                      reinterpret_cast<std::uint8_t *>(c.data())});
    assert(inside);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const Truth &expected = truth[static_cast<std::size_t>(rows[i])];
      assert(a[3 * i] == expected.value && a[3 * i + 2] == expected.value && b[i] == expected.value);
      assert(c[3 * i] == expected.next && c[3 * i + 2] == expected.next);
    }
  }
}

void every_row_size_is_copied_whole() {
  for (std::size_t bytes : {1u, 2u, 3u, 4u, 7u, 8u, 12u, 16u, 17u, 64u, 300u, 7056u}) {
    std::vector<std::uint8_t> memory(20 * bytes);
    for (std::size_t i = 0; i < memory.size(); ++i)
      memory[i] = static_cast<std::uint8_t>(i * 31 + i / 256);
    rl::RowTable table;
    const std::size_t column = table.add_plain(bytes);
    table.add_stream();
    table.add_piece(0, 0, {memory.data()});
    table.advance(0, 20, {}, {});
    std::vector<std::int64_t> rows;
    for (std::int64_t i = 0; i < 50; ++i)
      rows.push_back(i * 7 % 20);
    std::vector<std::uint8_t> out(rows.size() * bytes);
    assert(table.gather(rows.data(), rows.size(), {column}, {out.data()}));
    for (std::size_t i = 0; i < rows.size(); ++i)
      assert(std::memcmp(&out[i * bytes], &memory[static_cast<std::size_t>(rows[i]) * bytes], bytes) == 0);
  }
}

template <typename Call> bool throws(Call call) {
  try {
    call();
  } catch (const std::exception &) {
    return true;
  }
  return false;
}

void what_cannot_be_is_refused() {
  rl::RowTable table;
  const std::size_t column = table.add_plain(8);
  table.add_stream();
  std::vector<std::int64_t> memory(8);
  const auto base = reinterpret_cast<rl::Address>(memory.data());
  assert(throws([&] { table.add_shift(9); }));
  assert(throws([&] { table.advance(0, 1, {}, {}); }));  // rows without a piece
  assert(throws([&] { table.add_piece(0, 3, {base}); }));
  assert(throws([&] { table.add_piece(0, 0, {base, base}); }));
  assert(throws([&] { table.add_piece(1, 0, {base}); }));
  table.add_piece(0, 0, {base});
  assert(throws([&] { table.add_piece(0, 0, {base}); }));
  table.advance(0, 8, {3}, {{}});
  assert(throws([&] { table.advance(0, 7, {}, {}); }));
  assert(throws([&] { table.advance(0, 8, {3}, {{}}); }));
  assert(throws([&] { table.advance(0, 8, {8}, {{}}); }));
  assert(throws([&] { table.advance(0, 8, {5}, {}); }));
  std::int64_t out = 0;
  for (std::int64_t row : {std::int64_t{-1}, std::int64_t{8}})
    assert(!table.gather(&row, 1, {column}, {reinterpret_cast<std::uint8_t *>(&out)}));
}

}  // namespace

int main() {
  random_tables_match_brute_force();
  every_row_size_is_copied_whole();
  what_cannot_be_is_refused();
  std::puts("ok");
}
