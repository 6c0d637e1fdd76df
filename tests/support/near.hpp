// SPDX-License-Identifier: MIT
// Comparisons for tests. Tolerances are functions of type and size, never absolute floors: doctest::Approx
// accepts 1e-6 == 0.
#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "brenier/base/view.hpp"

namespace brenier::test {

#if defined(BRENIER_TEST_SANITIZED)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

/// `multiple` rounding units of T.
template <class T>
constexpr double tol(double multiple) {
  return multiple * static_cast<double>(std::numeric_limits<T>::epsilon());
}

/// |a - b| / |b|; the absolute error where b is 0; 0 for two equal infinities or two NaN.
inline double relative_error(double a, double b) {
  if (std::isnan(a) && std::isnan(b)) return 0;
  if (a == b) return 0;
  if (!std::isfinite(a) || !std::isfinite(b)) return std::numeric_limits<double>::infinity();
  return b == 0 ? std::abs(a) : std::abs(a - b) / std::abs(b);
}

/// Largest |a_i - b_i| over the largest |b_i|; `where` gets its place. Infinite where finiteness differs.
template <class A, class B>
double worst_error(std::span<const A> a, std::span<const B> b, std::size_t* where = nullptr) {
  double scale = 0;
  for (const B value : b) {
    if (std::isfinite(static_cast<double>(value)))
      scale = std::max(scale, std::abs(static_cast<double>(value)));
  }
  double worst = a.size() == b.size() ? 0 : std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < a.size() && i < b.size(); ++i) {
    const double x = static_cast<double>(a[i]);
    const double y = static_cast<double>(b[i]);
    double error = std::abs(x - y) / (scale > 0 ? scale : 1);
    if (x == y || (std::isnan(x) && std::isnan(y))) error = 0;
    if (std::isfinite(x) != std::isfinite(y) || std::isnan(error))
      error = std::numeric_limits<double>::infinity();
    if (error > worst) {
      worst = error;
      if (where) *where = i;
    }
  }
  return worst;
}

template <class A, class B>
double worst_error(const std::vector<A>& a, const std::vector<B>& b) {
  return worst_error<A, B>(std::span<const A>(a), std::span<const B>(b));
}
template <class A, class B>
double worst_error(const Matrix<A>& a, const Matrix<B>& b) {
  return worst_error(a.elements(), b.elements());
}

}  // namespace brenier::test

/// Relative error of a number against its expected value.
#define CHECK_REL(actual, expected, tolerance)                               \
  do {                                                                       \
    const double check_a = static_cast<double>(actual);                      \
    const double check_b = static_cast<double>(expected);                    \
    CAPTURE(check_a);                                                        \
    CAPTURE(check_b);                                                        \
    CHECK(::brenier::test::relative_error(check_a, check_b) <= (tolerance)); \
  } while (false)

/// Largest error of an array, relative to its largest expected element.
#define CHECK_CLOSE(actual, expected, tolerance) \
  CHECK(::brenier::test::worst_error(actual, expected) <= (tolerance))

/// The expression throws `type` and its message contains `text`.
#define CHECK_ERROR(expression, type, text)               \
  do {                                                    \
    std::string check_message = "(nothing was thrown)";   \
    try {                                                 \
      static_cast<void>(expression);                      \
    } catch (const type& check_error) {                   \
      check_message = check_error.what();                 \
    }                                                     \
    INFO(check_message);                                  \
    CHECK(check_message.find(text) != std::string::npos); \
  } while (false)
