// Where the rows of a dataset are in memory, and their values: runs of rows, or rows at random.
#pragma once

#include "pool.hpp"
#include "row_streams.hpp"
#include "scattered.hpp"

#include <limits>
#include <mutex>
#include <shared_mutex>

namespace rl {

enum class Outcome { done, outside, untouched };

// Rows of a stream lie in segments; logical rows number the retained rows of all streams, stream after stream.
// Segments may be listed before their files are mapped: what is read must be filled in first. Reading and
// changing may happen in different threads.
class RowMap {
public:
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
  std::size_t row_bytes(std::size_t column) const { return columns_.at(column).row_bytes; }

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

  // Copies the columns at `rows` to `out`, one buffer of count * row_bytes per column. Unknown next values are zero.
  // Nothing is copied, if a row is outside [0, num_rows()) or was not touched. A pool shares large copies.
  Outcome gather(const std::int64_t *rows, std::size_t count, const std::vector<std::size_t> &columns,
                 const std::vector<std::uint8_t *> &out, Pool *pool = nullptr) const {
    std::shared_lock lock(mutex_);
    bool shifted = false;
    std::size_t bytes = 0;
    for (std::size_t column : columns) {
      shifted |= columns_[column].derived;
      bytes += columns_[column].row_bytes;
    }
    std::vector<Place> here(count), next(shifted ? count : 0);
    std::vector<Exception> exceptions;
    for (std::size_t i = 0; i < count; ++i) {
      if (rows[i] < 0 || rows[i] >= total_) return Outcome::outside;
      here[i] = locate(rows[i]);
      if (!is_touched(here[i])) return Outcome::untouched;
    }
    for (std::size_t i = 0; i < next.size(); ++i) {
      next[i] = successor(here[i], i, exceptions);
      if (!is_touched(next[i])) return Outcome::untouched;
    }
    const auto part = [&](std::size_t begin, std::size_t end) {
      for (std::size_t k = 0; k < columns.size(); ++k) {
        const Column &column = columns_[columns[k]];
        copy_places((column.derived ? next : here).data(), column.derived ? column.of : columns[k], begin, end, out[k]);
      }
    };
    if (pool != nullptr && count * bytes >= kWorthThreads)
      pool->run(count, part);
    else
      part(0, count);
    for (std::size_t k = 0; k < columns.size(); ++k) {
      const Column &column = columns_[columns[k]];
      for (std::size_t e = 0; column.derived && e < exceptions.size(); ++e)
        copy_or_zero(exceptions[e].final_at(column.order, column.row_bytes), column.row_bytes,
                     out[k] + exceptions[e].position * column.row_bytes);
    }
    return Outcome::done;
  }

  // Below this many bytes a second thread costs more than it brings.
  static constexpr std::size_t kWorthThreads = std::size_t{1} << 20;

  // Copies the columns of logical rows [start, stop), like `gather` of them all.
  Outcome read(std::int64_t start, std::int64_t stop, const std::vector<std::size_t> &columns,
               const std::vector<std::uint8_t *> &out) const {
    std::shared_lock lock(mutex_);
    if (start < 0 || stop < start || stop > total_) return Outcome::outside;
    for (const bool copying : {false, true}) {
      std::int64_t before = 0;  // logical rows of the streams before
      for (const Stream &s : streams_) {
        const std::int64_t low = std::max(start - before, std::int64_t{0}) + s.start;
        const std::int64_t high = std::min(stop - before + s.start, s.rows);
        if (low < high) {
          if (copying)
            read_stream(s, low, high, columns, out, low - s.start + before - start);
          else if (!s.is_touched(low, high + (needs_next(s, high, columns) ? 1 : 0)))
            return Outcome::untouched;
        }
        before += s.rows - s.start;
      }
    }
    return Outcome::done;
  }

  struct Stacked {
    std::size_t column, frames;
  };

  // Copies for each of `rows` and each column the last `frames` values of the episode, oldest first, to `out`: one
  // buffer of count * frames * row_bytes per column. What would lie before the episode's first value, or has left the
  // window, is the first one again. Of a shifted column the newest value is the row's next one, as in `gather`.
  Outcome stacks(const std::int64_t *rows, std::size_t count, const std::vector<Stacked> &columns,
                 const std::vector<std::uint8_t *> &out, Pool *pool = nullptr) const {
    std::shared_lock lock(mutex_);
    std::size_t most = 0, bytes = 0;
    bool shifted = false;
    for (const Stacked &stacked : columns) {
      most = std::max(most, stacked.frames);
      bytes += stacked.frames * columns_[stacked.column].row_bytes;
      shifted |= columns_[stacked.column].derived;
    }
    std::vector<Window> windows(count);
    for (std::size_t i = 0; i < count; ++i) {
      if (rows[i] < 0 || rows[i] >= total_) return Outcome::outside;
      const Place place = locate(rows[i]);
      const Span &span = spans_[place.span];
      const Stream &s = *span.stream;
      const std::int64_t row = span.first + place.row;
      if (!s.is_touched(row, row + 1)) return Outcome::untouched;
      const bool goes_on = row + 1 < s.rows && !s.ends.contains(row);
      windows[i] = {&span, s.back(row, static_cast<std::int64_t>(most)), row, goes_on};
      if (!s.is_touched(windows[i].first, row + 1 + (shifted && goes_on))) return Outcome::untouched;
    }
    const auto part = [&](std::size_t begin, std::size_t end) {
      for (std::size_t i = begin; i < end; ++i)
        for (std::size_t k = 0; k < columns.size(); ++k)
          copy_stack(windows[i], columns[k], out[k] + i * columns[k].frames * columns_[columns[k].column].row_bytes);
    };
    if (pool != nullptr && count * bytes >= kWorthThreads)
      pool->run(count, part);
    else
      part(0, count);
    return Outcome::done;
  }

  struct Run {
    std::int64_t start, count;  // logical rows
    std::int64_t at;            // row of `out` where it goes
  };

  // Copies runs of rows, none across two streams, side by side into buffers. Rows of the buffers that no run covers are
  // left as they are. Next values as in `gather`.
  Outcome read_runs(const std::vector<Run> &runs, const std::vector<std::size_t> &columns,
                    const std::vector<std::uint8_t *> &out) const {
    std::shared_lock lock(mutex_);
    std::vector<Slice> slices;
    slices.reserve(runs.size());
    for (const Run &run : runs) {
      if (run.count < 0 || run.start < 0 || run.start > total_ - run.count) return Outcome::outside;
      if (run.count == 0) continue;
      std::int64_t low = run.start;
      const Stream *stream = nullptr;
      for (const Stream &s : streams_) {
        stream = &s;
        if (low < s.rows - s.start) break;
        low -= s.rows - s.start;
      }
      low += stream->start;
      const std::int64_t high = low + run.count;
      if (high > stream->rows) return Outcome::outside;
      if (!stream->is_touched(low, high + needs_next(*stream, high, columns))) return Outcome::untouched;
      slices.push_back({stream, low, high, run.at});
    }
    for (const Slice &slice : slices) {
      const Segment &segment = slice.stream->segment_of(slice.low);
      for (std::size_t column : columns)
        if (!columns_[column].derived)
          scattered::prefetch(segment.bases[column] + offset(slice.low - segment.first, columns_[column]));
    }
    for (const Slice &slice : slices)
      read_stream(*slice.stream, slice.low, slice.high, columns, out, slice.at);
    return Outcome::done;
  }

private:
  struct Column {
    std::size_t row_bytes;
    bool derived;
    std::size_t of;     // column number, for derived ones
    std::size_t order;  // which derived column
  };
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
  struct Slice {  // a run in its stream
    const Stream *stream;
    std::int64_t low, high, at;
  };
  struct Exception {  // a row whose next value is a final one, or unknown
    std::size_t position;
    const Segment *segment;  // of the episode's end; null if unknown
    std::size_t end;
    Address final_at(std::size_t order, std::size_t row_bytes) const {
      return segment == nullptr ? nullptr : segment->final_at(end, order, row_bytes);
    }
  };

  struct Window {      // rows [first, row] of a stream, of one episode
    const Span *span;  // of `row`
    std::int64_t first, row;
    bool goes_on;  // in the row after
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

  // Where the row after a place is. Where that is no part of the episode: the place itself, and an exception.
  Place successor(const Place &place, std::size_t position, std::vector<Exception> &exceptions) const {
    const Span &span = spans_[place.span];
    const Stream &stream = *span.stream;
    const std::int64_t row = span.first + place.row;
    if (stream.ends.contains(row)) {
      const Segment &segment = stream.segment_of(row);
      exceptions.push_back({position, &segment, segment.end_at(row)});
      return place;
    }
    if (row + 1 >= stream.rows) {
      exceptions.push_back({position, nullptr, 0});
      return place;
    }
    return row + 1 == span.end ? Place{place.span + 1, 0} : Place{place.span, place.row + 1};
  }

  void copy_places(const Place *places, std::size_t number, std::size_t begin, std::size_t end,
                   std::uint8_t *out) const {
    if (begin == end) return;
    const std::size_t bytes = columns_[number].row_bytes;
    if (spans_.size() == 1) {
      const Address base = spans_[0].bases[number];
      const auto source = [=](std::size_t i) { return base + static_cast<std::size_t>(places[i].row) * bytes; };
      copy_scattered(source, begin, end, bytes, out);
    } else {
      const auto source = [&](std::size_t i) {
        return spans_[places[i].span].bases[number] + static_cast<std::size_t>(places[i].row) * bytes;
      };
      copy_scattered(source, begin, end, bytes, out);
    }
  }

  void copy_stack(const Window &window, const Stacked &stacked, std::uint8_t *out) const {
    const Column &column = columns_[stacked.column];
    const std::size_t number = column.derived ? column.of : stacked.column, bytes = column.row_bytes;
    const auto frames = static_cast<std::int64_t>(stacked.frames);
    const bool is_cut = column.derived && !window.goes_on;  // its newest frame is a final value, or unknown
    const std::int64_t stop = window.row + 1 + (column.derived && window.goes_on);
    const std::int64_t first = std::max(window.first, window.row + 1 + column.derived - frames);
    const std::int64_t repeats = frames - (stop - first) - is_cut;
    const Span &span = *window.span;
    std::uint8_t *target = out + offset(repeats, column);
    if (first >= span.first && stop <= span.end)
      scattered::copy_long(target, span.bases[number] + offset(first - span.first, column),
                           offset(stop - first, column));
    else
      copy_run(*span.stream, first, stop, number, target);
    for (std::int64_t k = 0; k < repeats; ++k)
      std::memcpy(out + offset(k, column), target, bytes);
    if (!is_cut) return;
    Address final = nullptr;
    if (span.stream->ends.contains(window.row)) {
      const Segment &segment = span.stream->segment_of(window.row);
      final = segment.final_at(segment.end_at(window.row), column.order, bytes);
    }
    copy_or_zero(final, bytes, out + offset(frames - 1, column));
  }

  // Whether row `high` is needed for the next values of rows before it.
  bool needs_next(const Stream &s, std::int64_t high, const std::vector<std::size_t> &columns) const {
    if (high >= s.rows || s.ends.contains(high - 1)) return false;
    return std::any_of(columns.begin(), columns.end(), [&](std::size_t c) { return columns_[c].derived; });
  }

  void read_stream(const Stream &s, std::int64_t low, std::int64_t high, const std::vector<std::size_t> &columns,
                   const std::vector<std::uint8_t *> &out, std::int64_t at) const {
    for (std::size_t k = 0; k < columns.size(); ++k) {
      const Column &column = columns_[columns[k]];
      std::uint8_t *target = out[k] + offset(at, column);
      if (!column.derived) {
        copy_run(s, low, high, columns[k], target);
        continue;
      }
      const bool more = high < s.rows && !s.ends.contains(high - 1);
      copy_run(s, low + 1, high + more, column.of, target);
      if (!more) std::memset(target + offset(high - 1 - low, column), 0, column.row_bytes);
      s.each_segment(low, high, [&](const Segment &segment) {
        auto end = std::lower_bound(segment.ends.begin(), segment.ends.end(), low);
        for (; end != segment.ends.end() && *end < high; ++end) {
          const auto which = static_cast<std::size_t>(end - segment.ends.begin());
          const Address final = segment.final_at(which, column.order, column.row_bytes);
          copy_or_zero(final, column.row_bytes, target + offset(*end - low, column));
        }
      });
    }
  }

  void copy_run(const Stream &s, std::int64_t low, std::int64_t high, std::size_t number, std::uint8_t *out) const {
    const Column &column = columns_[number];
    s.each_segment(low, high, [&](const Segment &segment) {
      const std::int64_t from = std::max(low, segment.first), to = std::min(high, segment.first + segment.rows);
      std::memcpy(out + offset(from - low, column), segment.bases[number] + offset(from - segment.first, column),
                  offset(to - from, column));
    });
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
