// A group made by hand is read as it was made; one with any bit flipped, or cut anywhere, does no harm.
#undef NDEBUG
#include "hdf5_objects.hpp"
#include "hdf5_rows.hpp"

#include <cassert>
#include <cstdio>
#include <cstdlib>
#include <functional>

namespace {

using namespace rl::hdf5;

// A file of little-endian numbers, from its beginning on.
class Image {
public:
  std::uint64_t size() const { return bytes.size(); }
  void number(std::uint64_t value, int count) {
    for (int k = 0; k < count; ++k)
      bytes.push_back(static_cast<std::uint8_t>(value >> 8 * k));
  }
  void numbers(const std::vector<std::uint64_t> &values) {
    for (const auto value : values)
      number(value, 8);
  }
  void text(const std::string &text, std::size_t size) {
    for (std::size_t k = 0; k < size; ++k)
      bytes.push_back(k < text.size() ? static_cast<std::uint8_t>(text[k]) : 0);
  }
  void message(unsigned type, const Image &data) {
    number(type, 2), number(data.size(), 2), number(0, 4);
    bytes.insert(bytes.end(), data.bytes.begin(), data.bytes.end());
  }
  std::uint64_t header(unsigned count, const Image &messages) {
    const auto address = size();
    number(1, 2), number(count, 2), number(1, 4), number(messages.size(), 8);
    bytes.insert(bytes.end(), messages.bytes.begin(), messages.bytes.end());
    return address;
  }

  Bytes bytes;
};

const std::string FLOAT = std::string("\x11\x20\x1f\0\x04\0\0\0\0\0\x20\0\x17\x08\0\x17\x7f\0\0\0\0\0\0\0", 24);

Image space(const std::vector<std::uint64_t> &shape) {
  Image made;
  made.number(1, 1), made.number(shape.size(), 1), made.number(0, 6), made.numbers(shape);
  return made;
}

Image text(const std::string &value, std::size_t size) {
  Image made;
  made.text(value, size);
  return made;
}

float value_of(std::uint64_t row, std::uint64_t column) { return static_cast<float>(100 * row + column); }

// 10 numbers in chunks of 6, which are shuffled and deflated.
std::uint64_t packed(Image &file) {
  const auto data = file.size();
  file.text("not really deflated", 24);
  const auto tree = file.size();
  file.text("TREE", 4), file.number(1, 2), file.number(2, 2), file.numbers({NOWHERE, NOWHERE});
  file.number(11, 4), file.number(0, 4), file.numbers({0, 0, data});
  file.number(13, 4), file.number(2, 4), file.numbers({6, 0, data + 11});
  file.number(0, 8), file.numbers({6, 4});
  Image layout, filters, messages;
  layout.number(0x020203, 3), layout.number(tree, 8), layout.number(6, 4), layout.number(4, 4), layout.number(0, 5);
  filters.number(0x0201, 8), filters.number(2, 2), filters.number(8, 2), filters.number(1, 2), filters.number(1, 2);
  filters.text("shuffle", 8), filters.number(4, 8);
  filters.number(1, 2), filters.number(8, 2), filters.number(1, 2), filters.number(1, 2), filters.text("deflate", 8);
  filters.number(4, 8);
  messages.message(11, filters), messages.message(8, layout), messages.message(1, space({10}));
  messages.message(3, text(FLOAT, 24));
  return file.header(4, messages);
}

// 7 rows of 5 numbers in chunks of 3 x 2, and 4 numbers in one place below a group of their own; an attribute.
std::uint64_t make(Image &file) {
  file.text("not read", 64);
  std::vector<std::uint64_t> places;
  for (std::uint64_t row = 0; row < 7; row += 3)
    for (std::uint64_t column = 0; column < 5; column += 2) {
      places.push_back(file.size());
      for (std::uint64_t n = 0; n < 6; ++n) {
        const float value = value_of(row + n / 2, column + n % 2);
        std::uint32_t bits;
        std::memcpy(&bits, &value, 4);
        file.number(bits, 4);
      }
    }
  const auto tree = file.size();
  file.text("TREE", 4), file.number(1, 2), file.number(places.size(), 2), file.numbers({NOWHERE, NOWHERE});
  for (std::size_t n = 0; n < places.size(); ++n)
    file.number(24, 4), file.number(0, 4), file.numbers({n / 3 * 3, n % 3 * 2, 0, places[n]});
  file.number(0, 8), file.numbers({6, 4, 4});
  const auto flat = file.size();
  for (const unsigned bits : {0x3f800000u, 0x40000000u, 0x40400000u, 0x40800000u})
    file.number(bits, 4);

  const auto group = [&file](const std::vector<std::pair<std::string, std::uint64_t>> &links, Image rest,
                             unsigned more) {
    const auto names = file.size();
    for (const auto &link : links)
      file.text(link.first, 8);
    const auto heap = file.size();
    file.text("HEAP", 4), file.number(0, 4), file.numbers({8 * links.size(), NOWHERE, names});
    const auto node = file.size();
    file.text("SNOD", 4), file.number(1, 2), file.number(links.size(), 2);
    for (std::size_t n = 0; n < links.size(); ++n)
      file.numbers({8 * n, links[n].second, 0, 0, 0});
    const auto root = file.size();
    file.text("TREE", 4), file.number(0, 2), file.number(1, 2), file.numbers({NOWHERE, NOWHERE, 0, node, 0});
    Image table, messages;
    table.numbers({root, heap});
    messages.message(17, table);
    messages.bytes.insert(messages.bytes.end(), rest.bytes.begin(), rest.bytes.end());
    return file.header(1 + more, messages);
  };
  const auto dataset = [&file](const std::vector<std::uint64_t> &shape, const Image &layout) {
    Image messages, more;
    more.message(8, layout);
    const auto rest = file.size();
    file.bytes.insert(file.bytes.end(), more.bytes.begin(), more.bytes.end());
    Image where;
    where.numbers({rest, more.size()});
    messages.message(1, space(shape)), messages.message(16, where), messages.message(3, text(FLOAT, 24));
    return file.header(4, messages);
  };
  Image chunked, together;
  chunked.number(0x030203, 3), chunked.number(tree, 8), chunked.number(3, 4), chunked.number(2, 4),
      chunked.number(4, 4), chunked.number(0, 5);
  together.number(0x0103, 2), together.numbers({flat, 16}), together.number(0, 6);
  const auto inner = group({{"x", dataset({4}, together)}, {"z", packed(file)}}, {}, 0);
  const auto rows = dataset({7, 5}, chunked);
  Image named, told;
  named.number(1, 2), named.number(5, 2), named.number(24, 2), named.number(8, 2), named.text("seed", 8);
  named.text(FLOAT, 24);
  const auto single = space({});
  named.bytes.insert(named.bytes.end(), single.bytes.begin(), single.bytes.end());
  named.number(0x3f800000, 8);
  told.message(12, named);
  return group({{"inner", inner}, {"rows", rows}}, told, 1);
}

void with_file(const Bytes &bytes, const std::function<void(File)> &use) {
  std::FILE *file = std::tmpfile();
  assert(file != nullptr && std::fwrite(bytes.data(), 1, bytes.size(), file) == bytes.size());
  std::fflush(file);
  use({fileno(file), bytes.size()});
  std::fclose(file);
}

void read_all(const File &file, std::uint64_t address) {
  try {
    const Group found = Reader(file).group(address);
    for (const auto &dataset : found.datasets) {
      if (!dataset.filters.empty()) continue;
      assert(times(dataset.rows(), dataset.row_bytes()) <= file.size);
      Bytes out(dataset.rows() * dataset.row_bytes());
      read_rows(file, dataset, 0, dataset.rows(), out.data());
    }
  } catch (const NotPlain &) {
  }
}

}  // namespace

int main() {
  Image image;
  const auto address = make(image);
  with_file(image.bytes, [address](File file) {
    const Group found = Reader(file).group(address);
    assert(found.attributes.size() == 1 && found.attributes[0].name == "seed" && found.attributes[0].value.size() == 4);
    assert(!found.has_others && found.datasets.size() == 3);
    const Dataset &flat = found.datasets[0], &rows = found.datasets[2];
    assert(rows.path == "rows" && (rows.shape == std::vector<std::uint64_t>{7, 5}) && rows.places.size() == 9);
    assert(flat.path == "inner/x" && flat.rows() == 4 && flat.chunk.empty());
    const Dataset &deflated = found.datasets[1];
    assert((deflated.filters == std::vector<unsigned>{2, 1}) && deflated.places.size() == 2);
    assert(deflated.places[1].size == 13 && deflated.places[1].skipped == 2 && deflated.chunk[0] == 6);
    for (std::uint64_t low = 0; low <= 7; ++low)
      for (std::uint64_t high = low; high <= 7; ++high) {
        std::vector<float> out((high - low) * 5 + 1);
        assert(read_rows(file, rows, low, high, reinterpret_cast<std::uint8_t *>(out.data())));
        for (std::uint64_t row = low; row < high; ++row)
          for (std::uint64_t column = 0; column < 5; ++column)
            assert(out[(row - low) * 5 + column] == value_of(row, column));
      }
    float two[2];
    assert(read_rows(file, flat, 1, 3, reinterpret_cast<std::uint8_t *>(two)) && two[0] == 2 && two[1] == 3);
  });
  with_file(image.bytes, [&](File file) {
    for (std::uint64_t size = 0; size < image.size(); ++size)
      read_all({file.descriptor, size}, address);
    for (std::uint64_t bit = 0; bit < 8 * image.size(); ++bit) {
      const auto flipped = static_cast<std::uint8_t>(image.bytes[bit / 8] ^ 1 << bit % 8);
      assert(::pwrite(file.descriptor, &flipped, 1, static_cast<off_t>(bit / 8)) == 1);
      read_all(file, address);
      assert(::pwrite(file.descriptor, &image.bytes[bit / 8], 1, static_cast<off_t>(bit / 8)) == 1);
    }
  });
  std::puts("ok");
}
