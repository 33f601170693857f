// How deep a JSON text nests and how large its numbers can be, before anything is built from it.
#pragma once

#include <algorithm>
#include <cstddef>

namespace rl {

struct JsonLimits {
  std::size_t depth = 0;   // of lists and objects
  std::size_t digits = 0;  // in the longest run outside strings
  bool exponent = false;   // a number may have one
};

// One pass over any bytes; what it says of text that is not JSON has no meaning.
inline JsonLimits json_limits(const char *text, std::size_t size) noexcept {
  JsonLimits found;
  std::size_t depth = 0, digits = 0;
  for (std::size_t k = 0; k < size; ++k) {
    const char c = text[k];
    if (c >= '0' && c <= '9') {
      found.digits = std::max(found.digits, ++digits);
      continue;
    }
    found.exponent |= digits > 0 && (c == 'e' || c == 'E');
    digits = 0;
    if (c == '"') {
      while (++k < size && text[k] != '"')
        if (text[k] == '\\') ++k;
    } else if (c == '{' || c == '[') {
      found.depth = std::max(found.depth, ++depth);
    } else if ((c == '}' || c == ']') && depth > 0) {
      --depth;
    }
  }
  return found;
}

}  // namespace rl
