// Small files of a dataset, read whole in one go. Of some the size and the hash of each block of 1 MiB are known.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>

#include "mapping.hpp"
#include "xxh3.hpp"

namespace rl {

constexpr std::size_t kBlockBytes = std::size_t{1} << 20;

inline std::size_t num_blocks(std::size_t size) noexcept { return size / kBlockBytes + (size % kBlockBytes != 0); }

// Whether each block of some bytes has its hash, of which there are `num_blocks(size)`.
inline bool has_hashes(const char *data, std::size_t size, const std::uint64_t *expected) noexcept {
  for (std::size_t at = 0; at < size; at += kBlockBytes) {
    Xxh3 found;
    found.update(reinterpret_cast<const std::uint8_t *>(data) + at, std::min(kBlockBytes, size - at));
    if (found.digest() != *expected++) return false;
  }
  return true;
}

}  // namespace rl
