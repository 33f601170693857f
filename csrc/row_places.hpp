// Where the rows of a dataset are in memory.
#pragma once

#include "row_streams.hpp"

#include <deque>
#include <limits>
#include <mutex>
#include <shared_mutex>

namespace rl {

// Rows of a stream lie in segments; logical rows number the retained rows of all streams, stream after stream.
// Segments may be listed before their files are mapped: what is read must be filled in first. Reading and
// changing may happen in different threads.
class RowPlaces {
public:
  struct Column {
    std::size_t row_bytes;
    bool derived;
    std::size_t of;     // column number, for derived ones
    std::size_t order;  // which derived column
  };

  // Returns the number of the new stored column. Columns come before streams.
  std::size_t add_plain(std::size_t row_bytes) {
    if (row_bytes < 1) throw std::invalid_argument("a row of a column has no bytes");
    return add({row_bytes, false, 0, 0});
  }

  // Returns the number of the new column whose row i is row i + 1 of `of`.
  std::size_t add_shift(std::size_t of) {
    if (of >= columns_.size() || columns_[of].derived) throw std::invalid_argument("not a stored column");
    const std::size_t column = add({columns_[of].row_bytes, true, of, num_derived_});
    ++num_derived_;
    return column;
  }

  std::size_t num_columns() const noexcept { return columns_.size(); }
  const Column &column(std::size_t number) const { return columns_.at(number); }

  void add_stream(std::int64_t start) {
    std::unique_lock lock(mutex_);
    if (start < 0 || start > kRows) throw std::invalid_argument("rows begin at 0 and end at 2^40");
    streams_.emplace_back();
    streams_.back().start = streams_.back().rows = start;
    renumber();
  }

  struct Listed {
    std::int64_t first, rows;
    std::int64_t room;  // rows that its memory holds
    std::vector<Address> bases;
  };

  // Lists segments behind the stream's others: stream rows [first, first + rows), one base address per column
  // (null for derived ones). They cannot be read before `fill`.
  void add_segments(std::size_t stream, std::vector<Listed> listed) {
    std::unique_lock lock(mutex_);
    Stream &s = streams_.at(stream);
    std::int64_t end = s.segments.empty() ? -1 : s.rows;
    for (const Listed &segment : listed) {
      check_memory(segment);
      if (segment.rows < 0 || segment.rows > segment.room || segment.first < 0 ||
          (end < 0 ? segment.first > s.start : segment.first != end))
        throw std::invalid_argument("segments must join");
      end = segment.first + segment.rows;
    }
    for (Listed &segment : listed)
      s.segments.emplace_back(segment.first, segment.rows, segment.room, std::move(segment.bases));
    s.untouched += listed.size();
    s.rows = std::max(s.rows, end);
    join(s);
    renumber();
  }

  // The segment that begins at `first` has `rows` rows, never fewer than before, and may be read. The rows `ends`
  // are the last ones of further episodes in it. Those with `has_final` own the next rows of the finals, which begin
  // at `final_bases`, one address per derived column.
  void fill(std::size_t stream, std::int64_t first, std::int64_t rows, const std::int64_t *ends,
            const std::uint8_t *has_final, std::size_t count, std::vector<Address> final_bases) {
    std::unique_lock lock(mutex_);
    Stream &s = streams_.at(stream);
    Segment &segment = s.at(first);
    if (rows < segment.rows || (rows > segment.rows && &segment != &s.segments.back()))
      throw std::invalid_argument("rows cannot shrink, and only the last segment grows");
    if (rows > segment.room) throw std::invalid_argument("more rows than there is room for");
    if (!final_bases.empty() && final_bases.size() != num_derived_)
      throw std::invalid_argument("finals of every derived column");
    if (final_bases.empty()) final_bases = segment.final_bases;
    const bool has_finals = num_derived_ == 0 || (!final_bases.empty() && !has_null(final_bases));
    std::int64_t before = segment.ends.empty() ? first - 1 : segment.ends.back();
    for (std::size_t k = 0; k < count; before = ends[k++])
      if (ends[k] <= before || ends[k] >= first + rows || (has_final[k] && !has_finals))
        throw std::invalid_argument("episode ends must ascend within the segment, and finals must be there");
    for (std::size_t k = 0; k < count; ++k)
      segment.add_end(ends[k], has_final[k] != 0), s.ends.set(ends[k]);
    segment.final_bases = std::move(final_bases);
    s.untouched -= !segment.touched;
    segment.touched = true;
    const bool grows = rows != segment.rows;
    segment.rows = rows;
    s.rows = s.segments.back().first + s.segments.back().rows;
    if (grows) renumber();
  }

  // Rows before `start` leave the stream; segments that lie wholly before it are forgotten, and nobody reads
  // them when this returns. Never fewer have left than before.
  void evict(std::size_t stream, std::int64_t start) {
    std::unique_lock lock(mutex_);
    Stream &s = streams_.at(stream);
    if (start < s.start || start > s.rows) throw std::invalid_argument("a window only moves forward");
    s.start = start;
    std::size_t gone = 0;
    while (gone + 1 < s.segments.size() && s.segments[gone + 1].first <= start)
      s.untouched -= !s.segments[gone++].touched;
    if (gone) {
      s.segments.erase(s.segments.begin(), s.segments.begin() + static_cast<std::ptrdiff_t>(gone));
      s.ends.drop_before(s.segments.front().first);
      join(s);
    }
    renumber();
  }

  // Forgets the last segment of a stream, which has no rows: it never got any.
  void drop_empty(std::size_t stream) {
    std::unique_lock lock(mutex_);
    Stream &s = streams_.at(stream);
    if (s.segments.empty() || s.segments.back().rows != 0) throw std::invalid_argument("the last segment has rows");
    s.untouched -= !s.segments.back().touched;
    s.segments.pop_back();
    join(s);
    renumber();
  }

  std::int64_t num_rows() const {
    std::shared_lock lock(mutex_);
    return total_;
  }

  // The logical rows of identities, stream << 40 | row of the stream; -1 for those that are not there.
  void rows_of(const std::int64_t *ids, std::size_t count, std::int64_t *rows) const {
    std::shared_lock lock(mutex_);
    for (std::size_t i = 0; i < count; ++i) {
      const std::int64_t stream = ids[i] >> 40, row = ids[i] & ((std::int64_t{1} << 40) - 1);
      rows[i] = -1;
      if (ids[i] < 0 || static_cast<std::size_t>(stream) >= streams_.size()) continue;
      const Stream &s = streams_[static_cast<std::size_t>(stream)];
      if (row >= s.start && row < s.rows) rows[i] = s.logical + row - s.start;
    }
  }

protected:
  struct Span {  // retained rows that lie side by side, in logical order
    const Stream *stream;
    std::int64_t first;  // row in the stream, where the bases point
    std::int64_t end;
    std::int64_t skipped;  // rows at its beginning that have left the window
    const Address *bases;
  };
  struct Place {
    std::size_t span;
    std::int64_t row;  // in the span
  };

  static constexpr std::int64_t kRows = std::int64_t{1} << 40;  // of a stream, at most

  std::size_t add(const Column &column) {
    if (!streams_.empty()) throw std::invalid_argument("columns come before streams");
    columns_.push_back(column);
    return columns_.size() - 1;
  }

  static bool has_null(const std::vector<Address> &bases) {
    return std::find(bases.begin(), bases.end(), nullptr) != bases.end();
  }

  // Throws if a segment's rows are not within those of a stream, or their memory is not within the addresses there are.
  void check_memory(const Listed &segment) const {
    if (segment.bases.size() != columns_.size()) throw std::invalid_argument("one address per column");
    if (segment.first < 0 || segment.first > kRows || segment.room < 0 || segment.room > kRows - segment.first)
      throw std::invalid_argument("rows begin at 0 and end at 2^40");
    for (std::size_t c = 0; c < columns_.size(); ++c) {
      if (columns_[c].derived) continue;
      const auto base = reinterpret_cast<std::uintptr_t>(segment.bases[c]);
      const auto room = static_cast<std::uintptr_t>(segment.room);
      if (base == 0 || room > (std::numeric_limits<std::uintptr_t>::max() - base) / columns_[c].row_bytes)
        throw std::invalid_argument("a column is nowhere in memory");
    }
  }

  static std::size_t offset(std::int64_t row, const Column &column) {
    return static_cast<std::size_t>(row) * column.row_bytes;
  }

  // Finds which segments of a stream follow each other in memory, in every column.
  void join(Stream &s) const {
    s.runs.clear();
    for (std::size_t k = 0; k < s.segments.size(); ++k) {
      const Segment &segment = s.segments[k];
      bool follows = !s.runs.empty();
      for (std::size_t c = 0; follows && c < columns_.size(); ++c) {
        const Segment &run = s.segments[s.runs.back()];
        follows =
            columns_[c].derived || segment.bases[c] == run.bases[c] + offset(segment.first - run.first, columns_[c]);
      }
      if (!follows) s.runs.push_back(k);
    }
  }

  void renumber() {
    starts_.clear();
    spans_.clear();
    total_ = 0;
    for (Stream &s : streams_) {
      s.logical = total_;
      for (std::size_t k = 0; k < s.runs.size(); ++k) {
        const Segment &segment = s.segments[s.runs[k]];
        const std::int64_t visible = std::max(segment.first, s.start);
        const std::int64_t end = k + 1 < s.runs.size() ? s.segments[s.runs[k + 1]].first : s.rows;
        starts_.push_back(total_ + visible - s.start);
        spans_.push_back({&s, segment.first, end, visible - segment.first, segment.bases.data()});
      }
      total_ += s.rows - s.start;
    }
  }

  Place locate(std::int64_t row) const {
    std::size_t span = 0;
    if (starts_.size() > 1)
      span = static_cast<std::size_t>(std::upper_bound(starts_.begin(), starts_.end(), row) - starts_.begin()) - 1;
    return {span, row - starts_[span] + spans_[span].skipped};
  }

  bool is_touched(const Place &place) const {
    const Span &span = spans_[place.span];
    return span.stream->untouched == 0 || span.stream->segment_of(span.first + place.row).touched;
  }

  mutable std::shared_mutex mutex_;
  std::vector<Column> columns_;
  std::size_t num_derived_ = 0;
  std::deque<Stream> streams_;        // spans point to them
  std::vector<std::int64_t> starts_;  // first logical row of each span
  std::vector<Span> spans_;
  std::int64_t total_ = 0;
};

}  // namespace rl
