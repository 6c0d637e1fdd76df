// SPDX-License-Identifier: MIT
// Functionals in a small language, the same in C++, C and configuration files, or as C++ functions:
//
//   Expression::potential("0.5*sum(x^2)", 2)                V(x), x in R^d
//   Expression::interaction("0.5*r^2 - log(r)", 2)          W(x), x the difference of two particles, r = |x|
//   Expression::internal("t*log(t)")                        f(t), t the density
//   Expression::potential(2, [](Var x) { return 0.5 * sum(x * x); })
//
// The language: numbers, pi, parameters by name, + - * / ^ and parentheses, x[0] (elements count from 0), and
// sum, dot, norm, logsumexp, exp, log, sqrt, abs, sin, cos, tanh, softplus, sigmoid, erf, atan2(y, x), min, max, and
// where(a < b, u, v), with < > <= >= between scalars. Arithmetic on vectors goes element by element, A*x is the product of a matrix and a vector. ^ binds tighter than a minus
// sign (-x^2 is -(x^2)) and groups to the right.
#pragma once

#include <concepts>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "brenier/base/view.hpp"
#include "brenier/export.h"
#include "brenier/model/program.hpp"
#include "brenier/tape.hpp"

namespace BRENIER_API brenier {

/// A constant that an expression refers to by name.
struct Parameter {
  enum class Kind : std::uint8_t { scalar, vector, matrix };
  Matrix<double> value;  // (1, 1), (n, 1) or (m, n)
  Kind kind = Kind::scalar;

  static Parameter scalar(double value);
  static Parameter vector(const std::vector<double>& value);
  static Parameter matrix(Matrix<double> value);
};

using Parameters = std::map<std::string, Parameter>;

/// W(r) = constant + sum of coefficient r^exponent + log log(r), exponents ascending and not 0.
struct PowerLog {
  double constant = 0;
  std::vector<std::pair<double, double>> powers;  // (exponent, coefficient)
  double log = 0;
};

/// V(x) = 1/2 x^T hessian x - linear^T x + constant; hessian symmetric, (d, d).
struct Quadratic {
  Matrix<double> hessian;
  std::vector<double> linear;
  double constant = 0;
};

/// f(t) = entropy t log(t) + sum of coefficient t^exponent, exponents ascending.
struct EntropyPower {
  double entropy = 0;
  std::vector<std::pair<double, double>> powers;  // (exponent, coefficient)
};

/// V, W or f, compiled together with its derivative.
class Expression {
 public:
  enum class Kind : std::uint8_t { potential, interaction, internal };
  using Function = std::function<Var(Var)>;

  /// From text. `dimension` is d >= 1. In a potential and an interaction `x` is a vector of d elements and
  /// `r` its length; in an internal energy there is `t` only.
  ///
  /// An interaction acts through its even part only: the double integral of W(x - y) adds W(z) and W(-z). So
  /// (W(z) + W(-z)) / 2 is stored, and forces on a pair are opposite, unless W depends on |z| alone; then it
  /// is stored as a function of r.
  ///
  /// ParseError, with the column, where the text does not parse; ShapeError where sizes do not fit or the
  /// value is not a scalar; ValueError for a parameter whose name the language uses itself.
  static Expression potential(const std::string& text, int dimension, const Parameters& parameters = {});
  static Expression interaction(const std::string& text, int dimension, const Parameters& parameters = {});
  static Expression internal(const std::string& text, const Parameters& parameters = {});

  /// From a C++ function of a Var that returns a Var. `radial` is W as a function of r.
  template <std::invocable<Var> F>
  static Expression potential(int dimension, F&& v) {
    return recorded_potential(dimension, wrapped(std::forward<F>(v)));
  }
  template <std::invocable<Var> F>
  static Expression interaction(int dimension, F&& w) {
    return recorded_interaction(dimension, wrapped(std::forward<F>(w)));
  }
  template <std::invocable<Var> F>
  static Expression radial(int dimension, F&& w) {
    return recorded_radial(dimension, wrapped(std::forward<F>(w)));
  }
  template <std::invocable<Var> F>
  static Expression internal(F&& f) {
    return recorded_internal(wrapped(std::forward<F>(f)));
  }

  Kind kind() const { return kind_; }
  /// d, or 1 for an internal energy.
  int dimension() const { return dimension_; }
  /// The text it was made from; empty for a C++ function.
  const std::string& text() const { return text_; }
  /// Whether this is an interaction that program() gives as W(r) and W'(r).
  bool is_radial() const { return radial_; }

  /// Value and gradient: V(x) and its gradient, W(r) and W'(r) or W(x) and its gradient, f(t) and f'(t).
  const Program& program() const { return program_; }
  /// The weight w(t) = f'(t) - f(t) / t of the log-determinant in the gradient of an internal energy, with
  /// w'(t); an empty program for the other kinds. Finite at t = 0 where f is a sum of t log t and powers
  /// >= 1.
  const Program& weight() const { return weight_; }

  /// One evaluation, in double, for tests and reports: x has dimension() elements (1 for f). The gradient of
  /// a radial W is W'(|x|) x / |x|, and 0 at x = 0. ShapeError where x has another size.
  double value(std::span<const double> x) const;
  std::vector<double> gradient(std::span<const double> x) const;

  /// The function in closed form, where it has that form; read off the instructions, never sampled.
  /// power_log is for radial interactions, entropy_power for internal energies, quadratic for the rest and
  /// for radial interactions c r^2 + constant; nothing otherwise.
  std::optional<PowerLog> power_log() const;
  std::optional<Quadratic> quadratic() const;
  std::optional<EntropyPower> entropy_power() const;

 private:
  template <class F>
  static Function wrapped(F&& f) {
    return [f = std::forward<F>(f)](Var x) mutable -> Var {
      // A constant function may return a number.
      if constexpr (std::is_convertible_v<std::invoke_result_t<F&, Var>, double>)
        return x.constant(static_cast<double>(f(x)));
      else
        return f(x);
    };
  }
  static Expression recorded_potential(int dimension, const Function& v);
  static Expression recorded_interaction(int dimension, const Function& w);
  static Expression recorded_radial(int dimension, const Function& w);
  static Expression recorded_internal(const Function& f);

  Expression() = default;
  double argument(std::span<const double> x) const;

  Kind kind_ = Kind::potential;
  int dimension_ = 1;
  bool radial_ = false;
  std::string text_;
  Program program_;
  Program weight_;
};

}  // namespace brenier
