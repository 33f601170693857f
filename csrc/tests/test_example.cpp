// example.hpp on records built by hand, whole and cut at every byte, under the sanitizers.
#include "example.hpp"

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

namespace {

void expect(bool holds, const char *claim) {
  if (!holds) {
    std::fprintf(stderr, "%s\n", claim);
    std::exit(1);
  }
}

rl::Span span(const std::string &text) {
  const auto *data = reinterpret_cast<const std::uint8_t *>(text.data());
  return {data, data + text.size()};
}

std::string field(char tag, const std::string &payload) {
  expect(payload.size() < 0x80, "payloads of these tests have lengths of one byte");
  return std::string{tag, static_cast<char>(payload.size())} + payload;
}

std::string feature(const std::string &name, char kind, const std::string &list) {
  return field(0x0A, field(0x0A, name) + field(0x12, field(kind, list)));
}

struct Told {
  std::string name;
  rl::Kind kind;
  std::string values;
};

// A copy of exactly its size, so that the sanitizer sees a byte read beyond it.
bool told(const std::string &record, std::vector<Told> &out) {
  const std::vector<std::uint8_t> exact(record.begin(), record.end());
  return rl::parse({exact.data(), exact.data() + exact.size()}, [&](rl::Span name, rl::Kind kind, rl::Span values) {
    out.push_back({{name.data, name.end}, kind, {values.data, values.end}});
    return true;
  });
}

void every_kind() {
  const std::string floats(8, '\x01'), strings = field(0x0A, "ab") + field(0x0A, "");
  const std::string record =
      field(0x0A, feature("f", 0x12, field(0x0A, floats)) + feature("i", 0x1A, field(0x0A, "\x01\x02")) +
                      feature("b", 0x0A, strings) + feature("empty", 0x1A, "") +
                      field(0x0A, field(0x0A, "none") + field(0x12, "")));
  std::vector<Told> found;
  expect(told(record, found) && found.size() == 5, "a usual record is parsed");
  expect(found[0].kind == rl::Kind::floats && found[0].values == floats, "floats");
  expect(found[1].kind == rl::Kind::integers && found[1].values == "\x01\x02", "integers");
  expect(found[2].kind == rl::Kind::bytes && found[2].values == strings, "byte strings");
  expect(found[3].kind == rl::Kind::integers && found[3].values.empty(), "an empty list keeps its kind");
  expect(found[4].kind == rl::Kind::none && found[4].name == "none", "a feature without a kind");
  for (std::size_t size = 1; size < record.size(); ++size) {
    std::vector<Told> none;
    expect(!told(record.substr(0, size), none), "a cut record is not parsed");
  }
  std::vector<Told> none;
  expect(told("", none) && none.empty(), "an empty record has no features");
}

void unusual() {
  std::vector<Told> none;
  const std::string one = feature("i", 0x1A, field(0x0A, "\x01"));
  expect(!told(field(0x0A, one) + field(0x0A, one), none), "two maps are another reader's");
  expect(!told(field(0x0A, feature("i", 0x1A, "\x08\x01")), none), "numbers with tags are another reader's");
  expect(!told(field(0x12, one), none), "a SequenceExample is another reader's");
  expect(!told(field(0x0A, feature("f", 0x12, field(0x0A, "abc"))), none), "floats come in fours");
}

void varints() {
  const std::string packed = "\x05\x80\x01" + std::string(9, '\xFF') + "\x01";
  std::size_t count = 0;
  std::int64_t values[3] = {};
  bool is_small = true;
  expect(rl::count_integers(span(packed), count, is_small) && count == 3 && !is_small, "three varints");
  rl::read_integers(span(packed), values);
  expect(values[0] == 5 && values[1] == 128 && values[2] == -1, "their values");
  expect(!rl::count_integers(span("\x80"), count, is_small), "the last is cut");
  expect(!rl::count_integers(span(std::string(10, '\x80') + "\x01"), count, is_small), "eleven bytes are none");
  expect(rl::count_integers(span("\x7F\x01"), count, is_small) && count == 2 && is_small, "two of a byte each");
  expect(rl::count_integers({}, count, is_small) && count == 0 && is_small, "none at all");
}

}  // namespace

int main() {
  every_kind();
  unusual();
  varints();
}
