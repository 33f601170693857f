// How the hashes of a growing file are told to Python.
#pragma once

#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include <pybind11/stl.h>

#include "bind.hpp"
#include "column_writer.hpp"

inline std::string hex(std::uint64_t value) {
  char digits[17];
  std::snprintf(digits, sizeof digits, "%016" PRIx64, value);
  return digits;
}

// (the hashes of the blocks that have bytes, in a file of `size`; XXH3-128 of all bytes, or "" of so few that it must
// be computed from them), in hex digits.
inline py::tuple told(const rl::GrowingSums &sums, std::size_t size) {
  std::vector<std::string> blocks;
  {
    const py::gil_scoped_release unlocked;
    for (const std::uint64_t block : sums.blocks(size))
      blocks.push_back(hex(block));
  }
  if (sums.all().total() <= rl::Xxh3::SHORT) return py::make_tuple(blocks, "");
  const auto content = sums.all().digest128();
  return py::make_tuple(blocks, hex(content[1]) + hex(content[0]));
}
