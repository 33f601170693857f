// Rows of unfiltered datasets of HDF5 files, which `hdf5_objects.hpp` told.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "hdf5_objects.hpp"

namespace rl::hdf5 {

// Whether rows `low … high - 1`, which are there, came to `out`; of a dataset without filters.
inline bool read_rows(const File &file, const Dataset &dataset, std::uint64_t low, std::uint64_t high,
                      std::uint8_t *out) {
  const auto row_bytes = dataset.row_bytes();
  if (low == high || row_bytes == 0) return true;
  if (dataset.chunk.empty())
    return file.read(dataset.places[0].offset + low * row_bytes, out, (high - low) * row_bytes);
  const auto &shape = dataset.shape, &chunk = dataset.chunk;
  const std::size_t axes = shape.size();
  std::uint64_t chunk_row = dataset.item, across = 1;
  for (std::size_t axis = 1; axis < axes; ++axis) {
    chunk_row *= chunk[axis];
    across *= (shape[axis] + chunk[axis] - 1) / chunk[axis];
  }
  Bytes room;
  std::vector<std::uint64_t> at(axes, 0), corner(axes), extent(axes);
  for (std::uint64_t band = low / chunk[0]; band * chunk[0] < high; ++band) {
    const auto first = std::max(low, band * chunk[0]), last = std::min(high, (band + 1) * chunk[0]);
    for (std::uint64_t n = 0; n < across; ++n) {
      const auto place = dataset.places[band * across + n].offset + (first - band * chunk[0]) * chunk_row;
      const auto bytes = (last - first) * chunk_row;
      if (across == 1 && chunk_row == row_bytes) {  // whole rows
        if (!file.read(place, out + (first - low) * row_bytes, bytes)) return false;
        continue;
      }
      room.resize(bytes);
      if (!file.read(place, room.data(), bytes)) return false;
      for (auto [axis, left] = std::pair{axes - 1, n}; axis > 0; --axis) {
        const auto count = (shape[axis] + chunk[axis] - 1) / chunk[axis];
        corner[axis] = left % count * chunk[axis];
        extent[axis] = std::min(chunk[axis], shape[axis] - corner[axis]);
        left /= count;
      }
      extent[0] = last - first;
      const auto run = extent[axes - 1] * dataset.item;  // bytes that lie together in both
      at.assign(axes, 0);
      for (bool is_over = false; !is_over;) {
        std::uint64_t from = at[0], to = first - low + at[0];
        for (std::size_t axis = 1; axis < axes; ++axis) {
          from = from * chunk[axis] + at[axis];
          to = to * shape[axis] + corner[axis] + at[axis];
        }
        std::memcpy(out + to * dataset.item, room.data() + from * dataset.item, run);
        std::size_t axis = axes - 1;
        is_over = true;
        while (axis > 0 && is_over) {
          --axis;
          is_over = ++at[axis] == extent[axis];
          if (is_over) at[axis] = 0;
        }
      }
    }
  }
  return true;
}

}  // namespace rl::hdf5
