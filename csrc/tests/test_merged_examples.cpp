// merged_examples.hpp: what is alike is merged in order, what is not leaves no trace; damage under the sanitizers.
#include "merged_examples.hpp"

#include <cstdio>
#include <cstdlib>
#include <deque>
#include <string>
#include <vector>

namespace {

using rl::MergedExamples;
using rl::MergedFeature;

void expect(bool holds, const char *claim) {
  if (!holds) {
    std::fprintf(stderr, "%s\n", claim);
    std::exit(1);
  }
}

std::string field(char tag, const std::string &payload) {
  expect(payload.size() < 0x80, "payloads of these tests have lengths of one byte");
  return std::string{tag, static_cast<char>(payload.size())} + payload;
}

std::string feature(const std::string &name, char kind, const std::string &list) {
  return field(0x0A, field(0x0A, name) + field(0x12, field(kind, list)));
}

std::string integers(const std::string &name, const std::string &packed) {
  return feature(name, 0x1A, packed.empty() ? "" : field(0x0A, packed));
}

std::string floats(const std::string &name, const std::vector<float> &values) {
  const std::string packed(reinterpret_cast<const char *>(values.data()), 4 * values.size());
  return feature(name, 0x12, field(0x0A, packed));
}

// Records where they stay, each of exactly its size, so that the sanitizer sees a byte read beyond it.
class Records {
public:
  rl::Span operator()(const std::string &features) { return as_it_is(field(0x0A, features)); }

  rl::Span as_it_is(const std::string &record) {
    held_.emplace_back(record.begin(), record.end());
    return {held_.back().data(), held_.back().data() + held_.back().size()};
  }

private:
  std::deque<std::vector<std::uint8_t>> held_;
};

void in_order() {
  Records record;
  MergedExamples merged;
  const std::string strings = field(0x0A, "x") + field(0x0A, "");
  expect(merged.add(record(integers("i", "\x01\x02") + floats("f", {1.5F}) + feature("b", 0x0A, strings))),
         "the first");
  expect(merged.add(record(feature("b", 0x0A, field(0x0A, "yz")) + integers("i", "\x83\x01") + floats("f", {2.5F, 3}))),
         "another order of features");
  expect(merged.size() == 2 && merged.features().size() == 3, "two records of three features");
  const MergedFeature &i = merged.features()[0], &f = merged.features()[1], &b = merged.features()[2];
  std::int64_t numbers[3];
  read_integers(i, numbers);
  expect(i.name == "i" && i.total == 3 && numbers[0] == 1 && numbers[1] == 2 && numbers[2] == 131, "integers in turn");
  expect(i.counts == std::vector<std::int64_t>{2, 1} && !i.is_small, "how many each has");
  float values[3];
  read_floats(f, values);
  expect(f.total == 3 && values[0] == 1.5F && values[1] == 2.5F && values[2] == 3, "floats in turn");
  std::string all;
  read_strings(b, [&](rl::Span value) { all += std::string(value.data, value.end) + '|'; });
  expect(b.total == 3 && all == "x||yz|", "byte strings in turn");
}

void small() {
  Records record;
  MergedExamples merged;
  expect(merged.add(record(integers("i", "\x01\x7F"))) && merged.add(record(integers("i", std::string(1, 0)))), "two");
  std::uint8_t bytes[3];
  read_small_integers(merged.features()[0], bytes);
  expect(merged.features()[0].is_small && bytes[0] == 1 && bytes[1] == 0x7F && bytes[2] == 0, "a byte each");
}

void not_alike() {
  const std::string first = integers("i", "\x01") + integers("j", "");
  const std::string others[] = {
      integers("i", "\x01"),                                                // one is missing
      first + integers("k", ""),                                            // one more
      integers("i", "\x01") + integers("k", ""),                            // another name
      integers("i", "\x01") + integers("i", "\x01"),                        // a name twice
      first + integers("i", "\x01"),                                        // and once more
      floats("i", {1}) + integers("j", ""),                                 // another kind
      integers("i", "\x01") + integers("j", "\x01"),                        // not empty any more
      integers("i", "") + integers("j", ""),                                // empty now
      integers("j", "") + integers("i", std::string(11, '\x80') + "\x01"),  // no integer
  };
  for (const std::string &other : others) {
    Records record;
    MergedExamples merged;
    expect(merged.add(record(first)), "the first");
    expect(!merged.add(record(other)), "one that is not alike");
    expect(merged.add(record(integers("j", "") + integers("i", "\x02"))), "one that is, after it");
    std::int64_t numbers[2];
    const MergedFeature &i = merged.features()[0];
    read_integers(i, numbers);
    expect(merged.size() == 2 && merged.features().size() == 2 && i.total == 2, "no trace of the other");
    expect(numbers[0] == 1 && numbers[1] == 2, "its neighbours' values");
  }
  Records record;
  MergedExamples merged;
  expect(!merged.add(record(first + first)) && merged.size() == 0 && merged.features().empty(), "not even the first");
  expect(merged.add(record(first)) && merged.size() == 1, "and then the first");
}

// Two records, with every byte of the second set to values that mean something, and cut at every byte.
void damaged() {
  const std::string usual = field(0x0A, integers("i", "\x01\x82\x03") + floats("f", {1, 2}) +
                                            feature("b", 0x0A, field(0x0A, "abc") + field(0x0A, "")));
  Records record;
  const rl::Span first = record.as_it_is(usual);
  const auto read = [&](const std::string &second) {
    Records other;
    MergedExamples merged;
    expect(merged.add(first), "the first");
    const bool added = merged.add(other.as_it_is(second));
    expect(merged.size() == 1u + added, "one or two");
    for (const MergedFeature &feature : merged.features()) {
      std::vector<std::int64_t> numbers(feature.total);
      std::vector<float> values(feature.total);
      std::size_t strings = 0;
      if (feature.kind == rl::Kind::integers) read_integers(feature, numbers.data());
      if (feature.kind == rl::Kind::floats) read_floats(feature, values.data());
      if (feature.kind == rl::Kind::bytes) {
        read_strings(feature, [&](rl::Span) { ++strings; });
        expect(strings == feature.total, "as many strings as were counted");
      }
    }
  };
  for (std::size_t at = 0; at <= usual.size(); ++at) {
    read(usual.substr(0, at));
    for (const int byte : {0x00, 0x01, 0x0A, 0x12, 0x1A, 0x7F, 0x80, 0xFF}) {
      std::string second = usual;
      if (at < second.size()) second[at] = static_cast<char>(byte);
      read(second);
    }
  }
}

}  // namespace

int main() {
  in_order();
  small();
  not_alike();
  damaged();
}
