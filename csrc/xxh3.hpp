// XXH3-64 and, of more than 240 bytes, XXH3-128 (seed 0), as the bytes come. https://github.com/Cyan4973/xxHash,
// doc/xxhash_spec.md.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "xxh3_lanes.hpp"

namespace rl {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the format's files are little-endian, and so are we");

namespace xxh3 {

constexpr std::uint64_t P32_2 = 0x85EBCA77, P32_3 = 0xC2B2AE3D;
constexpr std::uint64_t P64_1 = 0x9E3779B185EBCA87, P64_2 = 0xC2B2AE3D27D4EB4F, P64_3 = 0x165667B19E3779F9;
constexpr std::uint64_t P64_4 = 0x85EBCA77C2B2AE63, P64_5 = 0x27D4EB2F165667C5;
constexpr std::uint64_t MX1 = 0x165667919E3779F9, MX2 = 0x9FB21C651E98DF25;

alignas(64) constexpr std::uint8_t SECRET[SECRET_BYTES] = {
    0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c, 0xde, 0xd4,
    0x6d, 0xe9, 0x83, 0x90, 0x97, 0xdb, 0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f, 0xcb, 0x79, 0xe6, 0x4e,
    0xcc, 0xc0, 0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21, 0xb8, 0x08, 0x46, 0x74, 0xf7, 0x43,
    0x24, 0x8e, 0xe0, 0x35, 0x90, 0xe6, 0x81, 0x3a, 0x26, 0x4c, 0x3c, 0x28, 0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb,
    0x88, 0xd0, 0x65, 0x8b, 0x1b, 0x53, 0x2e, 0xa3, 0x71, 0x64, 0x48, 0x97, 0xa2, 0x0d, 0xf9, 0x4e, 0x38, 0x19,
    0xef, 0x46, 0xa9, 0xde, 0xac, 0xd8, 0xa8, 0xfa, 0x76, 0x3f, 0xe3, 0x9c, 0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7,
    0xc7, 0x0b, 0x4f, 0x1d, 0x8a, 0x51, 0xe0, 0x4b, 0xcd, 0xb4, 0x59, 0x31, 0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78,
    0x73, 0x64, 0xea, 0xc5, 0xac, 0x83, 0x34, 0xd3, 0xeb, 0xc3, 0xc5, 0x81, 0xa0, 0xff, 0xfa, 0x13, 0x63, 0xeb,
    0x17, 0x0d, 0xdd, 0x51, 0xb7, 0xf0, 0xda, 0x49, 0xd3, 0x16, 0x55, 0x26, 0x29, 0xd4, 0x68, 0x9e, 0x2b, 0x16,
    0xbe, 0x58, 0x7d, 0x47, 0xa1, 0xfc, 0x8f, 0xf8, 0xb8, 0xd1, 0x7a, 0xd0, 0x31, 0xce, 0x45, 0xcb, 0x3a, 0x8f,
    0x95, 0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb, 0xca, 0xbb, 0x4b, 0x40, 0x7e};

inline std::uint64_t read64(const std::uint8_t *p) noexcept {
  std::uint64_t value;
  std::memcpy(&value, p, 8);
  return value;
}

inline std::uint32_t read32(const std::uint8_t *p) noexcept {
  std::uint32_t value;
  std::memcpy(&value, p, 4);
  return value;
}

inline std::uint64_t rotate(std::uint64_t value, int bits) noexcept { return value << bits | value >> (64 - bits); }

// The two halves of the 128-bit product, one folded on the other.
inline std::uint64_t fold(std::uint64_t a, std::uint64_t b) noexcept {
  __extension__ using Wide = unsigned __int128;
  const Wide product = static_cast<Wide>(a) * b;
  return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
}

inline std::uint64_t avalanche(std::uint64_t h) noexcept {
  h = (h ^ h >> 37) * MX1;
  return h ^ h >> 32;
}

inline std::uint64_t avalanche64(std::uint64_t h) noexcept {
  h = (h ^ h >> 33) * P64_2;
  h = (h ^ h >> 29) * P64_3;
  return h ^ h >> 32;
}

// The eight accumulators as one number.
inline std::uint64_t merge(const std::uint64_t *acc, std::size_t secret, std::uint64_t start) noexcept {
  for (std::size_t i = 0; i < 4; ++i)
    start += fold(acc[2 * i] ^ read64(SECRET + secret + 16 * i), acc[2 * i + 1] ^ read64(SECRET + secret + 16 * i + 8));
  return avalanche(start);
}

inline std::uint64_t mix16(const std::uint8_t *data, std::size_t secret) noexcept {
  return fold(read64(data) ^ read64(SECRET + secret), read64(data + 8) ^ read64(SECRET + secret + 8));
}

// Of at most 240 bytes.
inline std::uint64_t of_short(const std::uint8_t *data, std::size_t size) noexcept {
  if (size == 0) return avalanche64(read64(SECRET + 56) ^ read64(SECRET + 64));
  if (size <= 3) {
    const std::uint32_t all =
        std::uint32_t(data[0]) << 16 | std::uint32_t(data[size >> 1]) << 24 | data[size - 1] | std::uint32_t(size) << 8;
    return avalanche64(std::uint64_t(all) ^ (read32(SECRET) ^ read32(SECRET + 4)));
  }
  if (size <= 8) {
    const std::uint64_t both = read32(data + size - 4) + (std::uint64_t(read32(data)) << 32);
    std::uint64_t h = both ^ (read64(SECRET + 8) ^ read64(SECRET + 16));
    h ^= rotate(h, 49) ^ rotate(h, 24);
    h *= MX2;
    h ^= (h >> 35) + size;
    h *= MX2;
    return h ^ h >> 28;
  }
  if (size <= 16) {
    const std::uint64_t low = read64(data) ^ (read64(SECRET + 24) ^ read64(SECRET + 32));
    const std::uint64_t high = read64(data + size - 8) ^ (read64(SECRET + 40) ^ read64(SECRET + 48));
    return avalanche(size + __builtin_bswap64(low) + high + fold(low, high));
  }
  std::uint64_t h = size * P64_1;
  if (size <= 128) {
    for (std::size_t pair = (size - 1) / 32 + 1; pair-- > 0;)
      h += mix16(data + 16 * pair, 32 * pair) + mix16(data + size - 16 * (pair + 1), 32 * pair + 16);
    return avalanche(h);
  }
  for (std::size_t i = 0; i < 8; ++i)
    h += mix16(data + 16 * i, 16 * i);
  h = avalanche(h);
  for (std::size_t i = 8; i < size / 16; ++i)
    h += mix16(data + 16 * i, 16 * (i - 8) + 3);
  return avalanche(h + mix16(data + size - 16, 136 - 17));
}

inline std::size_t consume(std::uint64_t *acc, std::uint64_t *twin, std::size_t before, const std::uint8_t *data,
                           std::size_t count) noexcept {
  static const Consume fastest = fastest_consume();
  return fastest(acc, twin, before, data, count, SECRET);
}

constexpr std::uint64_t START[8] = {P32_3, P64_1, P64_2, P64_3, P64_4, P32_2, P64_5, P32_1};

}  // namespace xxh3

// The hash of all bytes given to `update` since the beginning or the last `reset`.
class Xxh3 {
public:
  Xxh3() noexcept { reset(); }

  void reset() noexcept {
    std::memcpy(acc_, xxh3::START, sizeof acc_);
    held_ = stripes_ = 0;
    total_ = 0;
  }

  // With a `twin`, accumulators that began with START at a multiple of 1,024 bytes: they take in what is taken in here.
  void update(const std::uint8_t *data, std::size_t size, std::uint64_t *twin = nullptr) noexcept {
    total_ += size;
    if (size > HELD - held_) {
      if (held_) {
        const std::size_t missing = HELD - held_;
        std::memcpy(held_bytes_ + held_, data, missing);
        stripes_ = xxh3::consume(acc_, twin, stripes_, held_bytes_, HELD / xxh3::STRIPE);
        data += missing, size -= missing, held_ = 0;
      }
      if (size > HELD) {  // all but what `digest` needs at the end
        const std::size_t count = (size - 1) / HELD * (HELD / xxh3::STRIPE);
        stripes_ = xxh3::consume(acc_, twin, stripes_, data, count);
        data += count * xxh3::STRIPE, size -= count * xxh3::STRIPE;
        std::memcpy(held_bytes_ + HELD - xxh3::STRIPE, data - xxh3::STRIPE, xxh3::STRIPE);
      }
    }
    if (size) std::memcpy(held_bytes_ + held_, data, size);
    held_ += size;
  }

  std::uint64_t total() const noexcept { return total_; }

  // Takes in what is held back, a multiple of 1,024 bytes from the beginning. More bytes must follow.
  void settle() noexcept {
    stripes_ = xxh3::consume(acc_, nullptr, stripes_, held_bytes_, held_ / xxh3::STRIPE);
    held_ = 0;
  }

  std::uint64_t digest() const noexcept { return digest(acc_, total_); }

  // Of the last `total` bytes, all since a twin began after `settle`.
  std::uint64_t digest(const std::uint64_t *twin, std::uint64_t total) const noexcept {
    if (total <= SHORT) return xxh3::of_short(held_bytes_, static_cast<std::size_t>(total));
    std::uint64_t acc[8];
    finish(twin, acc);
    return xxh3::merge(acc, 11, total * xxh3::P64_1);
  }

  // {low, high} of the 128 bits. Precondition: total() > SHORT.
  std::array<std::uint64_t, 2> digest128() const noexcept {
    std::uint64_t acc[8];
    finish(acc_, acc);
    return {xxh3::merge(acc, 11, total_ * xxh3::P64_1),
            xxh3::merge(acc, xxh3::SECRET_BYTES - xxh3::STRIPE - 11, ~(total_ * xxh3::P64_2))};
  }

  static constexpr std::size_t SHORT = 240;

private:
  static constexpr std::size_t HELD = 256;

  // Accumulators after the last bytes, of which there are more than SHORT.
  void finish(const std::uint64_t *before, std::uint64_t *acc) const noexcept {
    using namespace xxh3;
    std::memcpy(acc, before, sizeof acc_);
    std::uint8_t last[STRIPE];
    if (held_ >= STRIPE) {
      consume(acc, nullptr, stripes_, held_bytes_, (held_ - 1) / STRIPE);
      std::memcpy(last, held_bytes_ + held_ - STRIPE, STRIPE);
    } else {  // the stripe consumed before is still at the end
      std::memcpy(last, held_bytes_ + HELD - (STRIPE - held_), STRIPE - held_);
      std::memcpy(last + STRIPE - held_, held_bytes_, held_);
    }
    accumulate(acc, last, SECRET + SECRET_BYTES - STRIPE - 7);
  }

  std::uint64_t acc_[8];
  std::uint8_t held_bytes_[HELD];
  std::size_t held_, stripes_;
  std::uint64_t total_;
};

}  // namespace rl
