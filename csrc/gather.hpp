// Random rows out of columns that lie in pieces of memory, and the next row's values beside them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <shared_mutex>
#include <stdexcept>
#include <vector>

namespace rl {

using Address = const std::uint8_t *;

// Where the rows of a dataset are. Rows of one stream lie in pieces (runs of rows that are contiguous in
// every column); logical rows number all streams' rows, stream after stream. Reading and changing the table may
// happen in different threads.
class RowTable {
public:
  // Returns the number of the new stored column.
  std::size_t add_plain(std::size_t row_bytes) {
    columns_.push_back({row_bytes, false, 0, 0});
    return columns_.size() - 1;
  }

  // Returns the number of the new column whose row i is row i + 1 of `of`.
  std::size_t add_shift(std::size_t of) {
    if (of >= columns_.size() || columns_[of].derived) throw std::invalid_argument("not a stored column");
    columns_.push_back({columns_[of].row_bytes, true, of, num_derived_++});
    return columns_.size() - 1;
  }

  std::size_t num_columns() const noexcept { return columns_.size(); }
  std::size_t row_bytes(std::size_t column) const { return columns_.at(column).row_bytes; }

  void add_stream() {
    std::unique_lock lock(mutex_);
    streams_.emplace_back();
    streams_.back().finals.resize(num_derived_);
    renumber();
  }

  // Adds rows [first, …) of a stream, one base address per column (derived ones are ignored). It reaches to the
  // first row of the stream's next piece, or to its end.
  void add_piece(std::size_t stream, std::int64_t first, std::vector<Address> bases) {
    std::unique_lock lock(mutex_);
    auto &pieces = streams_.at(stream).pieces;
    if (bases.size() != columns_.size()) throw std::invalid_argument("one address per column");
    if (pieces.empty() ? first != 0 : first <= pieces.back().first) throw std::invalid_argument("pieces must ascend");
    pieces.push_back({first, std::move(bases)});
    renumber();
  }

  // Rows [0, rows) of a stream are committed, never fewer than before, and the rows `ends` are the last ones of
  // further episodes; finals[k] is the address of each derived column's final value at ends[k], null where unknown.
  void advance(std::size_t stream, std::int64_t rows, const std::vector<std::int64_t> &ends,
               const std::vector<std::vector<Address>> &finals) {
    std::unique_lock lock(mutex_);
    Stream &s = streams_.at(stream);
    if (rows < s.rows || (rows > 0 && s.pieces.empty())) throw std::invalid_argument("rows cannot shrink");
    if (ends.size() != finals.size()) throw std::invalid_argument("finals of every end");
    std::int64_t before = s.ends.empty() ? -1 : s.ends.back();
    for (std::size_t k = 0; k < ends.size(); before = ends[k++])
      if (ends[k] <= before || ends[k] >= rows || finals[k].size() != num_derived_)
        throw std::invalid_argument("episode ends must ascend within the rows");
    s.rows = rows;
    s.is_end.resize(static_cast<std::size_t>((rows + 63) / 64), 0);
    for (std::size_t k = 0; k < ends.size(); ++k) {
      s.is_end[static_cast<std::size_t>(ends[k] / 64)] |= std::uint64_t{1} << (ends[k] % 64);
      s.ends.push_back(ends[k]);
      for (std::size_t d = 0; d < num_derived_; ++d)
        s.finals[d].push_back(finals[k][d]);
    }
    renumber();
  }

  std::int64_t num_rows() const {
    std::shared_lock lock(mutex_);
    return total_;
  }

  // Copies the columns at `rows` to `out`, one buffer of count * row_bytes per column. Unknown next values are zero.
  // Returns false, with nothing copied, if a row is outside [0, num_rows()).
  bool gather(const std::int64_t *rows, std::size_t count, const std::vector<std::size_t> &columns,
              const std::vector<std::uint8_t *> &out) const {
    std::shared_lock lock(mutex_);
    std::vector<Place> places(count);
    bool shifted = false;
    for (std::size_t column : columns)
      shifted |= columns_[column].derived;
    for (std::size_t i = 0; i < count; ++i) {
      if (rows[i] < 0 || rows[i] >= total_) return false;
      places[i] = locate(rows[i]);
    }
    std::vector<Successor> next;
    if (shifted) {
      next.reserve(count);
      for (const Place &place : places)
        next.push_back(successor(place));
    }
    std::vector<Address> source(count);
    for (std::size_t k = 0; k < columns.size(); ++k) {
      const Column &column = columns_[columns[k]];
      if (column.derived) {
        for (std::size_t i = 0; i < count; ++i)
          source[i] = address_of(next[i], column);
      } else {
        for (std::size_t i = 0; i < count; ++i)
          source[i] = all_[places[i].piece].bases[columns[k]] + offset(places[i].row, column);
      }
      copy(source.data(), count, column.row_bytes, out[k]);
    }
    return true;
  }

private:
  struct Column {
    std::size_t row_bytes;
    bool derived;
    std::size_t of;     // column number, for derived ones
    std::size_t order;  // which derived column
  };
  struct Piece {
    std::int64_t first;
    std::vector<Address> bases;
  };
  struct Stream {
    std::int64_t rows = 0;
    std::vector<Piece> pieces;
    std::vector<std::uint64_t> is_end;         // one bit per row: it ends an episode
    std::vector<std::int64_t> ends;            // those rows, ascending
    std::vector<std::vector<Address>> finals;  // [derived column][end]
  };
  struct Span {  // a piece seen in logical order
    std::size_t stream;
    std::int64_t first;  // row in the stream
    const Address *bases;
  };
  struct Place {
    std::size_t piece;  // in all_
    std::int64_t row;   // in the piece
  };
  struct Successor {
    Place place;
    const Stream *stream = nullptr;  // set if the row ends an episode: take end number `end`
    std::size_t end = 0;
    bool known = false;
  };

  static std::size_t offset(std::int64_t row, const Column &column) {
    return static_cast<std::size_t>(row) * column.row_bytes;
  }

  void renumber() {
    starts_.clear();
    all_.clear();
    total_ = 0;
    for (std::size_t s = 0; s < streams_.size(); ++s) {
      for (const Piece &piece : streams_[s].pieces) {
        if (piece.first >= streams_[s].rows) break;
        starts_.push_back(total_ + piece.first);
        all_.push_back({s, piece.first, piece.bases.data()});
      }
      total_ += streams_[s].rows;
    }
  }

  Place locate(std::int64_t row) const {
    std::size_t piece = 0;
    if (starts_.size() > 1)
      piece = static_cast<std::size_t>(std::upper_bound(starts_.begin(), starts_.end(), row) - starts_.begin()) - 1;
    return {piece, row - starts_[piece]};
  }

  Successor successor(const Place &place) const {
    const Span &span = all_[place.piece];
    const Stream &stream = streams_[span.stream];
    const std::int64_t row = span.first + place.row;
    Successor found;
    if (stream.is_end[static_cast<std::size_t>(row / 64)] >> (row % 64) & 1) {
      found.stream = &stream;
      found.end =
          static_cast<std::size_t>(std::lower_bound(stream.ends.begin(), stream.ends.end(), row) - stream.ends.begin());
      return found;
    }
    if (row + 1 >= stream.rows) return found;
    found.known = true;
    const bool last = place.piece + 1 < all_.size() && all_[place.piece + 1].stream == span.stream &&
                      all_[place.piece + 1].first == row + 1;
    found.place = last ? Place{place.piece + 1, 0} : Place{place.piece, place.row + 1};
    return found;
  }

  Address address_of(const Successor &next, const Column &column) const {
    if (next.stream != nullptr) return next.stream->finals[column.order][next.end];
    if (!next.known) return nullptr;
    return all_[next.place.piece].bases[column.of] + offset(next.place.row, column);
  }

  template <std::size_t Bytes> static void copy_fixed(const Address *source, std::size_t count, std::uint8_t *out) {
    for (std::size_t i = 0; i < count; ++i, out += Bytes) {
      if (i + kAhead < count) prefetch(source[i + kAhead]);
      if (source[i] != nullptr)
        std::memcpy(out, source[i], Bytes);
      else
        std::memset(out, 0, Bytes);
    }
  }

  static void copy(const Address *source, std::size_t count, std::size_t bytes, std::uint8_t *out) {
    switch (bytes) {
    case 1:
      return copy_fixed<1>(source, count, out);
    case 2:
      return copy_fixed<2>(source, count, out);
    case 4:
      return copy_fixed<4>(source, count, out);
    case 8:
      return copy_fixed<8>(source, count, out);
    case 16:
      return copy_fixed<16>(source, count, out);
    default:
      break;
    }
    const std::size_t touched = std::min<std::size_t>(bytes, 256);  // the hardware goes on by itself after that
    for (std::size_t i = 0; i < count; ++i, out += bytes) {
      if (i + kAhead < count && source[i + kAhead] != nullptr)
        for (std::size_t line = 0; line < touched; line += 64)
          prefetch(source[i + kAhead] + line);
      if (source[i] != nullptr)
        std::memcpy(out, source[i], bytes);
      else
        std::memset(out, 0, bytes);
    }
  }

  static void prefetch(Address address) noexcept { __builtin_prefetch(address, 0, 0); }

  static constexpr std::size_t kAhead = 12;

  mutable std::shared_mutex mutex_;
  std::vector<Column> columns_;
  std::size_t num_derived_ = 0;
  std::vector<Stream> streams_;
  std::vector<std::int64_t> starts_;  // logical first row of each span
  std::vector<Span> all_;
  std::int64_t total_ = 0;
};

}  // namespace rl
