// tfrecord.hpp on records built by hand, whole, cut at every byte, and with every bit flipped.
#include "tfrecord.hpp"

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

namespace {

using rl::tfrecord::State;

void expect(bool holds, const char *claim) {
  if (!holds) {
    std::fprintf(stderr, "%s\n", claim);
    std::exit(1);
  }
}

void put(std::vector<std::uint8_t> &out, std::uint64_t value, int bytes) {
  for (int k = 0; k < bytes; ++k)
    out.push_back(static_cast<std::uint8_t>(value >> 8 * k));
}

std::uint32_t masked(const std::vector<std::uint8_t> &data) {
  return rl::masked_crc32c({data.data(), data.data() + data.size()});
}

std::vector<std::uint8_t> header(std::uint64_t length) {
  std::vector<std::uint8_t> out;
  put(out, length, 8);
  put(out, masked(out), 4);
  return out;
}

std::vector<std::uint8_t> record(const std::string &payload) {
  std::vector<std::uint8_t> out = header(payload.size());
  out.insert(out.end(), payload.begin(), payload.end());
  put(out, masked({payload.begin(), payload.end()}), 4);
  return out;
}

rl::tfrecord::Record first(const std::vector<std::uint8_t> &data) {
  return rl::tfrecord::first_record({data.data(), data.data() + data.size()});
}

void whole() {
  // The masked checksum of "123456789": 0xE3069283 turned right by 15 bits, plus the constant.
  expect(masked({'1', '2', '3', '4', '5', '6', '7', '8', '9'}) == std::uint32_t{0x2507C60D} + 0xA282EAD8, "the mask");
  for (const std::string payload : {"", "a", "some bytes"}) {
    std::vector<std::uint8_t> data = record(payload);
    const std::size_t size = data.size();
    put(data, 0xFFFF, 2);  // of the next
    const auto found = first(data);
    expect(found.state == State::whole && found.size == size, "a whole record");
    expect(std::string(found.payload.data, found.payload.end) == payload, "its payload");
  }
}

void cut() {
  const std::vector<std::uint8_t> data = record("payload");
  for (std::size_t size = 0; size < data.size(); ++size) {
    const std::vector<std::uint8_t> part(data.begin(), data.begin() + static_cast<std::ptrdiff_t>(size));
    const auto found = first(part);
    expect(found.state == State::cut, "a record that is cut");
    expect(found.size == (size < rl::tfrecord::HEADER ? rl::tfrecord::HEADER : data.size()), "how large it must be");
  }
}

void damaged() {
  for (std::size_t bit = 0; bit < 8 * record("payload").size(); ++bit) {
    std::vector<std::uint8_t> data = record("payload");
    data[bit / 8] ^= static_cast<std::uint8_t>(1 << bit % 8);
    expect(first(data).state == State::damaged, "a bit that is not as it was");
  }
  expect(first(header(std::uint64_t{1} << 31)).state == State::damaged, "no record is of 2 GiB");
  expect(first(header(~std::uint64_t{0})).state == State::damaged, "nor larger than anything");
  expect(first(header((std::uint64_t{1} << 31) - 1)).state == State::cut, "one byte less may come");
}

}  // namespace

int main() {
  whole();
  cut();
  damaged();
}
