// A few rows of a sealed segment, read from its files: mapping them takes longer than reading an episode.
//
// They may be compared with the hashes of the commits that brought them. Those stand in the journal, whose own hash
// stands in the sums, so they prove the same as the hash of a block: but of the rows of one commit, where a block of
// each column may be a hundred times as much. format/SPEC.md, sections 5 to 8.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "mapping.hpp"
#include "row_places.hpp"
#include "xxh3.hpp"

namespace rl {

// Where its files are; its first stream row, how many rows columns have room for and hold, how many finals there are.
struct SealedSegment {
  std::string root, name;
  std::int64_t first, alloc, rows, finals;
};

// A column of a segment, and the path of its file inside each tree. Stored ones come first.
struct SealedColumn {
  RowPlaces::Column values;
  std::string file;
};

// Rows [low, high) of a segment, counted from its first one; `behind` is 1 if row `high` belongs to the episode of the
// row before it. Episodes end in the rows `ends`, which ascend, and own finals from `final_first` on, as many as there
// are true `has_final`.
struct FewRows {
  std::int64_t low, high, behind;
  std::vector<std::int64_t> ends;
  std::vector<bool> has_final;
  std::int64_t final_first;

  // Those of all the segment's ends, stream rows, that are in these rows.
  void find_ends(std::int64_t first_row, const std::int64_t *all, const bool *flags, std::size_t size) {
    const std::int64_t *begin = std::lower_bound(all, all + size, first_row + low);
    const std::int64_t *stop = std::lower_bound(begin, all + size, first_row + high);
    for (const std::int64_t *end = begin; end < stop; ++end)
      ends.push_back(*end - first_row), has_final.push_back(flags[end - all]);
    final_first = std::count(flags, flags + (begin - all), true);
  }

  std::int64_t count() const noexcept { return high - low; }
  std::int64_t num_finals() const noexcept {
    return static_cast<std::int64_t>(std::count(has_final.begin(), has_final.end(), true));
  }
};

// How the episodes of a segment lie in it, which has the stream rows [first, first + rows): their first rows and
// lengths. Returns how many have a final value, or -1 if one lies outside or two overlap.
inline std::int64_t count_finals(const std::int64_t *start, const std::int64_t *length, const bool *has_final,
                                 std::size_t count, std::int64_t first, std::int64_t rows) noexcept {
  std::int64_t found = 0, before = 0;
  for (std::size_t k = 0; k < count; ++k) {
    std::int64_t end;
    if (start[k] < before || length[k] <= 0 || __builtin_add_overflow(start[k], length[k], &end)) return -1;
    if (end <= first || end - first > rows) return -1;
    found += has_final[k], before = end;
  }
  return found;
}

namespace sealed {

// Bytes of so many rows; false if there are no such numbers.
inline bool bytes_of(std::int64_t rows, std::size_t row_bytes, std::size_t &bytes) noexcept {
  return !__builtin_mul_overflow(rows, row_bytes, &bytes);
}

// Rows of a column's file or of its finals. False if the file has not exactly the size that `total` rows have.
inline bool read_file(const SealedSegment &segment, const char *tree, const SealedColumn &column, std::int64_t total,
                      std::int64_t first, std::int64_t count, std::uint8_t *out) {
  std::size_t size, begin, bytes;
  const std::size_t row_bytes = column.values.row_bytes;
  if (!bytes_of(total, row_bytes, size) || !bytes_of(first, row_bytes, begin) || !bytes_of(count, row_bytes, bytes))
    return false;
  const ExactFile file(segment.root + tree + segment.name + '/' + column.file, size);
  return file.fits() && file.read(reinterpret_cast<char *>(out), bytes, begin);
}

inline bool read_column(const SealedSegment &segment, const SealedColumn &column, std::int64_t first,
                        std::int64_t count, std::uint8_t *out) {
  return read_file(segment, "/segments/", column, segment.alloc, first, count, out);
}

inline bool read_finals(const SealedSegment &segment, const SealedColumn &column, std::int64_t first,
                        std::int64_t count, std::uint8_t *out) {
  return read_file(segment, "/finals/", column, segment.finals, first, count, out);
}

// Rows as they are in the files.
class Plain {
public:
  Plain(const SealedSegment &segment, const std::vector<SealedColumn> &columns)
      : segment_(segment), columns_(columns) {}

  bool rows(std::size_t column, std::int64_t first, std::int64_t count, std::uint8_t *out) const {
    return read_column(segment_, columns_[column], first, count, out);
  }
  bool finals(std::size_t column, std::int64_t first, std::int64_t count, std::uint8_t *out) const {
    return read_finals(segment_, columns_[column], first, count, out);
  }

private:
  const SealedSegment &segment_;
  const std::vector<SealedColumn> &columns_;
};

struct Commit {
  std::int64_t first, stop;  // rows
  std::int64_t final_first, final_stop;
  std::uint64_t hash;
};

// The neighbouring commits that brought rows [low, high), from a journal's records; none if they do not join.
inline std::vector<Commit> commits_of(const std::uint8_t *journal, std::size_t size, std::int64_t low,
                                      std::int64_t high) {
  constexpr std::size_t kRecord = 64;
  constexpr std::uint8_t kRows = 1, kEpisode = 2, kHasFinal = 8;
  std::vector<Commit> found;
  std::int64_t before = 0, finals = 0;
  for (const std::uint8_t *at = journal; size >= kRecord; at += kRecord, size -= kRecord) {
    if (at[4] == kEpisode) finals += (at[5] & kHasFinal) != 0;
    if (at[4] != kRows) continue;
    const auto first = static_cast<std::int64_t>(xxh3::read64(at + 16));
    const auto count = static_cast<std::int64_t>(xxh3::read64(at + 24));
    std::int64_t stop;
    if (first < 0 || count < 0 || __builtin_add_overflow(first, count, &stop)) return {};
    if (first >= high) break;
    if (stop > low) {
      if (found.empty() ? first > low : first != found.back().stop) return {};
      found.push_back({first, stop, before, finals, xxh3::read64(at + 32)});
    }
    before = finals;
  }
  if (found.empty() || found.back().stop < high) return {};
  return found;
}

// Rows of whole commits, all stored columns of them and their finals, which have the right hashes.
class Proven {
public:
  Proven(const SealedSegment &segment, const std::vector<SealedColumn> &columns)
      : segment_(segment), columns_(columns) {}

  // Reads and compares what brought rows [low, high). False if that is more than `most_bytes`, or cannot be, or
  // something is not as it must be.
  bool read(const std::uint8_t *journal, std::size_t size, std::int64_t low, std::int64_t high,
            std::size_t most_bytes) {
    const std::vector<Commit> commits = commits_of(journal, size, low, high);
    if (commits.empty() || commits.back().stop > segment_.rows) return false;
    first_ = commits.front().first, final_first_ = commits.front().final_first;
    count_ = commits.back().stop - first_, num_finals_ = commits.back().final_stop - final_first_;
    std::size_t total = 0;
    for (const SealedColumn &column : columns_) {
      begins_.push_back(total);
      std::size_t bytes;
      if (!bytes_of(column.values.derived ? num_finals_ : count_, column.values.row_bytes, bytes) ||
          bytes > most_bytes - total)
        return false;
      total += bytes;
    }
    bytes_.reset(new std::uint8_t[total]);
    for (std::size_t c = 0; c < columns_.size(); ++c) {
      std::uint8_t *out = bytes_.get() + begins_[c];
      if (!columns_[c].values.derived) {
        if (!read_column(segment_, columns_[c], first_, count_, out)) return false;
      } else if (num_finals_ && !read_finals(segment_, columns_[c], final_first_, num_finals_, out)) {
        return false;
      }
    }
    return std::all_of(commits.begin(), commits.end(),
                       [&](const Commit &commit) { return hash(commit) == commit.hash; });
  }

  bool rows(std::size_t column, std::int64_t first, std::int64_t count, std::uint8_t *out) const {
    return copy(column, first - first_, count, count_, out);
  }
  bool finals(std::size_t column, std::int64_t first, std::int64_t count, std::uint8_t *out) const {
    return copy(column, first - final_first_, count, num_finals_, out);
  }

private:
  bool copy(std::size_t column, std::int64_t at, std::int64_t count, std::int64_t there, std::uint8_t *out) const {
    if (at < 0 || count < 0 || at > there - count) return false;
    std::memcpy(out, place(column, at), static_cast<std::size_t>(count) * columns_[column].values.row_bytes);
    return true;
  }

  const std::uint8_t *place(std::size_t column, std::int64_t at) const {
    return bytes_.get() + begins_[column] + static_cast<std::size_t>(at) * columns_[column].values.row_bytes;
  }

  std::uint64_t hash(const Commit &commit) const {
    Xxh3 all;
    for (std::size_t c = 0; c < columns_.size(); ++c) {
      const RowPlaces::Column &column = columns_[c].values;
      const std::int64_t at = column.derived ? commit.final_first - final_first_ : commit.first - first_;
      const std::int64_t count = column.derived ? commit.final_stop - commit.final_first : commit.stop - commit.first;
      Xxh3 part;
      part.update(place(c, at), static_cast<std::size_t>(count) * column.row_bytes);
      const std::uint64_t digest = __builtin_bswap64(part.digest());  // canonical, the highest byte first
      all.update(reinterpret_cast<const std::uint8_t *>(&digest), sizeof digest);
    }
    return all.digest();
  }

  const SealedSegment &segment_;
  const std::vector<SealedColumn> &columns_;
  std::int64_t first_ = 0, count_ = 0, final_first_ = 0, num_finals_ = 0;
  std::vector<std::size_t> begins_;  // of each column in the bytes
  std::unique_ptr<std::uint8_t[]> bytes_;
};

// Copies the `chosen` columns of rows to `out`, one buffer each. Unknown next values are zero.
template <class Source>
bool copy(const Source &source, const std::vector<SealedColumn> &columns, const FewRows &rows,
          const std::vector<std::size_t> &chosen, const std::vector<std::uint8_t *> &out) {
  std::vector<std::uint8_t> finals;
  const std::int64_t num_finals = rows.num_finals();
  for (std::size_t k = 0; k < chosen.size(); ++k) {
    const RowPlaces::Column &column = columns[chosen[k]].values;
    if (!column.derived) {
      if (!source.rows(chosen[k], rows.low, rows.count(), out[k])) return false;
      continue;
    }
    const std::size_t bytes = column.row_bytes;
    const std::int64_t following = rows.count() - 1 + rows.behind;
    if (following > 0 && !source.rows(column.of, rows.low + 1, following, out[k])) return false;
    if (!rows.behind) std::memset(out[k] + static_cast<std::size_t>(rows.count() - 1) * bytes, 0, bytes);
    finals.resize(static_cast<std::size_t>(num_finals) * bytes);
    if (num_finals && !source.finals(chosen[k], rows.final_first, num_finals, finals.data())) return false;
    const std::uint8_t *final = finals.data();
    for (std::size_t e = 0; e < rows.ends.size(); ++e) {
      std::uint8_t *target = out[k] + static_cast<std::size_t>(rows.ends[e] - rows.low) * bytes;
      if (rows.has_final[e])
        std::memcpy(target, final, bytes), final += bytes;
      else
        std::memset(target, 0, bytes);
    }
  }
  return true;
}

}  // namespace sealed

// Copies the `chosen` columns of `rows` to `out`, one buffer each; with a `journal` they are compared with the commits
// that brought them. False where something is not as it must be, or it would take more than `most_bytes`: nothing is
// said of what is in `out` then. Precondition: low < high, high + behind <= segment.rows, ends within [low, high).
inline bool read_sealed(const SealedSegment &segment, const std::vector<SealedColumn> &columns, const FewRows &rows,
                        const std::vector<std::size_t> &chosen, const std::vector<std::uint8_t *> &out,
                        const std::uint8_t *journal, std::size_t journal_bytes, std::size_t most_bytes) {
  if (journal == nullptr) return sealed::copy(sealed::Plain(segment, columns), columns, rows, chosen, out);
  sealed::Proven proven(segment, columns);
  return proven.read(journal, journal_bytes, rows.low, rows.high + rows.behind, most_bytes) &&
         sealed::copy(proven, columns, rows, chosen, out);
}

}  // namespace rl
