// The inner loop of XXH3 over eight 64-bit lanes, for the processor at hand.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__) && defined(__GNUC__)
#if !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12 sees its own headers' deliberate ones
#define RL_XXH3_POP
#endif
#include <immintrin.h>
#endif

namespace rl::xxh3 {

constexpr std::uint64_t P32_1 = 0x9E3779B1;
constexpr std::size_t STRIPE = 64, STRIPES_PER_BLOCK = 16, SECRET_BYTES = 192;
constexpr std::size_t SCRAMBLE_SECRET = SECRET_BYTES - STRIPE;

// Takes in `count` stripes after `before` ones of the current block; returns how many that block has then. Where there
// is a `twin` it takes in the same, at the cost of next to nothing.
using Consume = std::size_t (*)(std::uint64_t *acc, std::uint64_t *twin, std::size_t before, const std::uint8_t *data,
                                std::size_t count, const std::uint8_t *secret);

inline void accumulate(std::uint64_t *acc, const std::uint8_t *stripe, const std::uint8_t *secret) noexcept {
  std::uint64_t value[8], keyed[8];
  std::memcpy(value, stripe, STRIPE);
  std::memcpy(keyed, secret, STRIPE);
  for (std::size_t i = 0; i < 8; ++i) {
    keyed[i] ^= value[i];
    acc[i] += value[i ^ 1] + (keyed[i] & 0xFFFFFFFF) * (keyed[i] >> 32);
  }
}

inline void scramble(std::uint64_t *acc, const std::uint8_t *secret) noexcept {
  std::uint64_t key[8];
  std::memcpy(key, secret + SCRAMBLE_SECRET, sizeof key);
  for (std::size_t i = 0; i < 8; ++i)
    acc[i] = (acc[i] ^ acc[i] >> 47 ^ key[i]) * P32_1;
}

inline std::size_t consume_portably(std::uint64_t *acc, std::uint64_t *twin, std::size_t before,
                                    const std::uint8_t *data, std::size_t count, const std::uint8_t *secret) {
  while (count) {
    const std::size_t part = std::min(count, STRIPES_PER_BLOCK - before);
    std::uint64_t sum[8] = {};
    for (std::size_t n = 0; n < part; ++n)
      accumulate(sum, data + n * STRIPE, secret + 8 * (before + n));
    data += part * STRIPE, count -= part, before = (before + part) % STRIPES_PER_BLOCK;
    for (std::uint64_t *each : {acc, twin}) {
      if (each == nullptr) continue;
      for (std::size_t i = 0; i < 8; ++i)
        each[i] += sum[i];
      if (before == 0) scramble(each, secret);
    }
  }
  return before;
}

#if defined(__x86_64__) && defined(__GNUC__)

__attribute__((target("avx2"))) inline std::size_t consume_avx2(std::uint64_t *acc, std::uint64_t *twin,
                                                                std::size_t before, const std::uint8_t *data,
                                                                std::size_t count, const std::uint8_t *secret) {
  __m256i lanes[2], others[2] = {};
  std::memcpy(lanes, acc, sizeof lanes);
  if (twin != nullptr) std::memcpy(others, twin, sizeof others);
  const __m256i prime = _mm256_set1_epi64x(P32_1);
  while (count) {
    const std::size_t part = std::min(count, STRIPES_PER_BLOCK - before);
    __m256i sum[2] = {}, values[2] = {};
    for (std::size_t n = 0; n < part; ++n)
      for (std::size_t half = 0; half < 2; ++half) {
        const __m256i value = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(data + n * STRIPE) + half);
        const __m256i key = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(secret + 8 * (before + n)) + half);
        const __m256i keyed = _mm256_xor_si256(value, key);
        values[half] = _mm256_add_epi64(values[half], value);
        sum[half] = _mm256_add_epi64(sum[half], _mm256_mul_epu32(keyed, _mm256_shuffle_epi32(keyed, 0xB1)));
      }
    for (std::size_t half = 0; half < 2; ++half)
      sum[half] = _mm256_add_epi64(sum[half], _mm256_shuffle_epi32(values[half], 0x4E));  // the neighbours' values
    data += part * STRIPE, count -= part, before = (before + part) % STRIPES_PER_BLOCK;
    for (__m256i *each : {lanes, others})
      for (std::size_t half = 0; half < 2; ++half) {
        each[half] = _mm256_add_epi64(each[half], sum[half]);
        if (before != 0) continue;
        const __m256i key = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(secret + SCRAMBLE_SECRET) + half);
        const __m256i mixed = _mm256_xor_si256(_mm256_xor_si256(each[half], _mm256_srli_epi64(each[half], 47)), key);
        const __m256i high = _mm256_mul_epu32(_mm256_srli_epi64(mixed, 32), prime);
        each[half] = _mm256_add_epi64(_mm256_mul_epu32(mixed, prime), _mm256_slli_epi64(high, 32));
      }
  }
  std::memcpy(acc, lanes, sizeof lanes);
  if (twin != nullptr) std::memcpy(twin, others, sizeof others);
  return before;
}

__attribute__((target("avx512f"))) inline __m512i scrambled_avx512(__m512i lanes, const std::uint8_t *secret) noexcept {
  const __m512i prime = _mm512_set1_epi64(P32_1), key = _mm512_loadu_si512(secret + SCRAMBLE_SECRET);
  const __m512i mixed = _mm512_xor_si512(_mm512_xor_si512(lanes, _mm512_srli_epi64(lanes, 47)), key);
  const __m512i high = _mm512_mul_epu32(_mm512_srli_epi64(mixed, 32), prime);
  return _mm512_add_epi64(_mm512_mul_epu32(mixed, prime), _mm512_slli_epi64(high, 32));
}

__attribute__((target("avx512f"))) inline std::size_t consume_avx512(std::uint64_t *acc, std::uint64_t *twin,
                                                                     std::size_t before, const std::uint8_t *data,
                                                                     std::size_t count, const std::uint8_t *secret) {
  __m512i lanes = _mm512_loadu_si512(acc), others = _mm512_loadu_si512(twin != nullptr ? twin : acc);
  while (count) {
    const std::size_t part = std::min(count, STRIPES_PER_BLOCK - before);
    __m512i sum = _mm512_setzero_si512(), values = sum;
    for (std::size_t n = 0; n < part; ++n) {
      const __m512i value = _mm512_loadu_si512(data + n * STRIPE);
      const __m512i keyed = _mm512_xor_si512(value, _mm512_loadu_si512(secret + 8 * (before + n)));
      values = _mm512_add_epi64(values, value);
      sum = _mm512_add_epi64(sum, _mm512_mul_epu32(keyed, _mm512_shuffle_epi32(keyed, _MM_PERM_CDAB)));
    }
    sum = _mm512_add_epi64(sum, _mm512_shuffle_epi32(values, _MM_PERM_BADC));  // each lane adds its neighbour's values
    data += part * STRIPE, count -= part, before = (before + part) % STRIPES_PER_BLOCK;
    lanes = _mm512_add_epi64(lanes, sum), others = _mm512_add_epi64(others, sum);
    if (before == 0) lanes = scrambled_avx512(lanes, secret), others = scrambled_avx512(others, secret);
  }
  _mm512_storeu_si512(acc, lanes);
  if (twin != nullptr) _mm512_storeu_si512(twin, others);
  return before;
}

#if defined(RL_XXH3_POP)
#pragma GCC diagnostic pop
#undef RL_XXH3_POP
#endif

inline Consume fastest_consume() noexcept {
  if (__builtin_cpu_supports("avx512f")) return consume_avx512;
  if (__builtin_cpu_supports("avx2")) return consume_avx2;
  return consume_portably;
}

#else

inline Consume fastest_consume() noexcept { return consume_portably; }

#endif

}  // namespace rl::xxh3
