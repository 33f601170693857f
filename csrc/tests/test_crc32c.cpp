// crc32c.hpp against the vectors of RFC 3720 and the definition, bit by bit.
#include "crc32c.hpp"

#include <cstdio>
#include <cstdlib>
#include <vector>

namespace {

void expect(bool holds, const char *claim) {
  if (!holds) {
    std::fprintf(stderr, "%s\n", claim);
    std::exit(1);
  }
}

std::uint32_t bit_by_bit(const std::vector<std::uint8_t> &data) {
  std::uint32_t crc = ~std::uint32_t{0};
  for (const std::uint8_t byte : data) {
    crc ^= byte;
    for (int bit = 0; bit < 8; ++bit)
      crc = crc >> 1 ^ (crc & 1 ? 0x82F63B78 : 0);
  }
  return ~crc;
}

std::uint32_t portable(const std::vector<std::uint8_t> &data) {
  return ~rl::crc32c_detail::extend_portably(~std::uint32_t{0}, data.data(), data.size());
}

void published() {
  std::vector<std::uint8_t> rising(32), falling(32);
  for (std::uint8_t k = 0; k < 32; ++k)
    rising[k] = k, falling[k] = static_cast<std::uint8_t>(31 - k);
  const struct {
    std::vector<std::uint8_t> data;
    std::uint32_t crc;
  } vectors[] = {
      {std::vector<std::uint8_t>(32, 0), 0x8A9136AA},
      {std::vector<std::uint8_t>(32, 0xFF), 0x62A8AB43},
      {rising, 0x46DD794E},
      {falling, 0x113FDB5C},
      {{'1', '2', '3', '4', '5', '6', '7', '8', '9'}, 0xE3069283},
      {{}, 0},
  };
  for (const auto &[data, crc] : vectors) {
    expect(rl::crc32c(data.data(), data.size()) == crc, "a published checksum");
    expect(portable(data) == crc, "a published checksum, without the instruction");
  }
}

void every_length() {
  std::uint32_t state = 1;
  for (std::size_t size = 0; size < 20'000; size += 1 + size / 16) {
    std::vector<std::uint8_t> data(size);  // of exactly its size, so that the sanitizer sees a byte read beyond it
    for (std::uint8_t &byte : data)
      byte = static_cast<std::uint8_t>((state = state * 1664525 + 1013904223) >> 24);
    const std::uint32_t crc = bit_by_bit(data);
    expect(rl::crc32c(data.data(), size) == crc, "as by definition");
    expect(portable(data) == crc, "as by definition, without the instruction");
    if (size > 1) {
      const std::vector<std::uint8_t> rest(data.begin() + 1, data.end());
      expect(rl::crc32c(data.data() + 1, size - 1) == bit_by_bit(rest), "where nothing is aligned");
    }
  }
}

}  // namespace

int main() {
  published();
  every_length();
}
