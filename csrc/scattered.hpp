// Copies of scattered rows of one size into one contiguous buffer; what comes next is fetched ahead.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace rl {

using Address = const std::uint8_t *;

namespace scattered {

template <std::size_t Bytes> struct Fixed {
  static constexpr std::size_t bytes = Bytes;
  void operator()(std::uint8_t *out, Address from) const noexcept { std::memcpy(out, from, Bytes); }
};

// Step to 2 * Step bytes in two steps that overlap.
template <std::size_t Step> struct Two {
  std::size_t bytes;
  void operator()(std::uint8_t *out, Address from) const noexcept {
    std::memcpy(out, from, Step);
    std::memcpy(out + bytes - Step, from + bytes - Step, Step);
  }
};

// 16 bytes at a time, the last ones overlapping; a call of memcpy costs more than a short row.
struct Blocks {
  std::size_t bytes;
  void operator()(std::uint8_t *out, Address from) const noexcept {
    for (std::size_t at = 0; at + 16 < bytes; at += 16)
      std::memcpy(out + at, from + at, 16);
    std::memcpy(out + bytes - 16, from + bytes - 16, 16);
  }
};

// A long copy in pieces, about equal ones; the next one is fetched meanwhile, where it comes from and where it goes. In
// one call memcpy would leave it to the processor's string instruction: a quarter slower where memory is in no near
// cache.
inline void copy_long(std::uint8_t *out, Address from, std::size_t bytes) noexcept {
  if (bytes == 0) return;
  const std::size_t piece = (bytes / ((bytes + 1023) / 1024) + 63) / 64 * 64;  // whole lines
  for (std::size_t at = 0; at < bytes; at += piece) {
    for (std::size_t line = at + piece; line < at + 2 * piece; line += 64) {
      __builtin_prefetch(from + line, 0, 3);
      __builtin_prefetch(out + line, 1, 3);
    }
    std::memcpy(out + at, from + at, std::min(piece, bytes - at));
  }
}

struct Long {
  std::size_t bytes;
  void operator()(std::uint8_t *out, Address from) const noexcept { copy_long(out, from, bytes); }
};

// Into all caches: the next column's row may share the line, and a hint that it is read once doubles the time.
inline void prefetch(Address address) noexcept { __builtin_prefetch(address, 0, 3); }

template <class Copy, class Source>
void loop(const Copy &copy, const Source &source, std::size_t begin, std::size_t end, std::uint8_t *out) {
  const std::size_t bytes = copy.bytes;
  const std::size_t ahead = bytes > 1024 ? 1 : 24;
  const std::size_t touched = std::min<std::size_t>(bytes, 256);  // the hardware goes on by itself after that
  out += begin * bytes;
  for (std::size_t i = begin; i < end; ++i, out += bytes) {
    if (i + ahead < end) {
      const Address next = source(i + ahead);
      prefetch(next);
      if (bytes > 16) {
        for (std::size_t line = 64; line + 16 < touched; line += 64)
          prefetch(next + line);
        prefetch(next + touched - 1);
      }
    }
    copy(out, source(i));
  }
}

}  // namespace scattered

// Copies row i, of `bytes` bytes at source(i), to out + i * bytes, for i in [begin, end).
template <class Source>
void copy_scattered(const Source &source, std::size_t begin, std::size_t end, std::size_t bytes, std::uint8_t *out) {
  using namespace scattered;
  switch (bytes) {
  case 1:
    return loop(Fixed<1>{}, source, begin, end, out);
  case 2:
    return loop(Fixed<2>{}, source, begin, end, out);
  case 3:
    return loop(Fixed<3>{}, source, begin, end, out);
  case 4:
    return loop(Fixed<4>{}, source, begin, end, out);
  case 8:
    return loop(Fixed<8>{}, source, begin, end, out);
  case 16:
    return loop(Fixed<16>{}, source, begin, end, out);
  default:
    break;
  }
  if (bytes < 8) return loop(Two<4>{bytes}, source, begin, end, out);
  if (bytes < 16) return loop(Two<8>{bytes}, source, begin, end, out);
  if (bytes <= 512) return loop(Blocks{bytes}, source, begin, end, out);
  loop(Long{bytes}, source, begin, end, out);
}

// One row, or zeros for none.
inline void copy_or_zero(Address from, std::size_t bytes, std::uint8_t *out) {
  if (from != nullptr)
    std::memcpy(out, from, bytes);
  else
    std::memset(out, 0, bytes);
}

}  // namespace rl
