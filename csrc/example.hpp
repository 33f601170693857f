// `tf.train.Example` as every writer in use lays it out: one map of features, each one list, numbers packed.
//
// What protobuf allows beyond that (split messages, repeated kinds, numbers with a tag each, unknown fields)
// and what is damaged is left to a slower reader: `parse` then says false, and nothing it told counts.
#pragma once

#include <cstddef>
#include <cstdint>

#include "span.hpp"

namespace rl {

enum class Kind { none, bytes, floats, integers };

namespace example {

constexpr std::uint8_t first = 0x0A, second = 0x12, third = 0x1A;  // tags of length-delimited fields

// The varint at the beginning of `rest`, which it leaves; false if it is cut or longer than 10 bytes.
inline bool varint(Span &rest, std::uint64_t &value) {
  value = 0;
  for (int shift = 0; shift < 70 && rest.data < rest.end; shift += 7) {
    const std::uint8_t byte = *rest.data++;
    value |= static_cast<std::uint64_t>(byte & 0x7F) << shift;
    if (byte < 0x80) return true;
  }
  return false;
}

// The payload of the field `tag` at the beginning of `rest`, which it leaves.
inline bool field(Span &rest, std::uint8_t tag, Span &payload) {
  std::uint64_t size = 0;
  if (rest.data == rest.end || *rest.data != tag) return false;
  ++rest.data;
  if (!varint(rest, size) || size > rest.size()) return false;
  payload = {rest.data, rest.data + size};
  rest.data = payload.end;
  return true;
}

// The payload of a message that is this one field, or nothing at all.
inline bool alone(Span message, std::uint8_t tag, Span &payload) {
  payload = {message.data, message.data};
  return message.size() == 0 || (field(message, tag, payload) && message.size() == 0);
}

}  // namespace example

// How many packed varints there are, and whether each is one byte; false if one is cut or longer than 10 bytes.
inline bool count_integers(Span packed, std::size_t &count, bool &is_small) {
  std::uint8_t all = 0;
  for (const std::uint8_t *at = packed.data; at < packed.end; ++at)
    all |= *at;
  is_small = all < 0x80;
  count = packed.size();
  if (is_small) return true;
  count = 0;
  std::size_t before = 0;  // bytes of the number that is not over yet
  for (const std::uint8_t *at = packed.data; at < packed.end; ++at) {
    before = *at < 0x80 ? 0 : before + 1;
    if (before == 10) return false;
    count += *at < 0x80;
  }
  return before == 0;
}

// Writes packed varints that were counted.
inline void read_integers(Span packed, std::int64_t *values) {
  while (packed.size()) {
    std::uint64_t value = *packed.data;
    if (value < 0x80) {
      ++packed.data;
    } else {
      example::varint(packed, value);
    }
    *values++ = static_cast<std::int64_t>(value);
  }
}

// The byte strings of a list in order, each told to `take(Span)`; false if one runs past the list.
template <typename Take> bool byte_strings(Span list, Take &&take) {
  Span value;
  while (list.size()) {
    if (!example::field(list, example::first, value)) return false;
    take(value);
  }
  return true;
}

// Tells `take(Span name, Kind kind, Span values)` of each feature: packed floats or varints, or a list of byte
// strings. `take` returns false to stop; so does `parse` then.
template <typename Take> bool parse(Span record, Take &&take) {
  Span features, entry, name, feature, list, values;
  if (!example::alone(record, example::first, features)) return false;
  while (features.size()) {
    if (!example::field(features, example::first, entry)) return false;
    if (!example::field(entry, example::first, name) || !example::alone(entry, example::second, feature)) return false;
    Kind kind = Kind::none;
    values = {};
    if (feature.size()) {
      const std::uint8_t tag = *feature.data;
      if (!example::alone(feature, tag, list)) return false;
      switch (tag) {
      case example::first:
        kind = Kind::bytes;
        values = list;
        break;
      case example::second:
        kind = Kind::floats;
        if (!example::alone(list, example::first, values) || values.size() % 4) return false;
        break;
      case example::third:
        kind = Kind::integers;
        if (!example::alone(list, example::first, values)) return false;
        break;
      default:
        return false;
      }
    }
    if (!take(name, kind, values)) return false;
  }
  return true;
}

}  // namespace rl
