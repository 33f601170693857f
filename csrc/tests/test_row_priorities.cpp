// Priorities by identity against a map of rows, while streams grow and are evicted; and from two threads.
#undef NDEBUG
#include "row_priorities.hpp"

#include <cassert>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <map>
#include <random>
#include <thread>
#include <vector>

namespace {

using rl::RowPriorities;

void windows_match_a_map() {
  std::mt19937_64 random(1);
  for (int trial = 0; trial < 5; ++trial) {
    RowPriorities table(1.0, 0.0);
    std::map<std::int64_t, double> truth;
    const std::int64_t streams = 1 + static_cast<std::int64_t>(random() % 3);
    std::vector<std::int64_t> begin(static_cast<std::size_t>(streams), 0), end = begin;
    for (int round = 0; round < 40; ++round) {
      const auto stream = static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(streams));
      std::int64_t &first = begin[static_cast<std::size_t>(stream)], &stop = end[static_cast<std::size_t>(stream)];
      const auto grown = static_cast<std::int64_t>(random() % 3000);
      table.cover(stream, stop, grown, 2.0);
      for (std::int64_t row = stop; row < stop + grown; ++row)
        truth[RowPriorities::id(stream, row)] = 2.0;
      stop += grown;
      if (stop - first > 4000) {
        table.evict(stream, stop - 4000);
        for (; first < stop - 4000; ++first)
          truth.erase(RowPriorities::id(stream, first));
      }
      std::vector<std::int64_t> ids(100);
      std::vector<double> values(ids.size());
      for (std::size_t i = 0; i < ids.size(); ++i) {
        ids[i] = RowPriorities::id(stream, static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(stop + 50)));
        values[i] = static_cast<double>(random() % 9);
        if (truth.count(ids[i])) truth[ids[i]] = values[i];
      }
      table.set(ids.data(), values.data(), ids.size());
      double total = 0;
      for (const auto &[id, value] : truth)
        total += value;
      assert(table.total() == total);  // whole numbers
      std::vector<float> weights(ids.size());
      if (total > 0) {
        const rl::Random numbers(1, 2, static_cast<std::uint64_t>(round));
        assert(table.sample(numbers, ids.size(), false, 1.0, ids.data(), weights.data()));
        for (std::int64_t id : ids)
          assert(truth.at(id) > 0);
        RowPriorities again(1.0, 0.0);
        again.restore(table.owners(), table.priorities());
        std::vector<std::int64_t> same(ids.size());
        assert(again.sample(numbers, same.size(), false, 1.0, same.data(), weights.data()));
        assert(same == ids && again.total() == table.total());
      }
    }
  }
}

void rows_that_are_gone_or_left_out_are_passed_over() {
  RowPriorities table(1.0, 0.0);
  table.cover(0, 0, 10, 1.0);
  table.cover(0, 4, 1, -1.0);
  table.evict(0, 2);
  const std::int64_t ids[] = {0, 1, 4, 11, 5000, RowPriorities::id(3, 1), -1};
  const double values[] = {9, 9, 9, 9, 9, 9, 9};
  assert(table.set(ids, values, 7) == 0 && table.total() == 7);
  double found[3];
  const std::int64_t asked[] = {1, 2, 4};
  table.get(asked, 3, found);
  assert(found[0] == -1 && found[1] == 1 && found[2] == -1);
  table.cover(0, 4, 1, 3.0);  // its next observation came
  assert(table.total() == 10);
}

void rows_that_cannot_be_are_refused() {
  RowPriorities table(1.0, 0.0);
  const std::int64_t most = std::int64_t{1} << RowPriorities::kRowBits, huge = std::numeric_limits<std::int64_t>::max();
  const std::int64_t wrong[][2] = {{huge, 1}, {1, huge}, {huge, huge}, {most, 1}, {-1, 1}, {0, -1}};
  for (const auto &rows : wrong) {
    bool refused = false;
    try {
      table.cover(0, rows[0], rows[1], 1.0);
    } catch (const std::out_of_range &) {
      refused = true;
    }
    assert(refused);
  }
  assert(table.total() == 0);
}

void threads_may_draw_and_update() {
  RowPriorities priorities(0.6, 1e-6);
  priorities.cover(0, 0, 1000, 1.0);
  std::thread updates([&] {
    std::mt19937_64 random(4);
    for (int round = 0; round < 300; ++round) {
      std::int64_t leaves[16];
      double values[16];
      for (int i = 0; i < 16; ++i) {
        leaves[i] = static_cast<std::int64_t>(random() % 1000);
        values[i] = static_cast<double>(random() % 100);
      }
      priorities.set(leaves, values, 16);
      if (round % 100 == 0) priorities.cover(0, 1000 + 10 * round, 10, 1.0);
    }
  });
  std::int64_t leaves[64];
  float weights[64];
  for (std::uint64_t round = 0; round < 300; ++round) {
    assert(priorities.sample(rl::Random(0, 0, round), 64, true, 1, leaves, weights));
    for (int i = 0; i < 64; ++i)
      assert(leaves[i] >= 0 && leaves[i] < 4000 && weights[i] > 0 && weights[i] <= 1);
  }
  updates.join();
}

}  // namespace

int main() {
  windows_match_a_map();
  rows_that_are_gone_or_left_out_are_passed_over();
  rows_that_cannot_be_are_refused();
  threads_may_draw_and_update();
  std::puts("ok");
}
