// Float32 matrix products on bfloat16 units (Intel AMX), as exact as those of float32 units.
//
// Each number is the sum of three bfloat16 numbers, which hold its 24 bits: x = high + middle + low. Six of the
// nine products of two such sums, added in float32, give the product to float32's own precision: what is left out
// is at most 2^-23 of it. (Henry, Tang, Heinecke, 2019, arXiv 1904.06376.)
//
// Numbers below 2^-110 lose bits, as the units take denormals for zero; an infinity gives NaN.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#if defined(__x86_64__) && defined(__linux__) && (defined(__GNUC__) || defined(__clang__))
#define RL_HAS_TILES 1
#include <cpuid.h>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push  // of GCC about its own header
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#else
#include <immintrin.h>
#endif
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace rl::product {

// A matrix in memory: element (i, j) is at data[i * row + j * column].
struct Matrix {
  const float *data;
  std::size_t rows, columns;
  std::ptrdiff_t row, column;

  Matrix transposed() const noexcept { return {data, columns, rows, column, row}; }
};

// What `multiply` may be called on: whether this CPU has the units and the system lets this process use them.
inline bool supported() noexcept {
#if RL_HAS_TILES
  static const bool answer = [] {
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    const bool tiles = (d >> 24 & 1) != 0 && (d >> 22 & 1) != 0;
    if (!tiles || !__get_cpuid_count(7, 1, &a, &b, &c, &d)) return false;
    const bool converts = (a >> 5 & 1) != 0;
    constexpr long request_permission = 0x1023, tile_data = 18;  // of Linux' arch_prctl
    return converts && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
  }();
  return answer;
#else
  return false;
#endif
}

#if RL_HAS_TILES
#define RL_TILES __attribute__((target("amx-tile,amx-bf16,avx512f,avx512bw,avx512vl,avx512bf16")))

constexpr std::size_t kLanes = 16, kDepth = 32, kParts = 3;  // a tile: 16 lanes of 32 bfloat16
constexpr std::size_t kTile = kLanes * kDepth;               // its numbers
constexpr int kLine = kDepth * sizeof(std::uint16_t);        // bytes from one lane to the next
constexpr std::size_t kBlock = 2 * kLanes;                   // lanes that are multiplied at a time
constexpr std::size_t kStep = 2 * kParts * kTile;            // numbers of a block per tile's depth

// Sixteen vectors of sixteen 32-bit values, transposed.
RL_TILES inline void transpose(__m512i *v) noexcept {
  __m512i a[16];
  for (int i = 0; i < 16; i += 2) {
    a[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
    a[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    v[i] = _mm512_unpacklo_epi64(a[i], a[i + 2]);
    v[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 2]);
    v[i + 2] = _mm512_unpacklo_epi64(a[i + 1], a[i + 3]);
    v[i + 3] = _mm512_unpackhi_epi64(a[i + 1], a[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    a[i] = _mm512_shuffle_i32x4(v[i], v[i + 4], 0x88);
    a[i + 4] = _mm512_shuffle_i32x4(v[i], v[i + 4], 0xdd);
    a[i + 8] = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0x88);
    a[i + 12] = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0xdd);
  }
  for (int i = 0; i < 8; ++i) {
    v[i] = _mm512_shuffle_i32x4(a[i], a[i + 8], 0x88);
    v[i + 8] = _mm512_shuffle_i32x4(a[i], a[i + 8], 0xdd);
  }
}

// The upper halves of both, as one 32-bit value each.
RL_TILES inline __m512i upper_halves(__m512i low, __m512i high) noexcept {
  const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000));
  return _mm512_ternarylogic_epi32(upper, high, _mm512_srli_epi32(low, 16), 0xca);  // upper ? high : low
}

// The three parts of two vectors of numbers, each pair (first[i], second[i]) as one 32-bit value.
RL_TILES inline void split(__m512 first, __m512 second, __m512i *parts) noexcept {
  const __m512i half = _mm512_set1_epi32(0x8000), upper = _mm512_set1_epi32(static_cast<int>(0xffff0000));
  for (std::size_t part = 0; part + 1 < kParts; ++part) {
    const __m512i low = _mm512_add_epi32(_mm512_castps_si512(first), half);  // rounds; the parts' sum stays exact
    const __m512i high = _mm512_add_epi32(_mm512_castps_si512(second), half);
    parts[part] = upper_halves(low, high);
    first = _mm512_sub_ps(first, _mm512_castsi512_ps(_mm512_and_si512(low, upper)));
    second = _mm512_sub_ps(second, _mm512_castsi512_ps(_mm512_and_si512(high, upper)));
  }
  parts[kParts - 1] = upper_halves(_mm512_castps_si512(first), _mm512_castps_si512(second));  // 8 bits are left
}

// One tile of each part of `from` [lanes, depth], zeros around it: lane by lane, or by pairs of depths. The pairs
// are (i, i + 16), in both matrices.
RL_TILES inline void pack_tile(const Matrix &from, bool by_lane, std::uint16_t *to) noexcept {
  __m512i parts[kParts][kLanes];
  const auto mask = [](std::size_t count) noexcept {
    return static_cast<__mmask16>((1u << std::min<std::size_t>(count, 16)) - 1);
  };
  const bool along_depth = from.column == 1;
  const std::size_t after = from.columns > kLanes ? from.columns - kLanes : 0;
  for (std::size_t i = 0; i < kLanes; ++i) {
    __m512 first = _mm512_setzero_ps(), second = first;
    if (along_depth && i < from.rows) {
      const float *at = from.data + static_cast<std::ptrdiff_t>(i) * from.row;
      first = _mm512_maskz_loadu_ps(mask(from.columns), at);
      second = _mm512_maskz_loadu_ps(mask(after), at + kLanes);
    } else if (!along_depth) {
      const float *at = from.data + static_cast<std::ptrdiff_t>(i) * from.column;
      if (i < from.columns) first = _mm512_maskz_loadu_ps(mask(from.rows), at);
      if (i < after) second = _mm512_maskz_loadu_ps(mask(from.rows), at + kLanes * from.column);
    }
    __m512i split_pair[kParts];
    split(first, second, split_pair);
    for (std::size_t part = 0; part < kParts; ++part)
      parts[part][i] = split_pair[part];
  }
  for (std::size_t part = 0; part < kParts; ++part) {
    if (along_depth != by_lane) transpose(parts[part]);
    for (std::size_t i = 0; i < kLanes; ++i)
      _mm512_store_si512(to + part * 2 * kTile + i * kDepth, parts[part][i]);
  }
}

// A block of lanes [<= 32, depth]: for each step of the depth the tiles high0 high1 middle0 middle1 low0 low1.
RL_TILES inline void pack_block(const Matrix &from, bool by_lane, std::uint16_t *to) noexcept {
  for (std::size_t depth = 0; depth < from.columns; depth += kDepth, to += kStep) {
    for (std::size_t lane = 0; lane < kBlock; lane += kLanes) {
      const Matrix tile{from.data + static_cast<std::ptrdiff_t>(lane) * from.row +
                            static_cast<std::ptrdiff_t>(depth) * from.column,
                        std::min(kLanes, from.rows - std::min(lane, from.rows)), std::min(kDepth, from.columns - depth),
                        from.row, from.column};
      pack_tile(tile, by_lane, to + lane * kDepth);
    }
  }
}

// Tiles 4 and 5 are of the left matrix, 6 and 7 of the right one, 0 to 3 the products, [32, 32].
RL_TILES inline void load_left(const std::uint16_t *part) noexcept {
  _tile_loadd(4, part, kLine);
  _tile_loadd(5, part + kTile, kLine);
}

RL_TILES inline void load_right(const std::uint16_t *part) noexcept {
  _tile_loadd(6, part, kLine);
  _tile_loadd(7, part + kTile, kLine);
}

RL_TILES inline void multiply_tiles() noexcept {
  _tile_dpbf16ps(0, 4, 6);
  _tile_dpbf16ps(1, 4, 7);
  _tile_dpbf16ps(2, 5, 6);
  _tile_dpbf16ps(3, 5, 7);
}

// 32 x 32 of the product to `out`, whose rows are `stride` numbers apart. Small products are added first.
RL_TILES inline void multiply_block(const std::uint16_t *left, const std::uint16_t *right, std::size_t steps,
                                    float *out, std::size_t stride) noexcept {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (; steps > 0; --steps, left += kStep, right += kStep) {
    const auto *high = left, *middle = left + 2 * kTile, *low = left + 4 * kTile;
    const auto *their_high = right, *their_middle = right + 2 * kTile, *their_low = right + 4 * kTile;
    load_left(low), load_right(their_high), multiply_tiles();
    load_left(middle), multiply_tiles();
    load_right(their_middle), multiply_tiles();
    load_left(high), multiply_tiles();
    load_right(their_low), multiply_tiles();
    load_right(their_high), multiply_tiles();
  }
  const std::size_t bytes = stride * sizeof(float);
  _tile_stored(0, out, bytes);
  _tile_stored(1, out + kLanes, bytes);
  _tile_stored(2, out + kLanes * stride, bytes);
  _tile_stored(3, out + kLanes * stride + kLanes, bytes);
}

// Memory of this thread for `count` numbers, kept from call to call.
inline std::uint16_t *scratch(std::size_t count) {
  constexpr std::size_t align = 64;
  thread_local std::vector<std::uint16_t> memory;
  if (memory.size() < count + align) memory.resize(count + align);
  const auto address = reinterpret_cast<std::uintptr_t>(memory.data());
  return memory.data() + (align - address % align) % align / sizeof(std::uint16_t);
}

// left [m, k] times right [k, n] to `out`, m * n numbers in rows. One of each matrix' strides must be 1, and
// `supported()`. Needs 6 bytes of memory per number of `right`.
RL_TILES inline void multiply(const Matrix &left, const Matrix &right, float *out) {
  const std::size_t m = left.rows, n = right.columns, steps = (left.columns + kDepth - 1) / kDepth;
  const std::size_t panel = steps * kStep, panels = (n + kBlock - 1) / kBlock;
  std::uint16_t *rights = scratch((panels + 1) * panel), *lefts = rights + panels * panel;

  struct alignas(64) Config {
    std::uint8_t palette = 1, start = 0, reserved[14] = {};
    std::uint16_t line[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  } config;
  _tile_loadconfig(&config);
  const Matrix columns = right.transposed();
  for (std::size_t i = 0; i < panels; ++i) {
    const std::size_t first = i * kBlock;
    const Matrix block{columns.data + static_cast<std::ptrdiff_t>(first) * columns.row, std::min(kBlock, n - first),
                       columns.columns, columns.row, columns.column};
    pack_block(block, false, rights + i * panel);
  }
  for (std::size_t first = 0; first < m; first += kBlock) {
    const std::size_t rows = std::min(kBlock, m - first);
    pack_block({left.data + static_cast<std::ptrdiff_t>(first) * left.row, rows, left.columns, left.row, left.column},
               true, lefts);
    for (std::size_t i = 0; i < panels; ++i) {
      const std::size_t cols = std::min(kBlock, n - i * kBlock);
      float *to = out + first * n + i * kBlock;
      if (rows == kBlock && cols == kBlock) {
        multiply_block(lefts, rights + i * panel, steps, to, n);
      } else {
        alignas(64) float edge[kBlock * kBlock];
        multiply_block(lefts, rights + i * panel, steps, edge, kBlock);
        for (std::size_t row = 0; row < rows; ++row)
          std::copy_n(edge + row * kBlock, cols, to + row * n);
      }
    }
  }
  _tile_release();
}
#undef RL_TILES
#else
inline void multiply(const Matrix &, const Matrix &, float *) {}
#endif

}  // namespace rl::product
