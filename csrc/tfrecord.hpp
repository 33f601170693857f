// Framing of TFRecord: `u64 length | u32 masked_crc(length) | payload | u32 masked_crc(payload)`, little-endian.
#pragma once

#include <cstddef>
#include <cstdint>

#include "crc32c.hpp"
#include "span.hpp"

namespace rl {

// The checksum as it stands in a file (TensorFlow, `tsl/lib/hash/crc32c.h`).
inline std::uint32_t masked_crc32c(Span data) {
  const std::uint32_t crc = crc32c(data.data, data.size());
  return (crc >> 15 | crc << 17) + 0xA282EAD8;
}

namespace tfrecord {

constexpr std::size_t HEADER = 12, FOOTER = 4;
constexpr std::uint64_t LONGEST = (std::uint64_t{1} << 31) - 1;  // no protobuf message is larger

inline std::uint64_t number(const std::uint8_t *data, int bytes) {
  std::uint64_t value = 0;
  for (int k = 0; k < bytes; ++k)
    value |= std::uint64_t{data[k]} << 8 * k;
  return value;
}

// `cut`: the bytes end before the record does. `damaged`: a checksum does not hold, or it is too long to be.
enum class State { whole, cut, damaged };

struct Record {
  State state;
  Span payload;
  std::uint64_t size;  // of all of it; of a header if there is none that is whole and right
};

// The record at the beginning of `rest`.
inline Record first_record(Span rest) {
  if (rest.size() < HEADER) return {State::cut, {}, HEADER};
  const std::uint64_t length = number(rest.data, 8);
  if (masked_crc32c({rest.data, rest.data + 8}) != number(rest.data + 8, 4) || length > LONGEST)
    return {State::damaged, {}, HEADER};
  const std::uint64_t size = HEADER + length + FOOTER;
  if (rest.size() < size) return {State::cut, {}, size};
  const Span payload = {rest.data + HEADER, rest.data + HEADER + length};
  const bool holds = masked_crc32c(payload) == number(payload.end, 4);
  return {holds ? State::whole : State::damaged, payload, size};
}

}  // namespace tfrecord

}  // namespace rl
