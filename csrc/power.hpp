// Powers of many numbers at once: no call for each, and the same bits on every processor.
//
// Nothing here may be contracted to fused products, which round otherwise: compile with -ffp-contract=off.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace rl {

namespace power {

__attribute__((always_inline)) inline std::uint64_t bits_of(double value) noexcept {
  std::uint64_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

__attribute__((always_inline)) inline double of_bits(std::uint64_t bits) noexcept {
  double value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// What `of` can do: 2^±998 at most.
constexpr double kLeast = 1e-75, kMost = 1e75, kMostExponent = 4;

// base^exponent to a few units in the last place, for base in [kLeast, kMost] and |exponent| <= kMostExponent. Without
// branches, so that a loop over it becomes vectors. `head` is `exponent` without its last 11 bits.
__attribute__((always_inline)) inline double of(double base, double exponent, double head) noexcept {
  // base = 2^whole * part with part in [sqrt(1/2), sqrt(2)).
  constexpr std::uint64_t one = std::uint64_t{1023} << 52, root = 0x3FE6A09E667F3BCD;
  const std::uint64_t bits = bits_of(base), biased = (bits - root + one) >> 52;
  const double whole = of_bits(std::uint64_t{0x433} << 52 | biased) - (0x1p52 + 1023);
  const double part = of_bits(bits - (biased << 52) + one);
  // log2(part) = 2 / ln 2 * (z + z^3 / 3 + z^5 / 5 + …)
  const double z = (part - 1) / (part + 1), w = z * z;
  const double w2 = w * w, w4 = w2 * w2;
  const double low = (1.0 / 3 + w * (1.0 / 5)) + w2 * (1.0 / 7 + w * (1.0 / 9));
  const double middle = (1.0 / 11 + w * (1.0 / 13)) + w2 * (1.0 / 15 + w * (1.0 / 17));
  const double series = low + w4 * (middle + w4 * (1.0 / 19 + w * (1.0 / 21)));
  const double log = (z + z * w * series) * 2.8853900817779268;
  // The power is 2^(nearest + rest), |rest| <= 1/2; head * whole is exact.
  const double small = (exponent - head) * whole + exponent * log;
  const double shifted = head * whole + small + 0x1.8p52, nearest = shifted - 0x1.8p52;
  const double t = (head * whole - nearest + small) * 0.6931471805599453;
  const double t2 = t * t, t4 = t2 * t2;  // e^t = 1 + t + t^2 / 2 + …
  const double first = (0.5 + t * (1.0 / 6)) + t2 * (1.0 / 24 + t * (1.0 / 120));
  const double second = (1.0 / 720 + t * (1.0 / 5040)) + t2 * (1.0 / 40320 + t * (1.0 / 362880));
  const double third = (1.0 / 3628800 + t * (1.0 / 39916800)) + t2 * (1.0 / 479001600 + t * (1.0 / 6227020800));
  const double sum = 1 + (t + t2 * (first + t4 * (second + t4 * third)));
  return of_bits(bits_of(sum) + (bits_of(shifted) << 52));
}

__attribute__((always_inline)) inline bool can(double base) noexcept { return base >= kLeast && base <= kMost; }

__attribute__((always_inline)) inline void loop(const double *bases, std::size_t count, double exponent, double *out) {
  const double head = of_bits(bits_of(exponent) >> 11 << 11);
  constexpr std::size_t kTogether = 64;
  for (std::size_t begin = 0; begin < count; begin += kTogether, bases += kTogether, out += kTogether) {
    const std::size_t length = count - begin < kTogether ? count - begin : kTogether;
    double base[kTogether], found[kTogether];
    bool all = true;
    for (std::size_t i = 0; i < length; ++i)
      all &= can(base[i] = bases[i]);
    for (std::size_t i = 0; i < length; ++i)
      found[i] = of(base[i], exponent, head);
    for (std::size_t i = 0; !all && i < length; ++i)
      if (!can(base[i])) found[i] = std::pow(base[i], exponent);
    std::memcpy(out, found, length * sizeof *out);
  }
}

inline void portably(const double *bases, std::size_t count, double exponent, double *out) {
  loop(bases, count, exponent, out);
}

using Powers = void (*)(const double *bases, std::size_t count, double exponent, double *out);

#if defined(__x86_64__) && defined(__GNUC__)
__attribute__((target("avx2"))) inline void avx2(const double *bases, std::size_t count, double exponent, double *out) {
  loop(bases, count, exponent, out);
}
inline Powers fastest() noexcept { return __builtin_cpu_supports("avx2") ? avx2 : portably; }
#else
inline Powers fastest() noexcept { return portably; }
#endif

}  // namespace power

// out[i] = bases[i]^exponent, bases >= 0; `out` may be `bases`. What comes out does not depend on the other bases.
inline void powers(const double *bases, std::size_t count, double exponent, double *out) {
  static const power::Powers fastest = power::fastest();
  if (exponent == 1)
    std::copy_n(bases, count, out);
  else if (exponent == 0)
    std::fill_n(out, count, 1.0);
  else if (exponent == 0.5)
    std::transform(bases, bases + count, out, [](double base) { return std::sqrt(base); });
  else if (std::abs(exponent) <= power::kMostExponent)
    fastest(bases, count, exponent, out);
  else
    std::transform(bases, bases + count, out, [=](double base) { return std::pow(base, exponent); });
}

}  // namespace rl
