// Bytes that are somebody else's.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rl {

struct Span {
  const std::uint8_t *data = nullptr, *end = nullptr;
  std::size_t size() const { return static_cast<std::size_t>(end - data); }
};

}  // namespace rl
