// The end of a journal that is written, and the record that commits rows there. SPEC.md section 7.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <ctime>

namespace rl {

// CRC-32 as zlib computes it, eight bytes at a time.
inline std::uint32_t crc32(const std::uint8_t *data, std::size_t size) noexcept {
  using Table = std::array<std::array<std::uint32_t, 256>, 8>;
  static const Table table = [] {
    Table made{};
    for (std::uint32_t n = 0; n < 256; ++n) {
      std::uint32_t value = n;
      for (int bit = 0; bit < 8; ++bit)
        value = value & 1 ? 0xEDB88320u ^ value >> 1 : value >> 1;
      made[0][n] = value;
    }
    for (std::size_t zeros = 1; zeros < 8; ++zeros)  // what a byte does that has so many after it
      for (std::uint32_t n = 0; n < 256; ++n)
        made[zeros][n] = made[zeros - 1][n] >> 8 ^ made[0][made[zeros - 1][n] & 0xFF];
    return made;
  }();
  std::uint32_t crc = ~0u;
  for (; size >= 8; data += 8, size -= 8) {
    std::uint64_t word;
    std::memcpy(&word, data, 8);
    word ^= crc;
    crc = 0;
    for (std::size_t i = 0; i < 8; ++i)
      crc ^= table[7 - i][word >> 8 * i & 0xFF];
  }
  for (std::size_t i = 0; i < size; ++i)
    crc = table[0][(crc ^ data[i]) & 0xFF] ^ crc >> 8;
  return ~crc;
}

constexpr std::size_t RECORD_BYTES = 64;

// Where a journal ends and what the next record is chained to.
struct JournalTail {
  std::uint16_t stream = 0;
  std::uint64_t sequence = 0;   // of the next record
  std::uint32_t crc = 0;        // of the last one
  std::uint64_t size = 0;       // bytes
  std::uint64_t committed = 0;  // rows of the segment

  // Makes the 64 bytes of the record that commits all rows before `end`.
  void rows(std::uint64_t end, std::uint64_t hash, std::uint64_t time_ns, std::uint64_t tag, bool durable,
            std::uint8_t *out) noexcept {
    std::memcpy(out, "RLJ1", 4);
    out[4] = 1;
    out[5] = durable;
    std::memcpy(out + 6, &stream, 2);
    const std::uint64_t words[6] = {sequence, committed, end - committed, hash, time_ns, tag};
    std::memcpy(out + 8, words, sizeof words);
    std::memcpy(out + 56, &crc, 4);
    crc = crc32(out, 60);
    std::memcpy(out + 60, &crc, 4);
    ++sequence;
  }
};

inline std::uint64_t now_ns() noexcept {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000u + static_cast<std::uint64_t>(now.tv_nsec);
}

}  // namespace rl
