// Random numbers as a pure function of (seed, stream, batch, index): the same on every machine, in any order, from
// any number of threads.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rl {

__extension__ typedef unsigned __int128 Wide;

// Philox4x64-10 (Salmon, Moraes, Dror & Shaw, 2011): counter (block, batch, 0, 0), key (seed, stream).
class Random {
public:
  Random(std::uint64_t seed, std::uint64_t stream, std::uint64_t batch) noexcept : key_{seed, stream}, batch_(batch) {}

  // Numbers [0, count) of this batch. Number i is word i % 4 of block i / 4.
  void fill(std::uint64_t *out, std::size_t count) const noexcept {
    std::uint64_t words[4];
    for (std::size_t i = 0; i < count; i += 4) {
      block(i / 4, words);
      for (std::size_t k = 0; k < 4 && i + k < count; ++k)
        out[i + k] = words[k];
    }
  }

  void block(std::uint64_t number, std::uint64_t out[4]) const noexcept {
    std::uint64_t c0 = number, c1 = batch_, c2 = 0, c3 = 0, k0 = key_[0], k1 = key_[1];
    for (int round = 0; round < 10; ++round) {
      const Wide p0 = static_cast<Wide>(0xD2E7470EE14C6C93u) * c0, p1 = static_cast<Wide>(0xCA5A826395121157u) * c2;
      c0 = static_cast<std::uint64_t>(p1 >> 64) ^ c1 ^ k0;
      c1 = static_cast<std::uint64_t>(p1);
      c2 = static_cast<std::uint64_t>(p0 >> 64) ^ c3 ^ k1;
      c3 = static_cast<std::uint64_t>(p0);
      k0 += 0x9E3779B97F4A7C15u;
      k1 += 0xBB67AE8584CAA73Bu;
    }
    out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
  }

private:
  std::uint64_t key_[2];
  std::uint64_t batch_;
};

// In [0, count), each with probability 1/count up to count * 2^-64. One number each, never a rejection.
inline std::uint64_t below(std::uint64_t number, std::uint64_t count) noexcept {
  return static_cast<std::uint64_t>(static_cast<Wide>(number) * count >> 64);
}

// In [0, 1), a multiple of 2^-53.
inline double unit(std::uint64_t number) noexcept { return static_cast<double>(number >> 11) * 0x1p-53; }

// A permutation of [0, count) that needs no memory: rounds of additions on the digits (a, b) of a * width + b, outputs
// outside the range walked on until they are inside.
class Permutation {
public:
  Permutation(std::uint64_t seed, std::uint64_t stream, std::uint64_t epoch, std::uint64_t count) noexcept
      : count_(count), width_(root(count)), height_(count == 0 ? 1 : (count + width_ - 1) / width_) {
    Random(seed, stream, epoch).fill(keys_, kRounds);
  }

  std::uint64_t operator()(std::uint64_t index) const noexcept {
    do {
      std::uint64_t a = index / width_, b = index % width_;
      for (std::size_t round = 0; round < kRounds; round += 2) {
        a += below(mix(b ^ keys_[round]), height_);
        a -= a >= height_ ? height_ : 0;
        b += below(mix(a ^ keys_[round + 1]), width_);
        b -= b >= width_ ? width_ : 0;
      }
      index = a * width_ + b;
    } while (index >= count_);
    return index;
  }

private:
  static constexpr std::size_t kRounds = 12;

  // The smallest number, at least 1, whose square is not below `count`.
  static std::uint64_t root(std::uint64_t count) noexcept {
    std::uint64_t low = 1, high = 0xFFFFFFFFu;
    while (low < high) {
      const std::uint64_t middle = (low + high) / 2;
      if (middle * middle < count)
        low = middle + 1;
      else
        high = middle;
    }
    return low;
  }

  // The finaliser of SplitMix64 (Steele, Lea & Flood, 2014).
  static std::uint64_t mix(std::uint64_t z) noexcept {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }

  std::uint64_t count_, width_, height_;
  std::uint64_t keys_[kRounds];
};

}  // namespace rl
