// The blocks that HDF5 files of the library's oldest and usual format are made of: object headers of version 1 with
// their messages, B-trees of version 1, local heaps of names. What they mean is in `hdf5_objects.hpp` (HDF5 File Format
// Specification, version 3, section III).
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "read_all.hpp"
#include "span.hpp"

namespace rl::hdf5 {

struct NotPlain {};  // thrown: leave it to the library

using Bytes = std::vector<std::uint8_t>;
using Numbers = std::vector<std::uint64_t>;

constexpr std::uint64_t NOWHERE = ~std::uint64_t{0};
constexpr std::size_t MOST_HEADER = 1 << 20;  // bytes
constexpr int MOST_BLOCKS = 1 << 16;

inline void require(bool is_so) {
  if (!is_so) throw NotPlain{};
}

// Reads little-endian numbers forwards; what lies beyond the end is not plain.
class Cursor {
public:
  explicit Cursor(Span rest) : rest_(rest) {}
  std::uint64_t number(int bytes) {
    const Span data = take(static_cast<std::size_t>(bytes));
    std::uint64_t value = 0;
    for (int k = 0; k < bytes; ++k)
      value |= std::uint64_t{data.data[k]} << 8 * k;
    return value;
  }
  Span take(std::size_t size) {
    require(size <= rest_.size());
    const Span taken = {rest_.data, rest_.data + size};
    rest_.data += size;
    return taken;
  }
  std::size_t left() const { return rest_.size(); }

private:
  Span rest_;
};

inline Span span_of(const Bytes &bytes) { return {bytes.data(), bytes.data() + bytes.size()}; }

inline Bytes copy_of(Span span) { return Bytes(span.data, span.end); }

// An open file. `size` is what was there at first: nothing beyond is read.
struct File {
  int descriptor;
  std::uint64_t size;

  // Whether all of it was read.
  bool read(std::uint64_t offset, void *out, std::size_t bytes) const {
    return offset <= size && bytes <= size - offset && read_all(descriptor, out, bytes, offset);
  }
};

// A message of an object's header.
struct Message {
  unsigned type;
  Span data;
};

constexpr unsigned CONTINUED = 16;  // the type of a message that says where more of them are

// Reads blocks of a file.
class Blocks {
public:
  explicit Blocks(File file) : file_(file) {}

  // Of the file.
  std::uint64_t size() const { return file_.size; }

  // Some bytes. What is about them is read along: a group's headers are beside each other.
  Bytes bytes(std::uint64_t offset, std::uint64_t count) {
    require(count <= MOST_HEADER && offset <= file_.size && count <= file_.size - offset);
    if (count == 0) return {};
    if (offset < window_at_ || offset + count > window_at_ + window_.size()) {
      window_at_ = offset - offset % (WINDOW / 4);
      window_.resize(std::min(std::max(WINDOW, offset + count - window_at_), file_.size - window_at_));
      if (!file_.read(window_at_, window_.data(), window_.size())) window_.clear();
      require(!window_.empty());
    }
    const auto *begin = window_.data() + (offset - window_at_);
    return Bytes(begin, begin + count);
  }

  // What an object's header says, in `blocks`.
  std::vector<Message> header(std::uint64_t address, std::vector<Bytes> &blocks) {
    const Bytes prefix = bytes(address, 16);
    Cursor at(span_of(prefix));
    require(at.number(1) == 1);
    at.take(1);
    const auto count = at.number(2);
    at.take(4);
    struct Block {
      std::uint64_t offset, size;
    };
    std::vector<Block> ahead = {{address + 16, at.number(4)}};
    std::vector<Message> messages;
    blocks.reserve(64);
    std::uint64_t seen = 0;
    for (std::size_t n = 0; n < ahead.size(); ++n) {
      require(n < 64);
      blocks.push_back(bytes(ahead[n].offset, ahead[n].size));
      Cursor rest(span_of(blocks.back()));
      while (rest.left() > 0) {
        const auto type = static_cast<unsigned>(rest.number(2));
        const auto size = rest.number(2), flags = rest.number(1);
        rest.take(3);
        require(!(flags & 2));  // kept elsewhere, for several objects
        messages.push_back({type, rest.take(size)});
        ++seen;
        if (type != CONTINUED) continue;
        Cursor where(messages.back().data);
        const auto offset = where.number(8);
        ahead.push_back({offset, where.number(8)});
      }
    }
    require(seen == count);
    return messages;
  }

  // The names in a local heap, each of which a zero ends.
  Bytes names(std::uint64_t heap) {
    const Bytes head = bytes(heap, 32);
    Cursor at(span_of(head));
    require(at.number(4) == 0x50414548 && at.number(1) == 0);  // HEAP
    at.take(3);
    const auto size = at.number(8);
    at.take(8);
    return bytes(at.number(8), size);
  }

  // Calls `note(key, child)` for what hangs on the lowest level of a B-tree. Of chunks, `sizes` along each axis and of
  // a value, the library finds only those that lie between the keys about them on every level, `low` and `high`.
  template <typename Note>
  void leaves(std::uint64_t address, unsigned type, const Numbers &sizes, int level, const Note &note,
              const Numbers &low = {}, const Numbers &high = {}) {
    require(++blocks_ <= MOST_BLOCKS);
    const Bytes head = bytes(address, 24);
    Cursor at(span_of(head));
    require(at.number(4) == 0x45455254 && at.number(1) == type);  // TREE
    const int here = static_cast<int>(at.number(1));
    require(level < 0 || here == level);
    const auto count = at.number(2);
    const std::size_t key = type == 0 ? 8 : 8 + 8 * sizes.size();
    const Bytes entries = bytes(address + 24, count * (key + 8) + key);
    Cursor entry(span_of(entries));
    Span told = entry.take(key);
    Numbers first = numbers_of(told, sizes), after;
    for (std::uint64_t n = 0; n < count; ++n, first = std::move(after)) {
      const auto child = entry.number(8);
      const Span next = entry.take(key);
      after = numbers_of(next, sizes);
      Cursor own(std::exchange(told, next));
      const auto &begin = std::max(first, low), &end = high.empty() ? after : std::min(after, high);
      require(sizes.empty() || begin < end);
      if (here > 0)
        leaves(child, type, sizes, here - 1, note, begin, end);
      else {
        require(begin == first);
        note(own, child);
      }
    }
  }

private:
  // Where a chunk begins, in chunks.
  static Numbers numbers_of(Span key, const Numbers &sizes) {
    Cursor at(key);
    at.take(8);
    Numbers found;
    for (const auto size : sizes)
      found.push_back(at.number(8) / size);
    return found;
  }

  static constexpr std::uint64_t WINDOW = 4096;

  File file_;
  std::uint64_t window_at_ = 0;
  Bytes window_;
  int blocks_ = 0;
};

}  // namespace rl::hdf5
