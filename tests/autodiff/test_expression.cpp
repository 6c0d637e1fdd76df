// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>
#include <vector>

#include "brenier/base/error.hpp"
#include "brenier/expression.hpp"
#include "kernels/base/nearest_name.hpp"
#include "kernels/ref/cloud/program.hpp"
#include "tests/support/capture.hpp"

using namespace brenier;

namespace {

double difference(double a, double b) {
  return a == b ? 0.0 : std::abs(a - b) / std::max(std::abs(a), std::abs(b));
}

Matrix<double> stiff() {
  Matrix<double> a(2, 2);
  a(0, 0) = 3, a(0, 1) = 0.5, a(1, 0) = 0.25, a(1, 1) = 2;
  return a;
}

const Parameters& parameters() {
  static const Parameters table = {{"A", Parameter::matrix(stiff())},
                                   {"b", Parameter::vector({1.0, -2.0})},
                                   {"kappa", Parameter::scalar(0.75)}};
  return table;
}

double potential(const std::string& text, std::vector<double> x) {
  return Expression::potential(text, static_cast<int>(x.size()), parameters()).value(x);
}

double internal(const std::string& text, double t) {
  return Expression::internal(text, parameters()).value(std::vector{t});
}

/// The column of the ParseError, 0 where there is none; its message goes to `message`.
int column_of(const std::string& text, std::string* message = nullptr) {
  try {
    Expression::potential(text, 2, parameters());
  } catch (const ParseError& error) {
    if (message) *message = error.what();
    return error.column;
  }
  return 0;
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

using Powers = std::vector<std::pair<double, double>>;

std::optional<PowerLog> power_log(const std::string& text, int d) {
  return Expression::interaction(text, d, parameters()).power_log();
}

std::optional<Quadratic> quadratic(const std::string& text, int d = 2) {
  return Expression::potential(text, d, parameters()).quadratic();
}

std::optional<EntropyPower> entropy_power(const std::string& text) {
  return Expression::internal(text, parameters()).entropy_power();
}

/// Programs of the same length that give the same bits: the order of their constants is free.
bool same_results(const Expression& a, const Expression& b) {
  const std::size_t n = static_cast<std::size_t>(a.dimension());
  bool same = a.program().code.size() == b.program().code.size() && a.is_radial() == b.is_radial() &&
              a.dimension() == b.dimension();
  for (double scale : {0.3, 1.0, 2.7}) {
    std::vector<double> x(n);
    for (std::size_t i = 0; i < n; ++i) x[i] = scale * std::cos(1.3 * static_cast<double>(i));
    same = same && a.value(x) == b.value(x) && a.gradient(x) == b.gradient(x);
  }
  return same;
}

}  // namespace

TEST_CASE("expression: precedence and grouping") {
  const double t = 1.7;
  CHECK(internal("-t^2", t) == -(t * t));
  CHECK(difference(internal("2^t^2", t), std::pow(2, t * t)) < 1e-15);
  CHECK(difference(internal("(2^t)^2", t), std::pow(2, 2 * t)) < 1e-15);
  CHECK(difference(internal("2^-t", t), std::pow(2, -t)) < 1e-15);
  CHECK(difference(internal("t - 3 - 4", t), t - 7) < 1e-15);
  CHECK(difference(internal("t/4/2", t), t / 8) < 1e-15);
  CHECK(difference(internal("1 + 2*t^3/4 - -t", t), 1 + t * t * t / 2 + t) < 1e-15);
  CHECK(difference(internal("-(1+t)*+2", t), -2 * (1 + t)) < 1e-15);
  CHECK(difference(internal("  1e-3*t +.5e2+ 2.\t", t), 1e-3 * t + 52) < 1e-15);
  CHECK(difference(internal("pi*t", t), std::numbers::pi * t) < 1e-15);
  CHECK(difference(internal("kappa*t", t), 0.75 * t) < 1e-15);
}

TEST_CASE("expression: functions, vectors, parameters") {
  const std::vector<double> x = {0.6, -1.1};
  const double r = std::hypot(0.6, 1.1);
  CHECK(difference(potential("x[0] - 10*x[1]", x), 11.6) < 1e-15);
  CHECK(difference(potential("(2*x - 1)[1]", x), -3.2) < 1e-15);
  CHECK(difference(potential("r + norm(x) + sqrt(dot(x, x))", x), 3 * r) < 1e-15);
  CHECK(difference(potential("sum(x^2)", x), r * r) < 1e-15);
  CHECK(difference(potential("sum(x - b)", x), 0.5) < 1e-14);
  CHECK(difference(potential("sum(b*x)", x), 2.8) < 1e-15);
  const double ax0 = 3 * 0.6 + 0.5 * -1.1, ax1 = 0.25 * 0.6 + 2 * -1.1;
  CHECK(difference(potential("dot(x, A*x)", x), 0.6 * ax0 - 1.1 * ax1) < 1e-14);
  CHECK(difference(potential("sum(-0.5*A*x)", x), -0.5 * (ax0 + ax1)) < 1e-14);
  CHECK(difference(potential("sum(r*A/2*x)", x), 0.5 * r * (ax0 + ax1)) < 1e-14);
  CHECK(difference(potential("(A*(x - b))[0]", x), ax0 - 2) < 1e-14);
  CHECK(difference(potential("exp(x[0]) + log(abs(x[1])) + sin(x[0]) + cos(x[1]) + tanh(x[0])", x),
                   std::exp(0.6) + std::log(1.1) + std::sin(0.6) + std::cos(1.1) + std::tanh(0.6)) < 1e-15);
  CHECK(difference(potential("softplus(x[1]) + sigmoid(x[0])", x),
                   std::log1p(std::exp(-1.1)) + 1 / (1 + std::exp(-0.6))) < 1e-15);
  CHECK(potential("min(x[0], x[1]) + max(0.25, x[1])", x) == -1.1 + 0.25);
  CHECK(potential("2.5", x) == 2.5);
  CHECK(difference(potential("logsumexp(x)", x), std::log(std::exp(0.6) + std::exp(-1.1))) < 1e-15);
  CHECK(difference(potential("logsumexp(-9000*x)", x), 9900.0) < 1e-15);  // beyond the range of exp
  CHECK(difference(potential("logsumexp(x + 9000)", x), 9000 + std::log(std::exp(0.6) + std::exp(-1.1))) <
        1e-15);
}

TEST_CASE("expression: gradients in closed form") {
  const std::vector<double> x = {0.6, -1.1};
  const std::vector<double> quartic = Expression::potential("0.25*(sum(x^2) - 1)^2", 2).gradient(x);
  const double factor = 0.36 + 1.21 - 1;
  for (int i = 0; i < 2; ++i) CHECK(difference(quartic[i], factor * x[i]) < 1e-14);

  const Expression w = Expression::interaction("0.5*r^2 - log(r)", 2);
  const std::vector<double> force = w.gradient(x);
  for (int i = 0; i < 2; ++i) CHECK(difference(force[i], x[i] - x[i] / 1.57) < 1e-14);
  CHECK(w.gradient(std::vector{0.0, 0.0}) == std::vector{0.0, 0.0});
  CHECK(difference(Expression::internal("t*log(t)").gradient(std::vector{0.3})[0], std::log(0.3) + 1) <
        1e-15);
}

TEST_CASE("expression: interactions in r are stored as functions of r") {
  for (const char* text : {"exp(-r)", "exp(-norm(x))", "exp(-sqrt(sum(x^2)))", "exp(-sqrt(dot(2*x, x)/2))"}) {
    const Expression w = Expression::interaction(text, 3);
    CAPTURE(text);
    CHECK(w.is_radial());
    CHECK(w.program().input_size == 1);
    CHECK(difference(w.value(std::vector{2.0, -1.0, 2.0}), std::exp(-3.0)) < 1e-15);
    CHECK(difference(w.gradient(std::vector{2.0, -1.0, 2.0})[1], std::exp(-3.0) / 3) < 1e-15);
  }
  CHECK(Expression::interaction("x[0]^2 + x[1]^4", 2).is_radial() == false);
  CHECK(Expression::interaction("cos(x)", 1).is_radial());
}

TEST_CASE("expression: only the even part of an interaction is kept") {
  const std::vector<double> x = {0.6, -1.1}, minus = {-0.6, 1.1};
  const Expression w = Expression::interaction("exp(x[0]) + x[1]^3 + sum(x^4)", 2);
  CHECK(difference(w.value(x), std::cosh(0.6) + std::pow(0.6, 4) + std::pow(1.1, 4)) < 1e-15);
  CHECK(w.value(x) == w.value(minus));
  CHECK(difference(w.gradient(x)[0], std::sinh(0.6) + 4 * std::pow(0.6, 3)) < 1e-14);
  for (int i = 0; i < 2; ++i) CHECK(w.gradient(x)[i] == -w.gradient(minus)[i]);
  const Expression line = Expression::interaction("exp(x) + x", 1);
  CHECK(difference(line.value(std::vector{-0.8}), std::cosh(0.8)) < 1e-15);
  CHECK(difference(line.gradient(std::vector{-0.8})[0], -std::sinh(0.8)) < 1e-15);
}

TEST_CASE("expression: a C++ function gives the program of the text") {
  const Matrix<double> a = stiff();
  CHECK(same_results(Expression::potential("0.5*dot(x - b, A*(x - b)) + exp(-sum(x^2))", 2, parameters()),
                     Expression::potential(2, [&](Var x) {
                       const Var y = x - std::vector<double>{1.0, -2.0};
                       return 0.5 * dot(y, a * y) + exp(-sum(x * x));
                     })));
  CHECK(same_results(Expression::interaction("0.5*r^2 - log(r)", 3),
                     Expression::radial(3, [](Var r) { return 0.5 * r * r - log(r); })));
  CHECK(same_results(Expression::interaction("sum(x^4) + x[0]", 3),
                     Expression::interaction(3, [](Var x) { return sum(pow(x, 4)) + x[0]; })));
  CHECK(same_results(Expression::interaction("norm(x)^3", 5),
                     Expression::interaction(5, [](Var x) { return pow(norm(x), 3); })));
  CHECK(same_results(Expression::internal("t^2"), Expression::internal([](Var t) { return t * t; })));
  CHECK(same_results(Expression::internal("3"), Expression::internal([](Var) { return 3; })));
  CHECK_FALSE(same_results(Expression::internal("t^2"), Expression::internal("t^3")));
  CHECK_FALSE(same_results(Expression::internal("2*t^2"), Expression::internal("3*t^2")));
}

TEST_CASE("expression: the weight of an internal energy") {
  const auto weight = [](const Expression& f, double t) {
    std::vector<double> workspace(f.weight().workspace());
    double value = 0;
    ref::evaluate<double>(f.weight(), &t, workspace.data(), &value, nullptr);
    return value;
  };
  CHECK(weight(Expression::internal("t*log(t)"), 0.0) == 1.0);
  CHECK(difference(weight(Expression::internal("t^3/2"), 0.7), 0.49) < 1e-15);
  CHECK(weight(Expression::internal("t^2 + t"), 0.0) == 0.0);
  // f = t sin(t): f' - f/t = t cos(t)
  CHECK(difference(weight(Expression::internal("t*sin(t)"), 0.7), 0.7 * std::cos(0.7)) < 1e-14);
}

TEST_CASE("expression: vectors written out") {
  CHECK(potential("dot([1, 2], x)", {3.0, 5.0}) == 13);
  CHECK(potential("[7, 8 - 2, x[1]][1]", {3.0, 5.0}) == 6);
  CHECK(potential("sum([4])", {3.0, 5.0}) == 4);
  CHECK(potential("norm(x - [3, 1])", {3.0, 5.0}) == 4);
  CHECK(potential("dot(A*[1, 0], x)", {1.0, 1.0}) == 3.25);
  CHECK(difference(potential("logsumexp([x[0], 2*x[1], 0])", {0.5, -1.0}),
                   std::log(std::exp(0.5) + std::exp(-2.0) + 1)) < 1e-15);
  // log(e^u + e^v) with u = x0, v = x0 x1: the gradient is (p + q x1, q x0) with the weights p and q = 1 - p.
  const double u = 0.7, w = -1.3, p = 1 / (1 + std::exp(u * w - u)), q = 1 - p;
  const auto f = Expression::potential("logsumexp([x[0], x[0]*x[1]])", 2);
  const std::vector<double> gradient = f.gradient(std::vector{u, w});
  CHECK(difference(gradient[0], p + q * w) < 1e-14);
  CHECK(difference(gradient[1], q * u) < 1e-14);
  CHECK(column_of("dot([x, 1], x)") == 6);
  CHECK(column_of("dot([], x)") == 6);
  CHECK(column_of("dot([1, ], x)") == 9);
  CHECK(column_of("dot([1, 2, x], x)") == 12);
  CHECK(column_of("dot([1, 2)") == 10);
}

TEST_CASE("expression: erf, atan2 and where") {
  const std::vector<double> x = {0.6, -1.1};
  CHECK(difference(potential("erf(x[0]) + atan2(x[1], x[0])", x), std::erf(0.6) + std::atan2(-1.1, 0.6)) <
        1e-15);
  CHECK(difference(potential("atan2(-1, x[1]) + atan2(0, -1)", x),
                   std::atan2(-1.0, -1.1) + std::numbers::pi) < 1e-15);
  CHECK(potential("where(x[0] < x[1], 1, 2) + 10*where(x[0] > x[1], 1, 2)", x) == 12);
  CHECK(potential("where(2 <= 2, 1, 2) + 10*where(2 >= x[0] , 1, 2) + 100*where(3 <= 2, 1, 2)", x) == 211);
  CHECK(potential("where(x[0] >= 0.6, 1, 2) + 10*where(x[0] > 0.6, 1, 2)", x) == 21);
  CHECK(potential("sum(where(x[0] < 1, [1, 2], 5))", x) == 3);
  CHECK(potential("where(x[1] > 0, log(x[1]), x[0])", x) == 0.6);
  // Neither value nor derivative of the other branch counts: nan here.
  for (const char* text : {"where(x[1] > 0, log(x[1]) + sqrt(x[1]), x[0]*x[1])",
                           "where(0 >= x[1], x[0]*x[1], x[1]^0.3/0.0001)"}) {
    CAPTURE(text);
    const std::vector<double> gradient = Expression::potential(text, 2).gradient(x);
    CHECK(gradient[0] == -1.1);
    CHECK(gradient[1] == 0.6);
  }
  const std::vector<double> angle = Expression::potential("atan2(x[1], x[0])", 2).gradient(x);
  CHECK(difference(angle[0], 1.1 / (0.36 + 1.21)) < 1e-15);
  CHECK(difference(angle[1], 0.6 / (0.36 + 1.21)) < 1e-15);
  CHECK(Expression::potential("atan2(x[1], x[0])", 2).gradient(std::vector{0.0, 0.0}) ==
        std::vector{0.0, 0.0});
  // An interaction in r and a quadratic that is one in a branch only.
  CHECK(difference(Expression::interaction("where(r < 1, 0.5*r^2, r - 0.5)", 2).value(x),
                   std::hypot(0.6, 1.1) - 0.5) < 1e-14);
  CHECK_FALSE(Expression::potential("where(x[0] < 1, 0.5*sum(x^2), 0)", 2).quadratic().has_value());
  CHECK(column_of("where(x[0], 1, 2)") == 11);
  CHECK(column_of("where(x < 1, 1, 2)") == 9);
  CHECK(column_of("where(x[0] < 1, 1)") == 1);
  CHECK(column_of("where(x[0] < 1, 1, 2, 3)") == 1);
  CHECK(column_of("where(x[0] == 1, 1, 2)") == 12);
  CHECK(column_of("x[0] < 1") == 6);
  CHECK(column_of("where + 1") == 7);
}

TEST_CASE("expression: a gradient is finite where the value is") {
  // r^-8^r^-8 overflows at 0.7; 0.7 to that power is 0, and constant.
  const Expression tower = Expression::interaction("r^r^-8^r^-8", 1);
  CHECK(tower.value(std::vector{0.7}) == 0);
  CHECK(tower.gradient(std::vector{0.7}) == std::vector{0.0});
  const Expression wall = Expression::potential("1/(1 + exp(20*(norm(x) - 1)))", 2);
  CHECK(wall.value(std::vector{30.0, 40.0}) == 0);
  CHECK(wall.gradient(std::vector{30.0, 40.0}) == std::vector{0.0, 0.0});
}

TEST_CASE("expression: parse errors name the column") {
  const std::vector<std::pair<const char*, int>> table = {
      {"", 1},          {"   ", 4},    {"1 +", 4},        {"sum(x", 6},       {"sum(x))", 7}, {"2x[0]", 2},
      {"x[0] x[1]", 6}, {"x[2]", 3},   {"x[-1]", 3},      {"x[0", 4},         {"sum(y)", 5},  {"smu(x)", 1},
      {"sum", 4},       {"dot(x)", 1}, {"sum()", 1},      {"norm(x, x)", 1},  {"x(1)", 2},    {"r**2", 3},
      {"r $ 2", 3},     {"*r", 1},     {"1e999*r", 1},    {"r + log(-1)", 5}, {"r + 1/0", 6}, {"A", 1},
      {"sum(x*A)", 6},  {"r + A", 5},  {"sum(A*A*x)", 6}, {"sum(A^2*x)", 5},  {"|r|", 1},     {"(r + 1", 7},
      {"r, 2", 2},      {"t", 1},      {"r +\n* 2", 5},   {"sum(x r)", 7}};
  for (const auto& [text, column] : table) {
    CAPTURE_BOUND(text);
    std::string message;
    CHECK(column_of(text, &message) == column);
    CHECK(contains(message, "^ column " + std::to_string(column)));
  }
  CHECK(column_of(std::string(5000, '(') + "r" + std::string(5000, ')')) == 201);
  CHECK(column_of(std::string(150, '(') + "r" + std::string(150, ')')) == 0);
}

TEST_CASE("expression: messages show the place and suggest a name") {
  std::string message;
  column_of("0.5*summ(x^2)", &message);
  CHECK(contains(message, "did you mean 'sum'?"));
  CHECK(contains(message, "\n  0.5*summ(x^2)\n      ^ column 5"));
  column_of("kapa*r", &message);
  CHECK(contains(message, "did you mean 'kappa'?"));
  column_of("zzzzzz*r", &message);
  CHECK_FALSE(contains(message, "did you mean"));
  CHECK(contains(message, "A, b, kappa"));
  try {
    Expression::internal("x*log(x)");
    FAIL("not reached");
  } catch (const ParseError& error) {
    CHECK(contains(error.what(), "did you mean 't'?"));
  }
}

TEST_CASE("expression: shapes and parameter names") {
  const auto shape_message = [](const std::string& text, int d) -> std::string {
    try {
      Expression::potential(text, d, parameters());
    } catch (const ShapeError& error) {
      return error.what();
    }
    return "";
  };
  CHECK(contains(shape_message("x^2", 2), "V must be a scalar"));
  CHECK(contains(shape_message("x^2", 2), "sum(...)"));
  CHECK(contains(shape_message("sum(x - b)", 3), "  sum(x - b)\n        ^ column 7"));
  CHECK(contains(shape_message("sum(A*x)", 3), "^ column 6"));
  CHECK(contains(shape_message("1 + dot(x, r)", 3), "^ column 5"));
  CHECK_THROWS_AS(Expression::interaction("x", 2), ShapeError);
  CHECK_THROWS_AS(Expression::interaction("b*x", 1, parameters()), ShapeError);
  CHECK_THROWS_AS(Expression::internal("t*b", parameters()), ShapeError);
  CHECK_THROWS_AS(Expression::potential(3, [](Var x) { return x; }), ShapeError);
  CHECK_THROWS_AS(Expression::potential("r", 0), ValueError);
  for (const char* taken : {"x", "r", "t", "pi", "sum", "2a", "a b", ""})
    CHECK_THROWS_AS(Expression::potential("r", 2, {{taken, Parameter::scalar(1)}}), ValueError);
  CHECK_THROWS_AS(Expression::potential("r", 2, {{"a", Parameter::vector({})}}), ShapeError);
  CHECK_THROWS_AS(Expression::potential("r", 2).value(std::vector{1.0}), ShapeError);
}

TEST_CASE("expression: interactions that are powers and logarithms") {
  const auto w = power_log("0.5*r^2 - log(r) + 3", 2);
  REQUIRE(w);
  CHECK(w->constant == 3);
  CHECK(w->log == -1);
  CHECK(w->powers == Powers{{2, 0.5}});
  for (const char* text :
       {"0.5*sum(x^2)", "dot(x,x)/2", "norm(x)^2*0.5", "0.5*r^2", "sum(x*x)/2", "0.125*dot(2*x,2*x)"})
    for (int d : {1, 3}) {
      CAPTURE(text);
      const auto form = power_log(text, d);
      REQUIRE(form);
      CHECK(form->powers == Powers{{2, 0.5}});
      CHECK(form->log == 0);
    }
  CHECK(power_log("x^2/2 + abs(x) - log(abs(x))", 1)->powers == Powers{{1, 1}, {2, 0.5}});
  CHECK(power_log("x^2/2 + abs(x) - log(abs(x))", 1)->log == -1);
  CHECK(power_log("r^4/4 - r^2.5/2.5 + 1/r", 2)->powers == Powers{{-1, 1}, {2.5, -0.4}, {4, 0.25}});
  CHECK(power_log("(r^2 - 1)^2", 2)->powers == Powers{{2, -2}, {4, 1}});
  CHECK(power_log("log(2*dot(x,x))", 3)->log == 2);
  CHECK(difference(power_log("log(2*dot(x,x))", 3)->constant, std::log(2.0)) < 1e-15);
  CHECK(power_log("r - r", 2)->powers.empty());
  for (const char* none :
       {"exp(-r)", "r*log(r)", "log(1 + r)", "sin(r)", "log(r)^2", "sqrt(1 + r^2)", "max(r, 1)"}) {
    CAPTURE(none);
    CHECK_FALSE(power_log(none, 2));
  }
  CHECK_FALSE(power_log("x[0]^2 + 2*x[1]^2", 2));
  CHECK_FALSE(Expression::potential("r^2", 2).power_log());
}

TEST_CASE("expression: quadratic potentials") {
  const auto v = quadratic("0.5*dot(x - b, A*(x - b)) + 1");
  REQUIRE(v);
  CHECK(v->hessian.elements() == std::vector{3.0, 0.375, 0.375, 2.0});
  CHECK(difference(v->linear[0], 3 * 1 - 2 * 0.375) < 1e-15);
  CHECK(difference(v->linear[1], 0.375 - 4) < 1e-15);
  CHECK(difference(v->constant, 1 + 0.5 * (3 - 2 * 0.75 + 8)) < 1e-15);
  for (const char* text : {"kappa*sum((x - b)^2)", "kappa*norm(x - b)^2", "kappa*dot(x - b, x - b)",
                           "kappa*((x[0] - 1)^2 + (x[1] + 2)^2)", "kappa*(r^2 - 2*dot(b, x) + sum(b^2))"}) {
    CAPTURE(text);
    const auto form = quadratic(text);
    REQUIRE(form);
    CHECK(form->hessian.elements() == std::vector{1.5, 0.0, 0.0, 1.5});
    CHECK(form->linear == std::vector{1.5, -3.0});
    CHECK(difference(form->constant, 3.75) < 1e-15);
  }
  CHECK(quadratic("x[0]*x[1]")->hessian.elements() == std::vector{0.0, 1.0, 1.0, 0.0});
  CHECK(quadratic("sum(b*x^2)/2")->hessian.elements() == std::vector{1.0, 0.0, 0.0, -2.0});
  CHECK(quadratic("sum(x)")->linear == std::vector{-1.0, -1.0});
  CHECK(quadratic("(x - 1)^2", 1)->linear == std::vector{2.0});
  const auto form = quadratic("sum((A*x - b)^2)");
  REQUIRE(form);
  CHECK(difference(form->hessian(0, 1), 2 * (3 * 0.5 + 0.25 * 2)) < 1e-15);
  for (const char* none :
       {"r", "sum(x^4)", "exp(x[0])", "x[0]^2*x[1]", "sum(abs(x))^2", "1/x[0]", "r^2/x[1]"}) {
    CAPTURE(none);
    CHECK_FALSE(quadratic(none));
  }
  CHECK(Expression::interaction("r^2 + 1", 3).quadratic()->hessian.elements() ==
        std::vector{2.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 2.0});
  CHECK(Expression::interaction("dot(x, A*x)", 2, parameters()).quadratic()->hessian(0, 0) == 6);
  CHECK_FALSE(Expression::interaction("r^2 - log(r)", 3).quadratic());
}

TEST_CASE("expression: the quadratic form is the function") {
  const Expression v =
      Expression::potential("dot(x[1]*A*x - b, b) + sum((A*x + x - b)*x)/3 - x[0]", 2, parameters());
  const auto form = v.quadratic();
  REQUIRE(form);
  for (const std::vector<double>& x : {std::vector{0.3, -0.8}, std::vector{2.1, 1.4}}) {
    double expected = form->constant;
    for (int i = 0; i < 2; ++i) {
      expected -= form->linear[i] * x[i];
      for (int j = 0; j < 2; ++j) expected += 0.5 * form->hessian(i, j) * x[i] * x[j];
    }
    CHECK(difference(v.value(x), expected) < 1e-13);
  }
}

TEST_CASE("the nearest name: one letter changed, a name cut short, nothing near") {
  CHECK(edit_distance("kitten", "sitting") == 3);
  CHECK(edit_distance("", "abc") == 3);
  CHECK(nearest_name("tua", {"steps", "tau"}) == "tau");
  CHECK(nearest_name("iter", {"rate", "iterations"}) == "iterations");
  CHECK(nearest_name("sums", {"sin", "sum"}) == "sum");
  CHECK(nearest_name("rate", {"r", "refresh"}) == "r");  // nothing better
  CHECK(nearest_name("rate", {"r", "refresh"}, 2).empty());
  CHECK(nearest_name("tau", {"sum", "tax", "tan"}, 1) == "tax");  // the first of several
  CHECK(nearest_name("tau", {}).empty());
}

TEST_CASE("expression: entropies and powers") {
  CHECK(entropy_power("t*log(t)")->entropy == 1);
  CHECK(entropy_power("kappa*log(t)*t")->entropy == 0.75);
  CHECK(entropy_power("t*log(t^2)/2 - t")->entropy == 1);
  CHECK(entropy_power("t*log(t^2)/2 - t")->powers == Powers{{1, -1}});
  CHECK(entropy_power("3*t^2")->powers == Powers{{2, 3}});
  CHECK(entropy_power("t^2.5/(2.5 - 1)")->powers == Powers{{2.5, 1 / 1.5}});
  CHECK(entropy_power("t*sqrt(t)")->powers == Powers{{1.5, 1}});
  CHECK(entropy_power("t*exp(2*log(t))")->powers == Powers{{3, 1}});
  CHECK(entropy_power("-t*log(1/t)")->entropy == 1);
  for (const char* none : {"log(t)", "t*log(1 + t)", "t^2*log(t)", "exp(t)", "t^t", "t*log(t)^2"}) {
    CAPTURE(none);
    CHECK_FALSE(entropy_power(none));
  }
  CHECK_FALSE(Expression::potential("r*log(r)", 1).entropy_power());
}
