// Products on bfloat16 units against the same in float64.
#undef NDEBUG
#include "product.hpp"

#include <array>
#include <cassert>
#include <cmath>
#include <cstdio>
#include <limits>
#include <random>
#include <vector>

namespace {

using rl::product::Matrix;

Matrix in_rows(const std::vector<float> &data, std::size_t rows, std::size_t columns) {
  return {data.data(), rows, columns, static_cast<std::ptrdiff_t>(columns), 1};
}

double at(const Matrix &m, std::size_t i, std::size_t j) {
  return m.data[static_cast<std::ptrdiff_t>(i) * m.row + static_cast<std::ptrdiff_t>(j) * m.column];
}

std::vector<float> drawn(std::mt19937 &random, std::size_t count) {
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float &value : values)
    value = normal(random) * std::exp2(8 * normal(random));
  return values;
}

// Every entry is within so many roundings of the sum of its terms' sizes; float32 itself may be off by one per term.
constexpr double kRoundings = 16;

void check(const Matrix &left, const Matrix &right) {
  constexpr float guard = 7;
  std::vector<float> out(left.rows * right.columns + 1, guard);
  rl::product::multiply(left, right, out.data());
  for (std::size_t i = 0; i < left.rows; ++i) {
    for (std::size_t j = 0; j < right.columns; ++j) {
      double sum = 0, size = 0;
      for (std::size_t k = 0; k < left.columns; ++k) {
        sum += at(left, i, k) * at(right, k, j);
        size += std::fabs(at(left, i, k) * at(right, k, j));
      }
      assert(std::fabs(out[i * right.columns + j] - sum) <= kRoundings * std::exp2(-24) * size);
    }
  }
  assert(out.back() == guard);
}

void products_are_as_exact_as_float32() {
  std::mt19937 random(0);
  for (const auto &[m, k, n] : std::vector<std::array<std::size_t, 3>>{
           {1, 1, 1}, {16, 32, 16}, {33, 47, 65}, {5, 300, 37}, {70, 16, 12}, {64, 17, 1}, {3, 0, 2}}) {
    const auto left = drawn(random, m * k), right = drawn(random, k * n);
    for (const Matrix &a : {in_rows(left, m, k), in_rows(left, k, m).transposed()})
      for (const Matrix &b : {in_rows(right, k, n), in_rows(right, n, k).transposed()})
        check(a, b);
  }
}

void whole_numbers_are_exact() {
  const std::vector<float> left{16777215, 1, -16777215, 3}, right{1, 0, 0, 5};
  float out[4];
  rl::product::multiply(in_rows(left, 2, 2), in_rows(right, 2, 2), out);
  assert(out[0] == 16777215 && out[1] == 5 && out[2] == -16777215 && out[3] == 15);
}

void what_is_no_number_stays_so() {
  float all_ones;
  const std::uint32_t bits = 0xffffffff;
  std::copy_n(reinterpret_cast<const char *>(&bits), sizeof bits, reinterpret_cast<char *>(&all_ones));
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), all_ones, std::numeric_limits<float>::infinity()}) {
    const std::vector<float> left{bad, 1}, right{1, 1};
    float out;
    rl::product::multiply(in_rows(left, 1, 2), in_rows(right, 2, 1), &out);
    assert(!std::isfinite(out));
  }
}

}  // namespace

int main() {
  if (!rl::product::supported()) {
    std::puts("skipped: no AMX units here");
    return 0;
  }
  products_are_as_exact_as_float32();
  whole_numbers_are_exact();
  what_is_no_number_stays_so();
  std::puts("ok");
}
