// SPDX-License-Identifier: MIT
// Forward dual numbers, to be nested: Dual<Dual<Dual<double>>> differentiates three times. Exact up to
// rounding, and independent of the formulas they check.
#pragma once

#include <cmath>
#include <type_traits>

namespace brenier::test {

template <class T>
struct Dual {
  T value{};
  T slope{};
  Dual() = default;
  Dual(double v) : value(v), slope(0.0) {}  // a number is a constant
  Dual(T v) requires(!std::is_same_v<T, double>) : value(v), slope(0.0) {}
  Dual(T v, T s) : value(v), slope(s) {}
};

template <class T>
Dual<T> operator+(const Dual<T>& a, const Dual<T>& b) {
  return {a.value + b.value, a.slope + b.slope};
}
template <class T>
Dual<T> operator-(const Dual<T>& a, const Dual<T>& b) {
  return {a.value - b.value, a.slope - b.slope};
}
template <class T>
Dual<T> operator*(const Dual<T>& a, const Dual<T>& b) {
  return {a.value * b.value, a.slope * b.value + a.value * b.slope};
}
template <class T>
Dual<T> operator/(const Dual<T>& a, const Dual<T>& b) {
  const T q = a.value / b.value;
  return {q, (a.slope - q * b.slope) / b.value};
}

inline double plain(double x) {
  return x;
}
template <class T>
double plain(const Dual<T>& x) {
  return plain(x.value);
}

inline double dual_exp(double x) {
  return std::exp(x);
}
template <class T>
Dual<T> dual_exp(const Dual<T>& x) {
  const T e = dual_exp(x.value);
  return {e, e * x.slope};
}
inline double dual_log(double x) {
  return std::log(x);
}
template <class T>
Dual<T> dual_log(const Dual<T>& x) {
  return {dual_log(x.value), x.slope / x.value};
}
inline double dual_sqrt(double x) {
  return std::sqrt(x);
}
template <class T>
Dual<T> dual_sqrt(const Dual<T>& x) {
  const T root = dual_sqrt(x.value);
  return {root, x.slope / (root + root)};
}

}  // namespace brenier::test
