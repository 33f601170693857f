// Rows of a sealed segment from its files, against the arrays they were written from: every range of rows, of segments
// with random commits and episodes; and nothing from files or journals that are not as they must be.
#undef NDEBUG
#include "sealed_rows.hpp"
#include "small_files.hpp"

#include <sys/stat.h>

#include <cassert>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

namespace {

using Bytes = std::vector<std::uint8_t>;
using Numbers = std::vector<std::int64_t>;

constexpr std::int64_t FIRST = 1000;  // stream row of the segment's first
constexpr std::size_t MOST = std::size_t{1} << 20;

void write(const std::string &path, const Bytes &bytes) {
  std::FILE *file = std::fopen(path.c_str(), "wb");
  assert(file != nullptr);
  assert(bytes.empty() || std::fwrite(bytes.data(), 1, bytes.size(), file) == bytes.size());
  assert(std::fclose(file) == 0);
}

void put(Bytes &record, std::size_t at, std::uint64_t value) { std::memcpy(record.data() + at, &value, 8); }

std::uint64_t hash(const Bytes &bytes) {
  rl::Xxh3 found;
  found.update(bytes.data(), bytes.size());
  return found.digest();
}

// Two stored columns of 3 and 8 bytes, and what follows the first; a file of each in a folder of its own.
struct Segment {
  std::string root;
  std::int64_t rows, alloc;
  std::vector<rl::SealedColumn> columns;
  Bytes narrow, wide, finals, journal;
  Numbers ends, commits;
  std::vector<std::uint8_t> has_final;

  Segment(std::string folder, std::mt19937 &random)
      : root(std::move(folder)), rows(1 + static_cast<std::int64_t>(random() % 30)), alloc(rows + random() % 5) {
    rl::RowPlaces places;
    const std::size_t narrow_column = places.add_plain(3);
    places.add_plain(8), places.add_shift(narrow_column);
    columns = {{places.column(0), "n.memmap"}, {places.column(1), "w.memmap"}, {places.column(2), "n.memmap"}};
    narrow.resize(static_cast<std::size_t>(3 * alloc)), wide.resize(static_cast<std::size_t>(8 * alloc));
    for (Bytes *bytes : {&narrow, &wide})
      for (std::uint8_t &byte : *bytes)
        byte = static_cast<std::uint8_t>(random());
    journal.assign(64, 0);
    std::int64_t committed = 0;
    std::size_t final_begin = 0;
    Bytes episodes;
    for (std::int64_t row = 0; row < rows; ++row) {
      if (random() % 4 == 0) {
        const bool known = random() % 3 > 0;
        ends.push_back(FIRST + row), has_final.push_back(known);
        for (int k = 0; known && k < 3; ++k)
          finals.push_back(static_cast<std::uint8_t>(random()));
        Bytes record(64);
        record[4] = 2, record[5] = known ? 8 : 1;
        episodes.insert(episodes.end(), record.begin(), record.end());
      }
      if (row + 1 < rows && random() % 5) continue;
      Bytes digests;
      const auto slice = [](const Bytes &from, std::int64_t begin, std::int64_t end, std::int64_t size) {
        return Bytes(from.begin() + begin * size, from.begin() + end * size);
      };
      const Bytes last(finals.begin() + static_cast<std::ptrdiff_t>(final_begin), finals.end());
      for (const Bytes &part : {slice(narrow, committed, row + 1, 3), slice(wide, committed, row + 1, 8), last}) {
        const std::uint64_t digest = hash(part);
        for (int byte = 7; byte >= 0; --byte)
          digests.push_back(static_cast<std::uint8_t>(digest >> 8 * byte));
      }
      Bytes record(64);
      record[4] = 1;
      put(record, 16, static_cast<std::uint64_t>(committed)),
          put(record, 24, static_cast<std::uint64_t>(row + 1 - committed));
      put(record, 32, hash(digests));
      journal.insert(journal.end(), episodes.begin(), episodes.end()), episodes.clear();
      commits.push_back(static_cast<std::int64_t>(journal.size()));
      journal.insert(journal.end(), record.begin(), record.end());
      committed = row + 1, final_begin = finals.size();
    }
    for (const char *tree : {"", "/segments", "/segments/s", "/finals", "/finals/s"})
      ::mkdir((root + tree).c_str(), 0777);
    write_files();
  }

  void write_files() const {
    write(root + "/segments/s/n.memmap", narrow), write(root + "/segments/s/w.memmap", wide);
    write(root + "/finals/s/n.memmap", finals);
  }

  // What `read_sealed` gives of all columns, one after the other; nothing where it gives nothing.
  Bytes read(std::int64_t low, std::int64_t high, bool goes_on, bool proven, std::size_t most = MOST) const {
    const rl::SealedSegment segment{root, "s", FIRST, alloc, rows, static_cast<std::int64_t>(finals.size() / 3)};
    rl::FewRows few{low, high, 0, {}, {}, 0};
    std::vector<char> flags(has_final.begin(), has_final.end());
    few.find_ends(FIRST, ends.data(), reinterpret_cast<const bool *>(flags.data()), ends.size());
    few.behind = goes_on && high < rows && (few.ends.empty() || few.ends.back() != high - 1);
    const auto count = static_cast<std::size_t>(high - low);
    Bytes out(14 * count, 0xAA);
    const std::vector<std::uint8_t *> targets{out.data(), out.data() + 3 * count, out.data() + 11 * count};
    const bool done = rl::read_sealed(segment, columns, few, {0, 1, 2}, targets, proven ? journal.data() : nullptr,
                                      journal.size(), most);
    return done ? out : Bytes();
  }

  // The same from the arrays, row by row.
  Bytes expected(std::int64_t low, std::int64_t high, bool goes_on) const {
    Bytes out(narrow.begin() + 3 * low, narrow.begin() + 3 * high);
    out.insert(out.end(), wide.begin() + 8 * low, wide.begin() + 8 * high);
    for (std::int64_t row = low; row < high; ++row) {
      std::size_t end = 0, final = 0;
      while (end < ends.size() && ends[end] != FIRST + row)
        final += has_final[end++];
      Bytes value(3, 0);
      if (end < ends.size()) {
        if (has_final[end]) std::memcpy(value.data(), finals.data() + 3 * final, 3);
      } else if (row + 1 < high || (goes_on && row + 1 < rows)) {
        std::memcpy(value.data(), narrow.data() + 3 * (row + 1), 3);
      }
      out.insert(out.end(), value.begin(), value.end());
    }
    return out;
  }
};

// Every range, with and without hashes.
void ranges_match_the_arrays(const Segment &segment) {
  for (std::int64_t low = 0; low < segment.rows; ++low)
    for (std::int64_t high = low + 1; high <= segment.rows; ++high)
      for (const bool goes_on : {false, true})
        for (const bool proven : {false, true})
          assert(segment.read(low, high, goes_on, proven) == segment.expected(low, high, goes_on));
}

// A flipped bit of any row or final is noticed by whoever reads its commit, and by nobody else.
void flipped_bits_are_noticed(Segment &segment, std::mt19937 &random) {
  for (Bytes *bytes : {&segment.narrow, &segment.wide, &segment.finals}) {
    if (bytes->empty()) continue;
    const std::size_t size = bytes == &segment.wide ? 8 : 3;
    const std::size_t used = bytes == &segment.finals ? bytes->size() : size * static_cast<std::size_t>(segment.rows);
    std::uint8_t &byte = (*bytes)[random() % used];
    byte ^= 4;
    segment.write_files();
    assert(segment.read(0, segment.rows, false, true).empty());
    assert(segment.read(0, segment.rows, false, false) == segment.expected(0, segment.rows, false));
    byte ^= 4;
  }
  segment.write_files();
}

void lies_are_refused(Segment &segment) {
  assert(segment.read(0, segment.rows, false, true, static_cast<std::size_t>(11 * segment.rows) - 1).empty());
  const Bytes journal = segment.journal;
  for (const std::int64_t at : segment.commits)
    for (const std::uint64_t value : {~std::uint64_t{0}, std::uint64_t{1} << 62, std::uint64_t{1} << 40})
      for (const std::size_t field : {16, 24, 32}) {
        put(segment.journal, static_cast<std::size_t>(at) + field, value);
        assert(segment.read(0, segment.rows, false, true).empty());
        segment.journal = journal;
      }
  segment.journal.clear();
  assert(segment.read(0, segment.rows, false, true).empty());
  segment.journal = journal;
  segment.alloc += 1;  // no file is of that size
  assert(segment.read(0, segment.rows, false, true).empty());
  assert(segment.read(0, segment.rows, false, false).empty());
  segment.alloc = std::int64_t{1} << 62;
  assert(segment.read(0, segment.rows, false, false).empty());
}

void episodes_are_counted() {
  const auto count = [](Numbers start, Numbers length, std::int64_t first, std::int64_t rows) {
    const bool has_final[] = {true, false, true};
    return rl::count_finals(start.data(), length.data(), has_final, start.size(), first, rows);
  };
  assert(count({}, {}, 0, 5) == 0);
  assert(count({0, 3, 4}, {3, 1, 1}, 0, 5) == 2);
  assert(count({7, 13, 14}, {5, 1, 1}, 10, 5) == 2);  // the first began before the segment
  assert(count({0, 2}, {3, 1}, 0, 5) == -1);          // they overlap
  assert(count({0, 3}, {3, 3}, 0, 5) == -1);          // behind the end
  assert(count({7}, {3}, 10, 5) == -1);               // it ends before the segment
  assert(count({-1}, {3}, 0, 5) == -1);
  assert(count({1}, {0}, 0, 5) == -1);
  assert(count({1}, {std::int64_t(~std::uint64_t{0} >> 1)}, 0, 5) == -1);
}

void blocks_are_hashed_one_by_one() {
  Bytes data(rl::kBlockBytes + 1, 7);
  assert(rl::num_blocks(0) == 0 && rl::num_blocks(rl::kBlockBytes) == 1 && rl::num_blocks(data.size()) == 2);
  const auto *text = reinterpret_cast<const char *>(data.data());
  const std::uint64_t expected[] = {hash(Bytes(data.begin(), data.end() - 1)), hash({7})};
  assert(rl::has_hashes(text, data.size(), expected));
  data.back() = 6;
  assert(!rl::has_hashes(text, data.size(), expected));
  assert(rl::has_hashes(text, 0, expected));
}

}  // namespace

int main() {
  char name[] = "/tmp/rl-sealed-XXXXXX";
  assert(::mkdtemp(name) != nullptr);
  std::mt19937 random(1);
  for (int trial = 0; trial < 20; ++trial) {
    Segment segment(std::string(name) + "/" + std::to_string(trial), random);
    ranges_match_the_arrays(segment);
    flipped_bits_are_noticed(segment, random);
    lies_are_refused(segment);
  }
  episodes_are_counted();
  blocks_are_hashed_one_by_one();
  assert(std::system((std::string("rm -r ") + name).c_str()) == 0);
}
