// SPDX-License-Identifier: MIT
#include "brenier/expression.hpp"

#include <cmath>
#include <tuple>
#include <utility>

#include "autodiff/expression/forms.hpp"
#include "autodiff/expression/parser.hpp"
#include "brenier/base/error.hpp"
#include "kernels/ref/cloud/program.hpp"

namespace brenier {
namespace {

Program compile_scalar(const char* name, Tape& tape, Var value) {
  if (value.size() != 1)
    throw ShapeError(std::string(name) + " must be a scalar, but this is a vector of " +
                     std::to_string(value.size()) + " elements: wrap it in sum(...)");
  return compile(tape, value, tape.input());
}

Var even_part(const char* name, Var plus, Var minus) {
  if (plus.size() != 1) compile_scalar(name, plus.tape(), plus);  // reports it
  return 0.5 * (plus + minus);
}

void check_dimension(int dimension) {
  if (dimension < 1)
    throw ValueError("dimension is " + std::to_string(dimension) + ": it must be at least 1");
}

/// The program of an interaction, and whether its argument is r.
std::pair<Program, bool> compile_interaction(int dimension, const Expression::Function& w) {
  check_dimension(dimension);
  if (dimension == 1) {
    // On the line every even function is one of the distance.
    Tape tape(1, Domain::nonnegative);
    const Var r = tape.input();
    const Var value = even_part("W", w(r), w(-r));
    return {compile_scalar("W", tape, value), true};
  }
  Tape tape(dimension);
  const Var x = tape.input();
  const Var value = w(x);
  Tape radial(1, Domain::nonnegative);
  if (value.size() == 1)
    if (const std::optional<Var> in_r = record_radial(tape, value, radial))
      return {compile_scalar("W", radial, *in_r), true};
  const Var even = even_part("W", value, w(-x));
  return {compile_scalar("W", tape, even), false};
}

/// w = f' - f/t, from the closed form where there is one: the quotient would be 0/0 at t = 0.
Program compile_weight(const std::optional<EntropyPower>& form, Tape& tape, Var f) {
  const Var t = tape.input();
  if (!form) return compile(tape, brenier::gradient(f, t) - f / t, t);
  Var weight = t.constant(form->entropy);
  for (const auto& [exponent, coefficient] : form->powers)
    weight = weight + coefficient * (exponent - 1) * pow(t, exponent - 1);
  return compile(tape, weight, t);
}

}  // namespace

Parameter Parameter::scalar(double value) {
  return {Matrix<double>(1, 1, value), Kind::scalar};
}

Parameter Parameter::vector(const std::vector<double>& value) {
  Matrix<double> column(static_cast<Index>(value.size()), 1);
  column.elements() = value;
  return {std::move(column), Kind::vector};
}

Parameter Parameter::matrix(Matrix<double> value) {
  return {std::move(value), Kind::matrix};
}

Expression Expression::potential(const std::string& text, int dimension, const Parameters& parameters) {
  Expression result = recorded_potential(dimension, [&](Var x) {
    return parse_expression(text, x.tape(), {{"x", x}, {"r", norm(x)}}, parameters);
  });
  result.text_ = text;
  return result;
}

Expression Expression::interaction(const std::string& text, int dimension, const Parameters& parameters) {
  Expression result = recorded_interaction(dimension, [&](Var x) {
    return parse_expression(text, x.tape(), {{"x", x}, {"r", norm(x)}}, parameters);
  });
  result.text_ = text;
  return result;
}

Expression Expression::internal(const std::string& text, const Parameters& parameters) {
  Expression result = recorded_internal([&](Var t) {
    return parse_expression(text, t.tape(), {{"t", t}}, parameters);
  });
  result.text_ = text;
  return result;
}

Expression Expression::recorded_potential(int dimension, const Function& v) {
  check_dimension(dimension);
  Tape tape(dimension);
  Expression result;
  result.kind_ = Kind::potential;
  result.dimension_ = dimension;
  result.program_ = compile_scalar("V", tape, v(tape.input()));
  return result;
}

Expression Expression::recorded_interaction(int dimension, const Function& w) {
  Expression result;
  result.kind_ = Kind::interaction;
  result.dimension_ = dimension;
  std::tie(result.program_, result.radial_) = compile_interaction(dimension, w);
  return result;
}

Expression Expression::recorded_radial(int dimension, const Function& w) {
  check_dimension(dimension);
  Tape tape(1, Domain::nonnegative);
  Expression result;
  result.kind_ = Kind::interaction;
  result.dimension_ = dimension;
  result.radial_ = true;
  result.program_ = compile_scalar("W", tape, w(tape.input()));
  return result;
}

Expression Expression::recorded_internal(const Function& f) {
  Tape tape(1, Domain::nonnegative);
  Expression result;
  result.kind_ = Kind::internal;
  const Var value = f(tape.input());
  result.program_ = compile_scalar("f", tape, value);
  result.weight_ = compile_weight(find_entropy_power(result.program_), tape, value);
  return result;
}

double Expression::argument(std::span<const double> x) const {
  if (static_cast<int>(x.size()) != dimension_)
    throw ShapeError("the argument has " + std::to_string(x.size()) + " elements: this expression takes " +
                     std::to_string(dimension_));
  double square = 0;
  for (double v : x) square += v * v;
  return std::sqrt(square);
}

double Expression::value(std::span<const double> x) const {
  const double r = argument(x);
  std::vector<double> workspace(program_.workspace());
  double result = 0;
  ref::evaluate<double>(program_, radial_ ? &r : x.data(), workspace.data(), &result, nullptr);
  return result;
}

std::vector<double> Expression::gradient(std::span<const double> x) const {
  const double r = argument(x);
  std::vector<double> workspace(program_.workspace());
  std::vector<double> result(x.size());
  if (!radial_) {
    ref::evaluate<double>(program_, x.data(), workspace.data(), nullptr, result.data());
    return result;
  }
  if (r == 0) return result;
  double slope = 0;
  ref::evaluate<double>(program_, &r, workspace.data(), nullptr, &slope);
  for (std::size_t i = 0; i < x.size(); ++i) result[i] = slope * (x[i] / r);
  return result;
}

std::optional<PowerLog> Expression::power_log() const {
  return radial_ ? find_power_log(program_) : std::nullopt;
}

std::optional<Quadratic> Expression::quadratic() const {
  if (kind_ == Kind::internal) return std::nullopt;
  if (!radial_) return find_quadratic(program_);
  const std::optional<PowerLog> form = find_power_log(program_);
  if (!form || form->log != 0 || form->powers.size() > 1) return std::nullopt;
  if (!form->powers.empty() && form->powers[0].first != 2) return std::nullopt;
  Quadratic result{Matrix<double>(dimension_, dimension_), std::vector<double>(dimension_), form->constant};
  if (!form->powers.empty())
    for (int i = 0; i < dimension_; ++i) result.hessian(i, i) = 2 * form->powers[0].second;
  return result;
}

std::optional<EntropyPower> Expression::entropy_power() const {
  return kind_ == Kind::internal ? find_entropy_power(program_) : std::nullopt;
}

}  // namespace brenier
