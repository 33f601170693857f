// Small groups of HDF5 files, read from the bytes as they lie there: one call tells what a group and those below it
// hold, where the library needs dozens. Only what the library's oldest and usual format has: object headers of version
// 1, symbol tables, datasets in one place or in chunks of a version 1 B-tree, which are unfiltered, or shuffled and
// deflated. Anything else, and anything that is odd, is left to the library (HDF5 File Format Specification, version 3,
// sections III and IV).
#pragma once

#include <cstdint>
#include <cstring>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "hdf5_blocks.hpp"
#include "span.hpp"

namespace rl::hdf5 {

constexpr std::uint64_t MOST_BYTES = std::uint64_t{1} << 40;                // of values
constexpr std::size_t MOST_RANK = 32;                                       // axes
constexpr std::uint64_t EXPANDS = 1040, NO_PROOF = std::uint64_t{1} << 30;  // deflated bytes; bytes that need none
constexpr int MOST_OBJECTS = 4096, DEEPEST = 16;

// Where a chunk is, and which filters it did not go through, a bit for each.
struct Place {
  std::uint64_t offset = NOWHERE, size = 0;
  std::uint32_t skipped = 0;
};

// Numbers or whatever `type`, a message of a datatype, says: [shape…] of `item` bytes each. In one place if `chunk` is
// empty, else in chunks, whose `places` are in C order and which went through `filters`.
struct Dataset {
  std::string path;
  Bytes type;
  std::vector<std::uint64_t> shape, chunk;
  std::vector<Place> places;
  std::vector<unsigned> filters;
  std::uint64_t item = 0;

  std::uint64_t rows() const { return shape.empty() ? 1 : shape[0]; }
  std::uint64_t row_bytes() const {
    std::uint64_t bytes = item;
    for (std::size_t axis = 1; axis < shape.size(); ++axis)
      bytes *= shape[axis];
    return bytes;
  }
};

// A single value of a datatype.
struct Attribute {
  std::string name;
  Bytes type, value;
};

struct Group {
  std::vector<Dataset> datasets;  // of all groups below too, `path` is from the first
  std::vector<Attribute> attributes;
  bool has_others = false;  // attributes that are not single values
};

// A product that is at most MOST_BYTES.
inline std::uint64_t times(std::uint64_t a, std::uint64_t b) {
  require(a == 0 || b <= MOST_BYTES / a);
  return a * b;
}

inline std::vector<std::uint64_t> shape_of(Span message) {
  Cursor at(message);
  const auto version = at.number(1), rank = at.number(1), flags = at.number(1);
  require((version == 1 || version == 2) && rank <= MOST_RANK && (flags & ~std::uint64_t{1}) == 0);
  const auto kind = at.number(1);  // reserved in version 1
  if (version == 1) at.take(4);
  require(version == 1 || kind == (rank ? 1u : 0u));
  std::vector<std::uint64_t> shape(rank);
  for (auto &size : shape)
    require((size = at.number(8)) <= MOST_BYTES);
  return shape;
}

// Reads a group and what is below it.
class Reader {
public:
  explicit Reader(File file) : blocks_(file) {}

  Group group(std::uint64_t address) {
    Group found;
    walk(address, "", 0, &found);
    return found;
  }

private:
  void walk(std::uint64_t address, const std::string &path, int depth, Group *found) {
    require(depth < DEEPEST && ++objects_ <= MOST_OBJECTS);
    std::vector<Bytes> blocks;
    const auto messages = blocks_.header(address, blocks);
    const Message *table = nullptr, *space = nullptr, *type = nullptr, *layout = nullptr, *filters = nullptr;
    for (const auto &message : messages) {
      const Message **slot = nullptr;
      switch (message.type) {
      case TABLE:
        slot = &table;
        break;
      case SPACE:
        slot = &space;
        break;
      case TYPE:
        slot = &type;
        break;
      case LAYOUT:
        slot = &layout;
        break;
      case FILTERS:
        slot = &filters;
        break;
      case ATTRIBUTE:
        if (depth == 0) attribute(message.data, found);
        break;
      case NOTHING:
      case OLD_FILL:
      case FILL:
      case OLD_TIME:
      case TIME:
      case CONTINUED:
        break;
      default:
        throw NotPlain{};
      }
      if (slot == nullptr) continue;
      require(*slot == nullptr);
      *slot = &message;
    }
    if (table != nullptr) {
      require(space == nullptr && type == nullptr && layout == nullptr && filters == nullptr);
      links(table->data, path, depth, found);
    } else {
      require(depth > 0 && space != nullptr && type != nullptr && layout != nullptr);
      const Span none = {};
      found->datasets.push_back(
          dataset(path, space->data, type->data, layout->data, filters == nullptr ? none : filters->data));
    }
  }

  void links(Span message, const std::string &path, int depth, Group *found) {
    Cursor at(message);
    const auto tree = at.number(8), heap = at.number(8);
    const Bytes names = blocks_.names(heap);
    std::vector<std::uint64_t> nodes;
    blocks_.leaves(tree, 0, {}, -1, [&](Cursor &, std::uint64_t child) { nodes.push_back(child); });
    std::string before;  // names are in order, so each is there once
    for (const auto node : nodes) {
      const Bytes first = blocks_.bytes(node, 8);
      Cursor told(span_of(first));
      require(told.number(4) == 0x444f4e53 && told.number(1) == 1);  // SNOD
      told.take(1);
      const auto count = told.number(2);
      const Bytes entries = blocks_.bytes(node + 8, count * 40);
      Cursor entry(span_of(entries));
      for (std::uint64_t n = 0; n < count; ++n) {
        const auto name = entry.number(8), address = entry.number(8), cached = entry.number(4);
        entry.take(20);
        require(cached <= 1 && name < names.size());  // 2 is a symbolic link, which only the library tells
        const auto *begin = names.data() + name;
        const auto *end = static_cast<const std::uint8_t *>(std::memchr(begin, 0, names.size() - name));
        require(end != nullptr && end != begin);
        const std::string own(begin, end);
        require(own > before && own != "." && own.find('/') == std::string::npos);
        before = own;
        walk(address, path.empty() ? own : path + "/" + own, depth + 1, found);
      }
    }
  }

  Dataset dataset(const std::string &path, Span space, Span type, Span layout, Span filters) {
    Dataset found;
    found.path = path;
    found.type = copy_of(type);
    found.shape = shape_of(space);
    Cursor typed(type);
    typed.take(4);
    found.item = typed.number(4);
    require(found.item > 0);
    if (filters.size() > 0) found.filters = filters_of(filters, found.item);
    const std::uint64_t declared = std::accumulate(found.shape.begin(), found.shape.end(), found.item, times);
    Cursor at(layout);
    require(at.number(1) == 3);
    const auto kind = at.number(1);
    if (kind == 1) {
      const auto place = at.number(8);
      require(at.number(8) == declared && place != NOWHERE && declared <= blocks_.size() &&
              place <= blocks_.size() - declared);
      require(found.filters.empty());
      found.places = {{place, declared, 0}};
      return found;
    }
    require(kind == 2 && !found.shape.empty());
    const std::size_t axes = found.shape.size();
    require(at.number(1) == axes + 1);
    const auto tree = at.number(8);
    std::uint64_t bytes = found.item, chunks = 1;
    std::vector<std::uint64_t> grid;
    for (std::size_t axis = 0; axis < axes; ++axis) {
      const auto size = at.number(4);
      require(size > 0);
      found.chunk.push_back(size);
      grid.push_back(found.shape[axis] / size + (found.shape[axis] % size != 0));
      bytes = times(bytes, size), chunks = times(chunks, grid[axis]);
    }
    require(at.number(4) == found.item && chunks <= MOST_BLOCKS && times(chunks, bytes) <= MOST_BYTES);
    found.places.resize(chunks);
    std::uint64_t there = 0, stored = 0;
    Numbers sizes = found.chunk;
    sizes.push_back(found.item);
    if (chunks > 0)
      blocks_.leaves(tree, 1, sizes, -1, [&](Cursor &key, std::uint64_t offset) {
        Place place = {offset, key.number(4), static_cast<std::uint32_t>(key.number(4))};
        require(!found.filters.empty() || (place.size == bytes && place.skipped == 0));
        std::uint64_t number = 0;
        for (std::size_t axis = 0; axis < axes; ++axis) {
          const auto first = key.number(8);
          require(first % found.chunk[axis] == 0 && first / found.chunk[axis] < grid[axis]);
          number = number * grid[axis] + first / found.chunk[axis];
        }
        require(key.number(8) == 0);  // the place in a value
        require(found.places[number].offset == NOWHERE && place.size <= blocks_.size() &&
                offset <= blocks_.size() - place.size);
        found.places[number] = place;
        stored += place.size;
        ++there;
      });
    require(there == chunks);  // others have values that are nowhere
    require(stored <= blocks_.size() && (declared <= NO_PROOF || declared <= EXPANDS * stored));
    return found;
  }

  static std::vector<unsigned> filters_of(Span message, std::uint64_t item) {
    Cursor at(message);
    const auto version = at.number(1), count = at.number(1);
    require((version == 1 || version == 2) && count <= 8);
    if (version == 1) at.take(6);
    std::vector<unsigned> found;
    for (std::uint64_t n = 0; n < count; ++n) {
      found.push_back(static_cast<unsigned>(at.number(2)));
      require(found.back() == DEFLATED || found.back() == SHUFFLED);
      const auto name = version == 1 ? at.number(2) : 0;
      at.take(2);
      const auto values = at.number(2);
      at.take((name + 7) / 8 * 8);
      Cursor told(at.take(4 * values));
      require(found.back() != SHUFFLED || (values == 1 && told.number(4) == item));
      if (version == 1 && values % 2 == 1) at.take(4);
    }
    return found;
  }

  void attribute(Span message, Group *found) {
    Cursor at(message);
    const auto version = at.number(1), flags = at.number(1);
    const auto name_size = at.number(2), type_size = at.number(2), space_size = at.number(2);
    require(version >= 1 && version <= 3 && (version == 1 || flags == 0));
    if (version == 3) at.take(1);
    const auto padded = [&](std::uint64_t size) { return version == 1 ? (size + 7) / 8 * 8 : size; };
    const Span name = at.take(padded(name_size)), type = at.take(padded(type_size)),
               space = at.take(padded(space_size));
    const auto *end = static_cast<const std::uint8_t *>(std::memchr(name.data, 0, name.size()));
    require(end != nullptr && type.size() >= 8);
    const bool is_named = name_size == static_cast<std::uint64_t>(end - name.data) + 1;
    Cursor typed(type);
    typed.take(4);
    const auto size = typed.number(4);
    const bool is_single = space.size() >= 4 && space.data[1] == 0 && (space.data[0] == 1 || space.data[3] == 0);
    const std::string own(name.data, end);
    if (!is_named || !is_single || !attributes_.insert(own).second || space.data[0] > 2 || size > at.left()) {
      found->has_others = true;
      return;
    }
    found->attributes.push_back({own, copy_of(type), copy_of(at.take(size))});
  }

  enum : unsigned { DEFLATED = 1, SHUFFLED = 2 };
  enum : unsigned {
    NOTHING = 0,
    SPACE = 1,
    TYPE = 3,
    OLD_FILL = 4,
    FILL = 5,
    LAYOUT = 8,
    FILTERS = 11,
    ATTRIBUTE = 12,
    OLD_TIME = 14,
    TABLE = 17,
    TIME = 18,
  };

  Blocks blocks_;
  int objects_ = 0;
  std::set<std::string> attributes_;
};

}  // namespace rl::hdf5
