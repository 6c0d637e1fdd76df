// SPDX-License-Identifier: MIT
// Logarithm, sine and cosine with the same bits on every processor and compiler, so that random draws agree
// between the host and a device. Every product that is added to something is an explicit fused multiply-add,
// which rounds once everywhere; nothing is left that a compiler could contract. Division and square root are
// exact by IEEE 754.
//
// Polynomials and splitting constants: FDLIBM (e_log.c, k_sin.c, k_cos.c; Sun Microsystems, 1993).
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "brenier/base/portable.hpp"
#include "brenier/export.h"

namespace BRENIER_API brenier {

/// Natural logarithm of a normal x > 0 (not checked), error below 1 unit in the last place.
BRENIER_HOST_DEVICE inline double portable_log(double x) {
  // x = 2^k (1 + f) with sqrt(1/2) <= 1 + f < sqrt(2)
  const std::uint64_t bits = std::bit_cast<std::uint64_t>(x);
  const std::uint64_t shifted = bits + 0x00095F6200000000ull;
  const double k = static_cast<double>(static_cast<int>(shifted >> 52) - 1023);
  const std::uint64_t exponent = 0x3FF0000000000000ull - (shifted & 0xFFF0000000000000ull);
  const double f = std::bit_cast<double>(bits + exponent) - 1.0;

  // log(1 + f) = f - f^2/2 + s (f^2/2 + R(s^2)), s = f / (2 + f)
  const double s = f / (2.0 + f);
  const double z = s * s;
  double r = 1.479819860511658591e-01;
  r = std::fma(r, z, 1.531383769920937332e-01);
  r = std::fma(r, z, 1.818357216161805012e-01);
  r = std::fma(r, z, 2.222219843214978396e-01);
  r = std::fma(r, z, 2.857142874366239149e-01);
  r = std::fma(r, z, 3.999999999940941908e-01);
  r = std::fma(r, z, 6.666666666666735130e-01);
  const double half_square = 0.5 * f;  // times f, inside the fused operations
  const double ln2_high = 6.93147180369123816490e-01;
  const double ln2_low = 1.90821492927058770002e-10;
  const double inner = std::fma(s, std::fma(half_square, f, z * r), k * ln2_low);
  const double rest = std::fma(half_square, f, -inner) - f;
  return std::fma(k, ln2_high, -rest);
}

/// Sine and cosine of 2 pi `turn` for 0 <= turn <= 1, error below 2.5 units in the last place, exact at
/// the quarters.
BRENIER_HOST_DEVICE inline void portable_sincos(double turn, double& sine, double& cosine) {
  // 2 pi turn = quadrant * pi/2 + x with |x| <= pi/4; the first two lines are exact.
  const int quadrant = static_cast<int>(std::fma(4.0, turn, 0.5));
  const double x = std::fma(4.0, turn, -static_cast<double>(quadrant)) * 1.57079632679489661923;
  const double z = x * x;

  double p = 1.58969099521155010221e-10;
  p = std::fma(p, z, -2.50507602534068634195e-08);
  p = std::fma(p, z, 2.75573137070700676789e-06);
  p = std::fma(p, z, -1.98412698298579493134e-04);
  p = std::fma(p, z, 8.33333333332248946124e-03);
  p = std::fma(p, z, -1.66666666666666324348e-01);
  const double sin_x = std::fma(x * z, p, x);

  double q = -1.13596475577881948265e-11;
  q = std::fma(q, z, 2.08757232129817482790e-09);
  q = std::fma(q, z, -2.75573143513906633035e-07);
  q = std::fma(q, z, 2.48015872894767294178e-05);
  q = std::fma(q, z, -1.38888888888741095749e-03);
  q = std::fma(q, z, 4.16666666666666019037e-02);
  const double w = std::fma(-0.5, z, 1.0);
  const double lost = std::fma(-0.5, z, 1.0 - w);  // what rounding w left out
  const double cos_x = w + std::fma(z, z * q, lost);

  const bool odd = (quadrant & 1) != 0;
  const double first = odd ? cos_x : sin_x;
  const double second = odd ? sin_x : cos_x;
  sine = (quadrant & 2) != 0 ? -first : first;
  cosine = ((quadrant + 1) & 2) != 0 ? -second : second;
}

}  // namespace brenier
