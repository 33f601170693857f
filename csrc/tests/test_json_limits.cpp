// The scan of JSON texts against counts worked out by hand, and on bytes that are no JSON.
#undef NDEBUG
#include "json_limits.hpp"

#include <cassert>
#include <cstdio>
#include <string>

namespace {

rl::JsonLimits scan(const std::string &text) { return rl::json_limits(text.data(), text.size()); }

void numbers_nesting_and_strings_are_told_apart() {
  assert(scan("{}").depth == 1 && scan("[[1], {\"a\": [2]}]").depth == 3 && scan("[[]][[]]").depth == 2);
  assert(scan("{\"[[[[\": \"{{\"}").depth == 1);
  assert(scan("[\"\\\"[[[\", 12345]").depth == 1 && scan("[\"\\\"[[[\", 12345]").digits == 5);
  assert(scan("{\"a\": \"1234567890\", \"b\": -12.345}").digits == 3);
  assert(scan("[1e5]").exponent && scan("[1.5E-3]").exponent && scan("[12, -7e0]").exponent);
  assert(!scan("{\"1e5\": \"2e7\", \"e\": true, \"f\": false}").exponent);
}

void any_bytes_end_the_scan() {
  for (const std::string &text : {std::string("\""), std::string("\"\\"), std::string("]]}}"), std::string("")})
    assert(scan(text).depth == 0);
  assert(scan(std::string(100000, '[')).depth == 100000);
}

}  // namespace

int main() {
  numbers_nesting_and_strings_are_told_apart();
  any_bytes_end_the_scan();
  std::puts("ok");
}
