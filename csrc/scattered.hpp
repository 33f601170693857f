// Copies of scattered rows into one contiguous buffer.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace rl {

using Address = const std::uint8_t *;

namespace scattered {

constexpr std::size_t kAhead = 12;

inline void prefetch(Address address) noexcept { __builtin_prefetch(address, 0, 0); }

template <std::size_t Bytes> void copy_fixed(const Address *source, std::size_t count, std::uint8_t *out) {
  for (std::size_t i = 0; i < count; ++i, out += Bytes) {
    if (i + kAhead < count) prefetch(source[i + kAhead]);
    if (source[i] != nullptr)
      std::memcpy(out, source[i], Bytes);
    else
      std::memset(out, 0, Bytes);
  }
}

}  // namespace scattered

// out[i] = *source[i], `bytes` each; zeros where the address is null.
inline void copy_scattered(const Address *source, std::size_t count, std::size_t bytes, std::uint8_t *out) {
  switch (bytes) {
  case 1:
    return scattered::copy_fixed<1>(source, count, out);
  case 2:
    return scattered::copy_fixed<2>(source, count, out);
  case 4:
    return scattered::copy_fixed<4>(source, count, out);
  case 8:
    return scattered::copy_fixed<8>(source, count, out);
  case 16:
    return scattered::copy_fixed<16>(source, count, out);
  default:
    break;
  }
  const std::size_t touched = std::min<std::size_t>(bytes, 256);  // the hardware goes on by itself after that
  for (std::size_t i = 0; i < count; ++i, out += bytes) {
    if (i + scattered::kAhead < count && source[i + scattered::kAhead] != nullptr)
      for (std::size_t line = 0; line < touched; line += 64)
        scattered::prefetch(source[i + scattered::kAhead] + line);
    if (source[i] != nullptr)
      std::memcpy(out, source[i], bytes);
    else
      std::memset(out, 0, bytes);
  }
}

}  // namespace rl
