// SPDX-License-Identifier: MIT
// Activation functions: everything about one of them stands here, but for the vector form of sigma in
// kernels/cpu/network/activation.hpp. To add one: an enumerator, a type with its formulas, a row in
// kActivations and a case in with_activation(), which does not compile without it.
//
// Tiles keep sigma'(s) and not s; sigma'' and sigma''' are therefore functions of sigma' there. The reference
// takes all of them from s: two ways to the same numbers.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "brenier/base/portable.hpp"
#include "brenier/export.h"

namespace BRENIER_API brenier {

/// A convex scalar function sigma; non-decreasing, but for the one that only a first layer may have.
struct Activation {
  enum Kind : std::uint8_t {
    softplus,            // log(1 + e^s)
    squareplus,          // (s + sqrt(s^2 + 4)) / 2, algebraic (Barron 2021)
    leaky_softplus,      // slope s + (1 - slope) log(1 + e^s), slope its parameter: never flat
    leaky_relu,          // max(s, slope s): grad u jumps, and has no density to carry
    squared_leaky_relu,  // its square, of first layers that are squared: smooth once, no name in files
  };
  Kind kind = softplus;
  double parameter = 0;  // of the kinds that have one

  constexpr Activation() = default;
  /// With the parameter that is usual for the kind.
  constexpr Activation(Kind which);
  constexpr Activation(Kind which, double value) : kind(which), parameter(value) {}

  friend constexpr bool operator==(const Activation&, const Activation&) = default;
};

/// sigma and its first three derivatives at one s.
template <class T>
struct ActivationJet {
  T value, d1, d2, d3;
};

/// The square root of a number.
struct SquareRoot {
  template <class T>
  BRENIER_HOST_DEVICE T operator()(T x) const {
    return std::sqrt(x);
  }
};

struct Softplus {
  constexpr explicit BRENIER_HOST_DEVICE Softplus(double) {}

  template <class T>
  ActivationJet<T> jet(T s) const {
    const T t = std::exp(-std::abs(s));
    const T p = s < 0 ? t / (1 + t) : 1 / (1 + t);
    const T d2 = t / ((1 + t) * (1 + t));
    return {std::max(s, T(0)) + std::log1p(t), p, d2, d2 * (1 - 2 * p)};
  }
  /// sigma and sigma'.
  template <class T>
  BRENIER_HOST_DEVICE void evaluate(T s, T& value, T& d1) const {
    const T t = std::exp(-std::abs(s));
    const T p = T(1) / (T(1) + t);
    value = (s > T(0) ? s : T(0)) + std::log1p(t);
    d1 = s < T(0) ? t * p : p;
  }
  /// sigma'' and sigma''' from sigma', for numbers and for vectors of them; `root` is the square root.
  template <class V, class Root>
  BRENIER_HOST_DEVICE V second(V d1, const Root&) const {
    return d1 * (1 - d1);
  }
  template <class V, class Root>
  BRENIER_HOST_DEVICE V third(V d1, const Root&) const {
    return d1 * (1 - d1) * (1 - 2 * d1);
  }
};

struct Squareplus {
  constexpr explicit BRENIER_HOST_DEVICE Squareplus(double) {}

  template <class T>
  ActivationJet<T> jet(T s) const {
    const T root = std::sqrt(s * s + 4);
    const T big = (std::abs(s) + root) / 2;
    return {s < 0 ? 1 / big : big, (1 + s / root) / 2, 2 / (root * root * root),
            -6 * s / (root * root * root * root * root)};
  }
  template <class T>
  BRENIER_HOST_DEVICE void evaluate(T s, T& value, T& d1) const {
    const T root = std::sqrt(s * s + T(4));
    const T big = (std::abs(s) + root) * T(0.5);
    value = s < T(0) ? T(1) / big : big;
    d1 = s < T(0) ? T(1) / (big * root) : big / root;
  }
  template <class V, class Root>
  BRENIER_HOST_DEVICE V second(V d1, const Root& root) const {
    const V d2 = d1 * (1 - d1);
    return 2 * d2 * root(d2);
  }
  template <class V, class Root>
  BRENIER_HOST_DEVICE V third(V d1, const Root&) const {
    const V d2 = d1 * (1 - d1);
    return 6 * d2 * d2 * (1 - 2 * d1);
  }
};

template <class T>
struct LeakySoftplus {
  T slope, rest;  // rest = 1 - slope

  constexpr explicit BRENIER_HOST_DEVICE LeakySoftplus(double parameter)
      : slope(static_cast<T>(parameter)), rest(static_cast<T>(1 - parameter)) {}

  ActivationJet<T> jet(T s) const {
    const ActivationJet<T> soft = Softplus(0).jet(s);
    return {slope * s + rest * soft.value, slope + rest * soft.d1, rest * soft.d2, rest * soft.d3};
  }
  BRENIER_HOST_DEVICE void evaluate(T s, T& value, T& d1) const {
    T soft = 0, p = 0;
    Softplus(0).evaluate(s, soft, p);
    value = slope * s + rest * soft;
    d1 = slope + rest * p;
  }
  template <class V, class Root>
  BRENIER_HOST_DEVICE V second(V d1, const Root& root) const {
    return rest * Softplus(0).second((d1 - slope) / rest, root);
  }
  template <class V, class Root>
  BRENIER_HOST_DEVICE V third(V d1, const Root& root) const {
    return rest * Softplus(0).third((d1 - slope) / rest, root);
  }
};

/// Not smooth: sigma'' has no part at the bend, which is where all of it is.
template <class T>
struct LeakyRelu {
  T slope;

  constexpr explicit BRENIER_HOST_DEVICE LeakyRelu(double parameter) : slope(static_cast<T>(parameter)) {}

  ActivationJet<T> jet(T s) const {
    T value = 0, d1 = 0;
    evaluate(s, value, d1);
    return {value, d1, T(0), T(0)};
  }
  /// NaN stays NaN, also in sigma'.
  BRENIER_HOST_DEVICE void evaluate(T s, T& value, T& d1) const {
    value = s > T(0) ? s : slope * s;
    d1 = s > T(0) ? T(1) : s <= T(0) ? slope : s;
  }
  template <class V, class Root>
  BRENIER_HOST_DEVICE V second(V, const Root&) const {
    return V{};
  }
  template <class V, class Root>
  BRENIER_HOST_DEVICE V third(V, const Root&) const {
    return V{};
  }
};

/// max(s, slope s)^2: sigma' = 2 s or 2 slope^2 s has the sign of s.
template <class T>
struct SquaredLeakyRelu {
  T above, below;  // sigma'' on either side

  constexpr explicit BRENIER_HOST_DEVICE SquaredLeakyRelu(double parameter)
      : above(T(2)), below(static_cast<T>(2 * parameter * parameter)) {}

  ActivationJet<T> jet(T s) const {
    T value = 0, d1 = 0;
    evaluate(s, value, d1);
    return {value, d1, s > T(0) ? above : below, T(0)};
  }
  BRENIER_HOST_DEVICE void evaluate(T s, T& value, T& d1) const {
    d1 = (s > T(0) ? above : below) * s;
    value = T(0.5) * d1 * s;
  }
  template <class V, class Root>
  BRENIER_HOST_DEVICE V second(V d1, const Root&) const {
    return d1 > V{} ? V{} + above : V{} + below;
  }
  template <class V, class Root>
  BRENIER_HOST_DEVICE V third(V, const Root&) const {
    return V{};
  }
};

/// What an activation is called in files and configurations, and the parameter that it takes, if any.
struct ActivationRow {
  Activation::Kind kind;
  const char* name;
  const char* parameter = nullptr;
  double usual = 0, least = 0, below = 0;  // of the parameter: least <= parameter < below
  bool smooth = true;                      // grad u is continuous, so that a log-determinant means something
};
inline constexpr ActivationRow kActivations[] = {
    {Activation::softplus, "softplus"},
    {Activation::squareplus, "squareplus"},
    {Activation::leaky_softplus, "leaky_softplus", "slope", 0.1, 0, 1},
    {Activation::leaky_relu, "leaky_relu", "slope", 0.01, 0, 1, false},
};

/// f(sigma), sigma of the type that belongs to `activation`, for numbers of type T (or vectors of them): loops
/// in f are compiled for one of them.
template <class T, class F>
BRENIER_HOST_DEVICE inline decltype(auto) with_activation(const Activation& activation, const F& f) {
  switch (activation.kind) {
    case Activation::softplus:
      return f(Softplus(activation.parameter));
    case Activation::squareplus:
      return f(Squareplus(activation.parameter));
    case Activation::leaky_softplus:
      return f(LeakySoftplus<T>(activation.parameter));
    case Activation::leaky_relu:
      return f(LeakyRelu<T>(activation.parameter));
    case Activation::squared_leaky_relu:
      return f(SquaredLeakyRelu<T>(activation.parameter));
  }
  __builtin_unreachable();
}

constexpr Activation::Activation(Kind which) : kind(which) {
  for (const ActivationRow& row : kActivations) {
    if (row.kind == which) parameter = row.usual;
  }
}

/// sigma and sigma' of one number, and what follows from sigma', where code is not compiled for one activation.
template <class T>
BRENIER_HOST_DEVICE void activate(const Activation& activation, T s, T& value, T& d1) {
  with_activation<T>(activation, [&](const auto& sigma) { sigma.evaluate(s, value, d1); });
}
template <class T>
BRENIER_HOST_DEVICE T second_derivative(const Activation& activation, T d1) {
  return with_activation<T>(activation, [&](const auto& sigma) { return sigma.second(d1, SquareRoot()); });
}
template <class T>
BRENIER_HOST_DEVICE T third_derivative(const Activation& activation, T d1) {
  return with_activation<T>(activation, [&](const auto& sigma) { return sigma.third(d1, SquareRoot()); });
}

/// Whether a network of it has a continuous gradient.
constexpr bool is_smooth(const Activation& activation) {
  for (const ActivationRow& row : kActivations) {
    if (row.kind == activation.kind) return row.smooth;
  }
  return false;
}

/// "softplus": the name, with the parameter in brackets where there is one.
std::string text_of(const Activation& activation);
/// The activation of such a text; without brackets with the usual parameter. ValueError says what is known, or
/// the range of the parameter.
Activation parse_activation(const std::string& text);
/// What such a text may be: "softplus", ...; name(parameter) where there is a parameter.
std::vector<std::string> activation_forms();

}  // namespace brenier
