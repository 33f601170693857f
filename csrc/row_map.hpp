// The values of a dataset's rows: runs of rows, or rows at random.
#pragma once

#include "pool.hpp"
#include "row_places.hpp"
#include "scattered.hpp"

namespace rl {

enum class Outcome { done, outside, untouched };

// What is read must be filled in first; else nothing is copied.
class RowMap : public RowPlaces {
public:
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
};

}  // namespace rl
