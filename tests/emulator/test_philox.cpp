// SPDX-License-Identifier: MIT
// Random draws: published values of Philox, and normals that have the same bits whatever the compiler does.
#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <vector>

#include "brenier/base/philox.hpp"
#include "tests/support/near.hpp"

namespace brenier_contracted {
void draw_normals(std::uint64_t seed, int n, double* pairs);
double multiply_add(double a, double b, double c);
}  // namespace brenier_contracted

using namespace brenier;

TEST_CASE("Philox 4x32-10 gives the published values") {  // Random123, kat_vectors
  using Words = std::array<std::uint32_t, 4>;
  CHECK(philox({0, 0, 0, 0}, {0, 0}) == Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  const std::uint32_t ones = 0xffffffff;
  CHECK(philox({ones, ones, ones, ones}, {ones, ones}) ==
        Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
        Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("portable logarithm: exact points, and one unit in the last place elsewhere") {
  CHECK(portable_log(1.0) == 0);
  CHECK(portable_log(2.0) == 0x1.62e42fefa39efp-1);
  CHECK(portable_log(0x1p-53) == -0x1.25e4f7b2737fap+5);
  const Random random(1, RandomStream::probes);
  for (std::uint64_t i = 0; i < 20000; ++i) {
    const double x = random.uniform(0, 0, i) * std::exp2(static_cast<double>(i % 120) - 60);
    CHECK_REL(portable_log(x), std::log(static_cast<long double>(x)), 1.0 * 0x1p-52);
  }
}

TEST_CASE("portable sine and cosine: quarters are exact, the rest within 2.5 units in the last place") {
  double sine = 0, cosine = 0;
  const double quarters[][3] = {{0, 0, 1}, {0.25, 1, 0}, {0.5, 0, -1}, {0.75, -1, 0}, {1, 0, 1}};
  for (const auto& [turn, sin, cos] : quarters) {
    portable_sincos(turn, sine, cosine);
    CHECK(sine == sin);
    CHECK(cosine == cos);
  }
  const Random random(2, RandomStream::probes);
  for (std::uint64_t i = 0; i < 20000; ++i) {
    const double turn = random.uniform(0, 0, i);
    // The argument is reduced to the nearest quarter first: 2 pi turn alone loses what is close to a zero.
    const double quarter = std::round(4 * turn);
    const long double x =
        (4 * static_cast<long double>(turn) - quarter) * 1.570796326794896619231321691639751442L;
    const long double s = std::sin(x), c = std::cos(x);
    const long double sines[] = {s, c, -s, -c, s};
    const long double cosines[] = {c, -s, -c, s, c};
    portable_sincos(turn, sine, cosine);
    CHECK_REL(sine, sines[static_cast<int>(quarter)], 2.5 * 0x1p-52);
    CHECK_REL(cosine, cosines[static_cast<int>(quarter)], 2.5 * 0x1p-52);
  }
}

TEST_CASE("normals have the moments of N(0, 1)") {
  const Random random(3, RandomStream::probes);
  const int n = 50000;
  double sums[4] = {0, 0, 0, 0}, product = 0;
  for (int i = 0; i < n; ++i) {
    const auto pair = random.normals(0, 0, static_cast<std::uint64_t>(i));
    product += pair[0] * pair[1];
    for (const double z : pair)
      for (int k = 0; k < 4; ++k) sums[k] += std::pow(z, k + 1);
  }
  // Means of z, z^2, z^3, z^4 over 2n draws: 5 standard deviations, of variance 1, 2, 15 and 96.
  const double expected[] = {0, 1, 0, 3}, variance[] = {1, 2, 15, 96};
  for (int k = 0; k < 4; ++k)
    CHECK(std::abs(sums[k] / (2 * n) - expected[k]) < 5 * std::sqrt(variance[k] / (2 * n)));
  CHECK(std::abs(product / n) < 5 / std::sqrt(n));
}

TEST_CASE("normals have the same bits where the compiler contracts products and sums") {
#if defined(__x86_64__)
  if (!__builtin_cpu_supports("fma")) {
    MESSAGE("SKIPPED: this processor has no fused multiply-add");
    return;
  }
#endif
  const double tiny = 0x1p-30;
  if (brenier_contracted::multiply_add(1 + tiny, 1 - tiny, -1) == 0)
    MESSAGE("the compiler did not contract: this checks nothing here");
  const int n = 20000;
  const Random random(4, RandomStream::probes);
  std::vector<double> pairs(2 * n);
  brenier_contracted::draw_normals(4, n, pairs.data());
  int different = 0;
  for (int i = 0; i < n; ++i) {
    const auto pair = random.normals(1, 2, static_cast<std::uint64_t>(i));
    for (int k = 0; k < 2; ++k)
      different += std::bit_cast<std::uint64_t>(pair[static_cast<std::size_t>(k)]) !=
                   std::bit_cast<std::uint64_t>(pairs[static_cast<std::size_t>(2 * i + k)]);
  }
  CHECK(different == 0);
}
