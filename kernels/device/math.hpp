// SPDX-License-Identifier: MIT
// Elementary functions of the device dialect, float and double, in the accuracy of the platform's library:
// the last bits differ between the host and a device. Random draws do not
// (kernels/include/brenier/base/portable_math.hpp).
#pragma once

#include <cmath>
#include <limits>

#include "brenier/base/portable.hpp"

#define BRENIER_MATH_1(name)                    \
  BRENIER_DEVICE inline float name(float x) {   \
    return std::name(x);                        \
  }                                             \
  BRENIER_DEVICE inline double name(double x) { \
    return std::name(x);                        \
  }
#define BRENIER_MATH_2(name)                              \
  BRENIER_DEVICE inline float name(float x, float y) {    \
    return std::name(x, y);                               \
  }                                                       \
  BRENIER_DEVICE inline double name(double x, double y) { \
    return std::name(x, y);                               \
  }

namespace brenier::device {
inline namespace BRENIER_DIALECT {

BRENIER_MATH_1(abs)
BRENIER_MATH_1(sqrt)
BRENIER_MATH_1(exp)
BRENIER_MATH_1(expm1)
BRENIER_MATH_1(log)
BRENIER_MATH_1(log1p)
BRENIER_MATH_1(sin)
BRENIER_MATH_1(cos)
BRENIER_MATH_1(tanh)
BRENIER_MATH_1(erf)
BRENIER_MATH_2(pow)
BRENIER_MATH_2(atan2)
BRENIER_MATH_2(fmin)
BRENIER_MATH_2(fmax)

BRENIER_DEVICE inline bool isfinite(float x) {
  return std::isfinite(x);
}
BRENIER_DEVICE inline bool isfinite(double x) {
  return std::isfinite(x);
}

/// x y + z, rounded once.
BRENIER_DEVICE inline float fma(float x, float y, float z) {
  return std::fma(x, y, z);
}
BRENIER_DEVICE inline double fma(double x, double y, double z) {
  return std::fma(x, y, z);
}

/// 1 / sqrt(x).
/// reciprocal(x): 1 / x without the branches of a division that is exact for all x: within 2 units in the
/// last place where x and 1 / x are normal numbers, not finite where x is 0 or smaller than those.
#if BRENIER_CUDA
BRENIER_DEVICE inline float rsqrt(float x) {
  return ::rsqrtf(x);
}
BRENIER_DEVICE inline double rsqrt(double x) {
  return ::rsqrt(x);
}
BRENIER_DEVICE inline float reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
BRENIER_DEVICE inline double reciprocal(double x) {
  double y;  // about 20 bits; a step of third order and one of second add the others
  asm("rcp.approx.ftz.f64 %0, %1;" : "=d"(y) : "d"(x));
  const double error = std::fma(-x, y, 1.0);
  y = std::fma(y, std::fma(error, error, error), y);
  return std::fma(y, std::fma(-x, y, 1.0), y);
}
#else
BRENIER_DEVICE inline float rsqrt(float x) {
  return 1.0f / std::sqrt(x);
}
BRENIER_DEVICE inline double rsqrt(double x) {
  return 1.0 / std::sqrt(x);
}
template <class T>
T reciprocal(T x) {
  return std::abs(x) < std::numeric_limits<T>::min() ? std::copysign(std::numeric_limits<T>::infinity(), x)
                                                     : T(1) / x;
}
#endif

}  // namespace BRENIER_DIALECT
}  // namespace brenier::device

#undef BRENIER_MATH_1
#undef BRENIER_MATH_2
