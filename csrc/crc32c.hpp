// CRC-32C (Castagnoli; RFC 3720, appendix B.4), by the processor's own instruction where it has one.
//
// The instruction waits three cycles for its result but starts every cycle, so three stretches are summed side by
// side and joined: a checksum goes on over n zero bytes by a linear map of its 32 bits, which is tabulated.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__) && defined(__GNUC__)
#include <nmmintrin.h>
#define RL_CRC32C_X86
#endif

namespace rl::crc32c_detail {

constexpr std::uint32_t POLYNOMIAL = 0x82F63B78;  // bits reversed, as they go over the wire
constexpr std::size_t STRETCH = 1024;             // bytes of each of three that are summed side by side

using Table = std::array<std::array<std::uint32_t, 256>, 8>;

// `TABLE[k][b]`: the checksum of the byte b and k zero bytes after it.
constexpr Table make_table() {
  Table table{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit)
      crc = crc >> 1 ^ (crc & 1 ? POLYNOMIAL : 0);
    table[0][byte] = crc;
  }
  for (std::size_t k = 1; k < table.size(); ++k) {
    for (std::size_t byte = 0; byte < 256; ++byte)
      table[k][byte] = table[k - 1][byte] >> 8 ^ table[0][table[k - 1][byte] & 0xFF];
  }
  return table;
}

inline constexpr Table TABLE = make_table();

constexpr std::uint32_t extend_portably(std::uint32_t crc, const std::uint8_t *data, std::size_t size) {
  for (; size >= 8; data += 8, size -= 8) {
    std::uint32_t next = 0;
    for (std::size_t k = 0; k < 8; ++k)
      next ^= TABLE[7 - k][data[k] ^ (k < 4 ? crc >> 8 * k & 0xFF : 0)];
    crc = next;
  }
  for (; size; ++data, --size)
    crc = crc >> 8 ^ TABLE[0][(crc ^ *data) & 0xFF];
  return crc;
}

#ifdef RL_CRC32C_X86

// The map of a checksum over STRETCH zero bytes, of each of its four bytes: it is linear over bits.
class OverZeros {
public:
  constexpr OverZeros() {
    constexpr std::uint8_t zeros[STRETCH] = {};
    std::uint32_t of_bit[32] = {};
    for (int bit = 0; bit < 32; ++bit)
      of_bit[bit] = extend_portably(std::uint32_t{1} << bit, zeros, STRETCH);
    for (std::size_t k = 0; k < 4; ++k) {
      for (std::uint32_t byte = 0; byte < 256; ++byte) {
        for (std::size_t bit = 0; bit < 8; ++bit)
          table_[k][byte] ^= byte >> bit & 1 ? of_bit[8 * k + bit] : 0;
      }
    }
  }

  std::uint32_t operator()(std::uint64_t crc) const noexcept {
    return table_[0][crc & 0xFF] ^ table_[1][crc >> 8 & 0xFF] ^ table_[2][crc >> 16 & 0xFF] ^
           table_[3][crc >> 24 & 0xFF];
  }

private:
  std::uint32_t table_[4][256] = {};
};

inline constexpr OverZeros OVER_ZEROS;

inline std::uint64_t word(const std::uint8_t *data) {
  std::uint64_t value;
  std::memcpy(&value, data, sizeof value);
  return value;
}

__attribute__((target("sse4.2"))) inline std::uint32_t extend_sse(std::uint32_t start, const std::uint8_t *data,
                                                                  std::size_t size) {
  std::uint64_t crc = start;
  for (; size >= 3 * STRETCH; data += 3 * STRETCH, size -= 3 * STRETCH) {
    std::uint64_t second = 0, third = 0;
    for (std::size_t i = 0; i < STRETCH; i += 8) {
      crc = _mm_crc32_u64(crc, word(data + i));
      second = _mm_crc32_u64(second, word(data + i + STRETCH));
      third = _mm_crc32_u64(third, word(data + i + 2 * STRETCH));
    }
    crc = OVER_ZEROS(OVER_ZEROS(crc) ^ second) ^ third;
  }
  for (; size >= 8; data += 8, size -= 8)
    crc = _mm_crc32_u64(crc, word(data));
  for (; size; ++data, --size)
    crc = _mm_crc32_u8(static_cast<std::uint32_t>(crc), *data);
  return static_cast<std::uint32_t>(crc);
}

#endif

inline std::uint32_t extend(std::uint32_t crc, const std::uint8_t *data, std::size_t size) {
#ifdef RL_CRC32C_X86
  static const bool has_sse = __builtin_cpu_supports("sse4.2");
  if (has_sse) return extend_sse(crc, data, size);
#endif
  return extend_portably(crc, data, size);
}

}  // namespace rl::crc32c_detail

namespace rl {

// The checksum of `size` bytes.
inline std::uint32_t crc32c(const std::uint8_t *data, std::size_t size) {
  return ~crc32c_detail::extend(~std::uint32_t{0}, data, size);
}

}  // namespace rl
