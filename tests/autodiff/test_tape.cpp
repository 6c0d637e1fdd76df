// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numbers>
#include <string>
#include <vector>

#include "brenier/base/error.hpp"
#include "brenier/tape.hpp"
#include "kernels/ref/cloud/program.hpp"
#include "tests/support/capture.hpp"

using namespace brenier;

namespace {

/// |a - b| relative to the larger of the two; 0 where they are equal.
double difference(double a, double b) {
  return a == b ? 0.0 : std::abs(a - b) / std::max(std::abs(a), std::abs(b));
}

template <class T>
struct Result {
  T value = 0;
  std::vector<T> gradient;
};

template <class T = double>
Result<T> run(const Program& program, const std::vector<T>& x) {
  std::vector<T> workspace(program.workspace(), std::numeric_limits<T>::quiet_NaN());
  Result<T> result{T(0), std::vector<T>(x.size())};
  ref::evaluate<T>(program, x.data(), workspace.data(), &result.value, result.gradient.data());
  return result;
}

using Function = std::function<Var(Var)>;

Program compiled(int n, const Function& f) {
  Tape tape(n);
  return compile(tape, f(tape.input()), tape.input());
}

double value_of(const Program& p, std::vector<double> x) {
  return run(p, x).value;
}

/// The gradient against central differences of the value.
void check_differences(const std::string& name, const Program& p, const std::vector<double>& x) {
  const Result<double> exact = run(p, x);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double h = 1e-5 * std::max(1.0, std::abs(x[i]));
    std::vector<double> up = x, down = x;
    up[i] += h;
    down[i] -= h;
    const double slope = (value_of(p, up) - value_of(p, down)) / (up[i] - down[i]);
    CAPTURE(name);
    CAPTURE(i);
    CHECK(std::abs(exact.gradient[i] - slope) < 1e-8 * (1 + std::abs(slope)));
  }
}

int count(const Program& p, OpCode op) {
  int n = 0;
  for (const Instruction& step : p.code) n += step.op == op;
  return n;
}

Matrix<double> ugly_matrix(Index rows, Index cols) {
  Matrix<double> m(rows, cols);
  for (Index i = 0; i < rows; ++i)
    for (Index j = 0; j < cols; ++j) m(i, j) = std::sin(1.0 + 3.7 * double(i) + 1.9 * double(j));
  return m;
}

struct Scalar {
  const char* name;
  Function f;
  double (*value)(double);
  double (*slope)(double);
  double (*curvature)(double);
  std::vector<double> points;
};

double sigma(double x) {
  return 1 / (1 + std::exp(-x));
}

const std::vector<Scalar>& scalar_functions() {
  static const std::vector<double> any = {-2.3, -0.7, 0.4, 1.9}, positive = {0.3, 1.7, 6.1};
  // clang-format off
  static const std::vector<Scalar> table = {
      {"exp", [](Var x) { return exp(x); }, [](double x) { return std::exp(x); },
       [](double x) { return std::exp(x); }, [](double x) { return std::exp(x); }, any},
      {"log", [](Var x) { return log(x); }, [](double x) { return std::log(x); },
       [](double x) { return 1 / x; }, [](double x) { return -1 / (x * x); }, positive},
      {"sqrt", [](Var x) { return sqrt(x); }, [](double x) { return std::sqrt(x); },
       [](double x) { return 0.5 / std::sqrt(x); },
       [](double x) { return -0.25 / (x * std::sqrt(x)); }, positive},
      {"abs", [](Var x) { return abs(x); }, [](double x) { return std::abs(x); },
       [](double x) { return x < 0 ? -1.0 : 1.0; }, [](double) { return 0.0; }, any},
      {"sin", [](Var x) { return sin(x); }, [](double x) { return std::sin(x); },
       [](double x) { return std::cos(x); }, [](double x) { return -std::sin(x); }, any},
      {"cos", [](Var x) { return cos(x); }, [](double x) { return std::cos(x); },
       [](double x) { return -std::sin(x); }, [](double x) { return -std::cos(x); }, any},
      {"tanh", [](Var x) { return tanh(x); }, [](double x) { return std::tanh(x); },
       [](double x) { return 1 / std::pow(std::cosh(x), 2); },
       [](double x) { return -2 * std::tanh(x) / std::pow(std::cosh(x), 2); }, any},
      {"softplus", [](Var x) { return softplus(x); }, [](double x) { return std::log1p(std::exp(x)); },
       [](double x) { return sigma(x); }, [](double x) { return sigma(x) * sigma(-x); }, any},
      {"sigmoid", [](Var x) { return sigmoid(x); }, [](double x) { return sigma(x); },
       [](double x) { return sigma(x) * sigma(-x); },
       [](double x) { return sigma(x) * sigma(-x) * (sigma(-x) - sigma(x)); }, any},
      {"erf", [](Var x) { return erf(x); }, [](double x) { return std::erf(x); },
       [](double x) { return std::numbers::inv_sqrtpi * 2 * std::exp(-x * x); },
       [](double x) { return std::numbers::inv_sqrtpi * -4 * x * std::exp(-x * x); }, any},
      {"atan2(x,2)", [](Var x) { return atan2(x, x.constant(2.0)); }, [](double x) { return std::atan2(x, 2.0); },
       [](double x) { return 2 / (4 + x * x); }, [](double x) { return -4 * x / std::pow(4 + x * x, 2); }, any},
      {"atan2(-1,x)", [](Var x) { return atan2(x.constant(-1.0), x); },
       [](double x) { return std::atan2(-1.0, x); }, [](double x) { return 1 / (1 + x * x); },
       [](double x) { return -2 * x / std::pow(1 + x * x, 2); }, any},
      // The root and the logarithm are NaN where they are not taken, and so would be their derivatives.
      {"where(x<0,-x,sqrt(x))", [](Var x) { return where(less(x, x.constant(0.0)), -x, sqrt(x)); },
       [](double x) { return x < 0 ? -x : std::sqrt(x); }, [](double x) { return x < 0 ? -1 : 0.5 / std::sqrt(x); },
       [](double x) { return x < 0 ? 0 : -0.25 / (x * std::sqrt(x)); }, any},
      {"where(0<x,where(x<1,x^3,log(x)),x^2)",
       [](Var x) {
         return where(less(x.constant(0.0), x), where(less(x, x.constant(1.0)), pow(x, 3), log(x)), x * x);
       },
       [](double x) { return x <= 0 ? x * x : x < 1 ? x * x * x : std::log(x); },
       [](double x) { return x <= 0 ? 2 * x : x < 1 ? 3 * x * x : 1 / x; },
       [](double x) { return x <= 0 ? 2 : x < 1 ? 6 * x : -1 / (x * x); }, any},
      {"x^3", [](Var x) { return pow(x, 3); }, [](double x) { return x * x * x; },
       [](double x) { return 3 * x * x; }, [](double x) { return 6 * x; }, any},
      {"x^11", [](Var x) { return pow(x, 11); }, [](double x) { return std::pow(x, 11); },
       [](double x) { return 11 * std::pow(x, 10); }, [](double x) { return 110 * std::pow(x, 9); }, any},
      {"x^-2", [](Var x) { return pow(x, -2); }, [](double x) { return 1 / (x * x); },
       [](double x) { return -2 / (x * x * x); }, [](double x) { return 6 / std::pow(x, 4); }, any},
      {"x^2.7", [](Var x) { return pow(x, 2.7); }, [](double x) { return std::pow(x, 2.7); },
       [](double x) { return 2.7 * std::pow(x, 1.7); },
       [](double x) { return 4.59 * std::pow(x, 0.7); }, positive},
      {"x^1.5", [](Var x) { return pow(x, 1.5); }, [](double x) { return std::pow(x, 1.5); },
       [](double x) { return 1.5 * std::sqrt(x); }, [](double x) { return 0.75 / std::sqrt(x); }, positive},
      {"2^x", [](Var x) { return pow(2.0, x); }, [](double x) { return std::exp2(x); },
       [](double x) { return std::log(2.0) * std::exp2(x); },
       [](double x) { return std::log(2.0) * std::log(2.0) * std::exp2(x); }, any},
      {"x^x", [](Var x) { return pow(x, x); }, [](double x) { return std::pow(x, x); },
       [](double x) { return std::pow(x, x) * (std::log(x) + 1); },
       [](double x) { return std::pow(x, x) * (std::pow(std::log(x) + 1, 2) + 1 / x); }, positive},
      {"1/x", [](Var x) { return 1.0 / x; }, [](double x) { return 1 / x; },
       [](double x) { return -1 / (x * x); }, [](double x) { return 2 / (x * x * x); }, any},
      {"x/(1+x^2)", [](Var x) { return x / (1 + x * x); }, [](double x) { return x / (1 + x * x); },
       [](double x) { return (1 - x * x) / std::pow(1 + x * x, 2); },
       [](double x) { return 2 * x * (x * x - 3) / std::pow(1 + x * x, 3); }, any},
      {"max(x,1)x", [](Var x) { return max(x, 1.0) * x; }, [](double x) { return x > 1 ? x * x : x; },
       [](double x) { return x > 1 ? 2 * x : 1.0; }, [](double x) { return x > 1 ? 2.0 : 0.0; }, any},
      {"min(x,1)x", [](Var x) { return min(1.0, x) * x; }, [](double x) { return x < 1 ? x * x : x; },
       [](double x) { return x < 1 ? 2 * x : 1.0; }, [](double x) { return x < 1 ? 2.0 : 0.0; }, any},
  };
  // clang-format on
  return table;
}

}  // namespace

TEST_CASE("tape: functions of one number, their first and second derivatives") {
  for (const Scalar& s : scalar_functions()) {
    const Program first = compiled(1, s.f);
    const Program second = compiled(1, [&](Var x) { return gradient(s.f(x), x); });
    for (double x : s.points) {
      CAPTURE(s.name);
      CAPTURE(x);
      const Result<double> r = run(first, {x});
      CHECK(difference(r.value, s.value(x)) < 1e-14);
      CHECK(difference(r.gradient[0], s.slope(x)) < 2e-14);
      CHECK(difference(run(second, {x}).value, s.slope(x)) < 2e-14);
      CHECK(difference(run(second, {x}).gradient[0], s.curvature(x)) < 1e-12);
      check_differences(s.name, first, {x});
    }
  }
}

TEST_CASE("tape: functions of a vector against central differences") {
  const Matrix<double> m = ugly_matrix(5, 7);
  const std::vector<double> c = {0.3, -1.2, 0.8, 2.1, -0.4, 0.6, 1.1};
  const std::vector<std::pair<const char*, Function>> table = {
      {"sum", [](Var x) { return sum(sin(x) * x); }},
      {"dot", [&](Var x) { return dot(exp(0.3 * x), x - c); }},
      {"norm", [](Var x) { return norm(x - 2.0); }},
      {"component", [](Var x) { return x[0] * x[6] * x[6] - log(abs(x[3])); }},
      {"matvec", [&](Var x) { return sum(tanh(m * x) * (m * x)); }},
      {"one row", [&](Var x) { return exp(0.1 * matvec(ugly_matrix(1, 7), x)); }},
      {"one column", [](Var x) { return norm(ugly_matrix(3, 1) * x[2] + 1.0); }},
      {"scalar with vector", [](Var x) { return sum(pow(abs(x), 1.0 + 0.1 * x[1] * x[1]) / norm(x)); }},
      {"vector over vector", [](Var x) { return sum(x / (2.0 + cos(x)) / (1.0 + x * x)); }},
      {"min, max", [&](Var x) { return sum(min(x, x.constant(c)) * max(x, 0.1) * max(x[2], x)); }},
      {"logsumexp", [&](Var x) { return logsumexp(3.0 * x) * logsumexp(m * x) + logsumexp(x[2]); }},
      {"broadcast", [](Var x) { return sum(x.tape().broadcast(x[1], 7) * sigmoid(x)); }},
      {"scatter", [](Var x) { return norm(softplus(x) + x.tape().scatter(x[0] * x[1], 4, 7)); }},
      {"gradient of a gradient", [](Var x) { return norm(gradient(sum(exp(0.2 * x) * x) / norm(x), x)); }},
  };
  const std::vector<double> x = {0.7, -1.3, 0.45, 1.6, -0.35, 2.2, -0.9};
  for (const auto& [name, f] : table) check_differences(name, compiled(7, f), x);
}

TEST_CASE("tape: a Hessian, column by column, in closed form") {
  // 1/2 x^T M x with M not symmetric: gradient (M + M^T) x / 2, Hessian (M + M^T) / 2.
  const Matrix<double> m = ugly_matrix(3, 3);
  const std::vector<double> x = {0.2, -0.7, 1.3};
  for (int i = 0; i < 3; ++i) {
    const Program p = compiled(3, [&](Var v) { return gradient(0.5 * dot(v, m * v), v)[i]; });
    const Result<double> r = run(p, x);
    double expected = 0;
    for (int j = 0; j < 3; ++j) {
      const double h = 0.5 * (m(i, j) + m(j, i));
      expected += h * x[j];
      CHECK(difference(r.gradient[j], h) < 1e-15);
    }
    CHECK(difference(r.value, expected) < 1e-14);
  }
}

TEST_CASE("tape: conventions where there is no derivative") {
  const auto slope = [](const Function& f, double x) { return run(compiled(1, f), {x}).gradient[0]; };
  CHECK(slope([](Var x) { return abs(x); }, 0.0) == 0.0);
  CHECK(slope([](Var x) { return max(2.0 * x, x); }, 0.0) == 2.0);  // a tie returns, and follows, the first
  CHECK(slope([](Var x) { return min(2.0 * x, x); }, 0.0) == 2.0);
  CHECK(slope([](Var x) { return pow(x, 4); }, 0.0) == 0.0);
  CHECK(std::isfinite(slope([](Var x) { return pow(x, x * x + 1.0); }, 0.0)));
  CHECK(run(compiled(1, [](Var x) { return pow(x, 9); }), {-1.5}).value == std::pow(-1.5, 9));
  for (const Function& f :
       std::vector<Function>{[](Var x) { return norm(x); }, [](Var x) { return norm(x) * norm(x); },
                             [](Var x) { return sqrt(norm(x)); }, [](Var x) { return pow(dot(x, x), 0.25); },
                             [](Var x) { return pow(norm(x), 1.5); }, [](Var x) { return exp(-norm(x)); },
                             [](Var x) { return norm(gradient(pow(norm(x), 3), x)); }}) {
    const Program p = compiled(3, f);
    for (double g : run<double>(p, {0, 0, 0}).gradient) CHECK(g == 0.0);
    for (float g : run<float>(p, {0, 0, 0}).gradient) CHECK(g == 0.0F);
    // The length of a tiny vector underflows in float before the vector does.
    for (float g : run<float>(p, {1e-24F, -1e-30F, 0}).gradient) CHECK(std::isfinite(g));
  }
  const Result<float> small = run<float>(compiled(2, [](Var x) { return norm(x); }), {3e-15F, 4e-15F});
  CHECK(std::abs(small.gradient[0] - 0.6F) < 1e-6F);
  CHECK(std::abs(run<float>(compiled(2, [](Var x) { return norm(x); }), {3e-25F, 4e-25F}).gradient[1]) <=
        1.0F);
}

TEST_CASE("tape: where an inner value overflows and the outer one no longer changes, the slope is 0") {
  const struct {
    const char* name;
    Function f;
    double value;
  } table[] = {
      {"logistic", [](Var x) { return 1.0 / (1.0 + exp(x)); }, 0},
      {"tanh", [](Var x) { return tanh(exp(x)); }, 1},
      {"erf", [](Var x) { return erf(-exp(x)); }, -1},
      {"sigmoid", [](Var x) { return sigmoid(-exp(x)); }, 0},
      {"softplus", [](Var x) { return softplus(-exp(x)); }, 0},
      {"exp", [](Var x) { return exp(-exp(x)); }, 0},
      {"sqrt", [](Var x) { return 1.0 / sqrt(exp(x)); }, 0},
      {"min", [](Var x) { return min(exp(x), 1.0); }, 1},
      {"max", [](Var x) { return max(-1.0, -exp(x)); }, -1},
      {"atan2", [](Var x) { return atan2(x.constant(0.0), exp(x)); }, 0},
      {"whole power", [](Var x) { return 1.0 / pow(exp(x), 3); }, 0},
      {"power", [](Var x) { return pow(exp(x), -1.25); }, 0},
      {"exponent", [](Var x) { return pow(0.7, exp(x)); }, 0},
      {"base and exponent", [](Var x) { return pow(1.0 / x, exp(x)); }, 0},
      {"dot",
       [](Var x) {
         const Var y = exp(x) * x.constant({1, 2});
         return tanh(dot(y, y));
       },
       1},
      {"sum",
       [](Var x) {
         return tanh(sum(exp(x * x.constant({1, 2}))));
       },
       1},
      {"matrix",
       [](Var x) {
         return tanh(sum(Matrix<double>(2, 2, 1.5) * exp(x * x.constant({1, 1}))));
       },
       1},
      {"quotient", [](Var x) { return 1.0 - x / (x + exp(x)); }, 1},
      {"branch", [](Var x) { return where(less(x, x.constant(0.0)), x, tanh(exp(x))); }, 1},
  };
  for (const auto& [name, f, value] : table) {
    CAPTURE_BOUND(name);
    const Program p = compiled(1, f);
    for (const double x : {800.0, 1e6, 1e300}) {
      const Result<double> d = run(p, {x});
      CHECK(d.value == value);
      CHECK(d.gradient[0] == 0);
    }
    for (const float x : {100.0F, 1e6F, 1e38F}) {
      const Result<float> s = run<float>(p, {x});
      CHECK(s.value == static_cast<float>(value));
      CHECK(s.gradient[0] == 0);
    }
    check_differences(name, p, {0.6});  // and where nothing overflows it is the slope
  }
  // A value that is not finite says so, and so does its gradient; and where an infinite value stands for one that is
  // not, what comes of it may be finite, but not the gradient.
  for (const Function& f : std::vector<Function>{
           [](Var x) { return exp(x) / exp(2.0 * x); }, [](Var x) { return x * exp(x) / (1.0 + exp(x)); },
           [](Var x) { return log(1.0 + exp(x)); }, [](Var x) { return sqrt(1.0 + exp(x)); },
           [](Var x) { return 1.0 / log(1.0 + exp(x)); }, [](Var x) { return pow(exp(x), -0.1); },
           [](Var x) { return pow(exp(x), -1.0 / x); }}) {
    const Program p = compiled(1, f);
    CHECK_FALSE(std::isfinite(run(p, {800}).gradient[0]));
    CHECK_FALSE(std::isfinite(run<float>(p, {100}).gradient[0]));
    check_differences("the same where it is finite", p, {0.6});
  }
  // The second derivative as well.
  const Program second = compiled(1, [](Var x) { return gradient(1.0 / (1.0 + exp(x)), x); });
  CHECK(run(second, {800}).value == 0);
  CHECK(run(second, {800}).gradient[0] == 0);
}

TEST_CASE("tape: a pole below a function that no longer changes has the slope of its limit, or none") {
  const struct {
    const char* name;
    Function f;
    double at, value;
  } table[] = {
      {"over a literal 0", [](Var x) { return sigmoid(x / 0.0); }, 2, 1},
      {"over a literal 0, below", [](Var x) { return sigmoid(x / 0.0); }, -2, 0},
      {"below a literal 0", [](Var x) { return 3.0 / (x / 0.0); }, 0.5, 0},
      {"a vector over a literal 0",
       [](Var x) {
         return sum(tanh(x * x.constant({1, 2}) / 0.0));
       },
       0.5, 2},
      {"tanh", [](Var x) { return tanh(1.0 / x); }, 0, 1},
      {"sigmoid", [](Var x) { return sigmoid(-1.0 / x); }, 0, 0},
      {"erf", [](Var x) { return erf(3.0 / x); }, 0, 1},
      {"softplus", [](Var x) { return softplus(-2.0 / x); }, 0, 0},
      {"exp", [](Var x) { return exp(-1.0 / (x * x)); }, 0, 0},
      {"a factor", [](Var x) { return exp(-(1.0 + x) / x); }, 0, 0},
      {"two poles", [](Var x) { return tanh(1.0 / x + 1.0 / abs(x)); }, 0, 1},
      {"norm",
       [](Var x) {
         return exp(-1.0 / norm(x * x.constant({3, 4})));
       },
       0, 0},
      {"logistic", [](Var x) { return 1.0 / (1.0 + exp(1.0 / x)); }, 0, 0},
      {"power", [](Var x) { return exp(-pow(x, -0.75)); }, 0, 0},
      {"exponent", [](Var x) { return pow(0.5, 1.0 / x); }, 0, 0},
      {"erf of log", [](Var x) { return erf(log(x)); }, 0, -1},
      {"min", [](Var x) { return min(1.0 / x, 5.0); }, 0, 5},
      {"min of a power", [](Var x) { return min(pow(x, -1.25), 3.0); }, 0, 3},
      {"max of log", [](Var x) { return max(log(x), -3.0); }, 0, -3},
      {"max of log of norm", [](Var x) { return max(max(log(norm(x)), -1.0), x * log(norm(x))); }, 0, -1},
      {"min of a harmonic mean", [](Var x) { return min(5.0 + 1.0 / (1.0 / x + 1.0), 4.0); }, 0, 4},
  };
  for (const auto& [name, f, at, value] : table) {
    CAPTURE_BOUND(name);
    const Program p = compiled(1, f);
    CHECK(run(p, {at}).value == value);
    CHECK(run(p, {at}).gradient[0] == 0);
    CHECK(run<float>(p, {static_cast<float>(at)}).value == static_cast<float>(value));
    CHECK(run<float>(p, {static_cast<float>(at)}).gradient[0] == 0);
    check_differences(name, p, {0.6});
    const Program slope = compiled(1, [&f = f](Var x) { return gradient(f(x), x); });
    CHECK(run(slope, {at}).value == 0);
    // exp(-log(x)^2) and its slopes tend to 0 too, but nothing is assumed of exponentials of logarithms.
    if (std::string(name) != "erf of log") CHECK(run(slope, {at}).gradient[0] == 0);
    if (at == 0) check_differences("the slope of " + std::string(name), slope, {0.6});
  }
  // Where the limit of the slopes is another, or there is none, the slope is not finite.
  for (const Function& f : std::vector<Function>{
           [](Var x) { return 1.0 / (1.0 / x); },
           [](Var x) { return 1.0 / (1.0 / x + 1.0 / (1.0 + x)); },
           [](Var x) { return pow(1.0 / x, -0.75); },
           [](Var x) { return 1.0 / pow(x, -0.75); },
           [](Var x) { return atan2(1.0 / x, 1.0 + x); },
           [](Var x) { return exp(log(x)); },
           [](Var x) { return sigmoid(log(x)); },
           [](Var x) { return softplus(log(x)); },
           [](Var x) { return tanh(0.5 * log(x)); },
           [](Var x) { return pow(2.0, 3.0 * log(x)); },
           [](Var x) { return 1.0 / log(x); },
       }) {
    const Program p = compiled(1, f);
    CHECK(std::isfinite(run(p, {0}).value));
    CHECK_FALSE(std::isfinite(run(p, {0}).gradient[0]));
    check_differences("beside the pole", p, {0.6});
  }
  // A number that is 0 only because it is too small has a logarithm, and the slope is not that of what comes of minus
  // infinity; one that is 0 as it stands has none.
  for (const Function& f : std::vector<Function>{[](Var x) { return max(log(exp(-x * x)), -1e4); },
                                                 [](Var x) { return 1.0 / log(sigmoid(-x * x)); },
                                                 [](Var x) { return 1.0 / log(1.0 / exp(-x * x)); }}) {
    const Program p = compiled(1, f);
    CHECK_FALSE(std::isfinite(run(p, {30}).gradient[0]));
    check_differences("a logarithm", p, {0.6});
  }
  const Program closed = compiled(1, [](Var x) { return max(log(1.0 - exp(-x * x)), -5.0); });
  CHECK(run(closed, {0}).gradient[0] == 0);
  // t log t and the like: no quotient 0 / 0 where t is 0, and none that overflows.
  CHECK(run<float>(compiled(1, [](Var t) { return 3.0 * t * log(2.0 * t) - 3.0 * log(2.0) * t; }), {1e-40F})
            .gradient[0] == doctest::Approx(3 * std::log(1e-40) + 3));
}

TEST_CASE("tape: float agrees with double") {
  const Program p =
      compiled(4, [](Var x) { return norm(tanh(x) * x) + softplus(sum(x)) / (1.0 + exp(x[1])); });
  const std::vector<double> x = {0.3, -1.25, 0.8, 0.05};
  const Result<double> d = run(p, x);
  const Result<float> f = run<float>(p, {x.begin(), x.end()});
  CHECK(difference(f.value, d.value) < 1e-6);
  for (int i = 0; i < 4; ++i) CHECK(difference(f.gradient[i], d.gradient[i]) < 5e-6);
  CHECK(f.value != d.value);  // computed in float, not cast at the end
}

TEST_CASE("tape: simplification") {
  const auto same = [](const Function& f, const Function& g) {
    Tape tape(3);
    return f(tape.input()).index() == g(tape.input()).index();
  };
  const Function id = [](Var x) { return x; };
  CHECK(same([](Var x) { return x * 1.0 + 0.0; }, id));
  CHECK(same([](Var x) { return -(-x) / 1.0 - 0.0; }, id));
  CHECK(same([](Var x) { return pow(x, 1.0); }, id));
  CHECK(same([](Var x) { return pow(x, 2.0); }, [](Var x) { return x * x; }));
  CHECK(same([](Var x) { return 2.0 * x - x; }, id));
  CHECK(same([](Var x) { return x - x; }, [](Var x) { return 0.0 * x; }));
  CHECK(same([](Var x) { return sum(x * x); }, [](Var x) { return dot(x, x); }));
  CHECK(same([](Var x) { return norm(x) * norm(x); }, [](Var x) { return dot(-x, -x); }));
  CHECK(
      same([](Var x) { return sum((2.0 * x[0]) * (3.0 * x)); }, [](Var x) { return 6.0 * (sum(x) * x[0]); }));
  CHECK(same([](Var x) { return exp(x) * sin(x); }, [](Var x) { return sin(x) * exp(x); }));
  CHECK(same([](Var x) { return cos(-x) + abs(-x) - tanh(-x); },
             [](Var x) { return tanh(x) + (abs(x) + cos(x)); }));
  CHECK_FALSE(same([](Var x) { return x * x; }, id));
  CHECK_FALSE(same([](Var x) { return x - 1.0; }, [](Var x) { return 1.0 - x; }));
  CHECK_FALSE(same([](Var x) { return x * 0.5; }, [](Var x) { return x * 0.25; }));
}

TEST_CASE("tape: constants fold, equal instructions are shared, dead ones are dropped") {
  const Program quadratic = compiled(9, [](Var x) { return 0.5 * sum(x * x); });
  CHECK(quadratic.code.size() == 4);  // x, dot, 0.5, product: the gradient is x itself
  CHECK(quadratic.gradient == 0);

  Tape tape(2);
  const Var x = tape.input();
  const Var c = exp(x.constant(0.3)) * matvec(ugly_matrix(2, 2), x.constant({1.0, 2.0}))[1];
  double folded = 0;
  CHECK(tape.is_constant(c, &folded));
  CHECK(difference(folded, std::exp(0.3) * (ugly_matrix(2, 2)(1, 0) + 2 * ugly_matrix(2, 2)(1, 1))) < 1e-15);

  const Program shared = compiled(2, [](Var v) { return exp(v[0] * v[1]) + sin(exp(v[0] * v[1])); });
  CHECK(count(shared, OpCode::exp) == 1);  // in the value and in the gradient
  const Program dead = compiled(2, [](Var v) {
    tanh(v);
    return sum(v);
  });
  CHECK(count(dead, OpCode::tanh) == 0);
  const Program symmetric = compiled(3, [](Var v) {
    Matrix<double> m(3, 3, 0.25);
    m(0, 0) = m(1, 1) = m(2, 2) = 2;
    return 0.5 * dot(v, m * v);
  });
  CHECK(count(symmetric, OpCode::matvec) == 1);  // M = M^T is found by its elements
  CHECK(symmetric.constants.size() == 10);
  // Contributions to one adjoint merge, whichever comes first.
  CHECK(compiled(1, [](Var v) { return 0.5 * v * v + exp(v); }).code.size() == compiled(1, [](Var v) {
                                                                                 const Var e = exp(v);
                                                                                 return e + 0.5 * v * v;
                                                                               }).code.size());
}

TEST_CASE("tape: factors that do not fold into one number") {
  const auto value = [](const Function& f, double x) { return run(compiled(1, f), std::vector{x}); };
  const double huge = 9e307;
  const auto three = [&](Var x) { return huge * x + huge * x + huge * x; };
  CHECK(value(three, 0.1).value == huge * 0.1 + huge * 0.1 + huge * 0.1);
  CHECK(value(three, 0.1).gradient[0] == std::numeric_limits<double>::infinity());
  CHECK(difference(value([&](Var x) { return three(x) - huge * x - huge * x; }, 0.1).value, huge * 0.1) <
        1e-15);
  const double tiny = 1e-308;  // tiny - 0.9 tiny is not normal
  const auto few = [&](Var x) { return tiny * x - 0.9 * tiny * x + tiny * x - 0.9 * tiny * x; };
  CHECK(difference(value(few, 1e10).value, 0.2 * tiny * 1e10) < 1e-14);
  const Program infinite = compiled(3, [](Var x) { return sum(x / 0.0 + x + x); });
  CHECK(value_of(infinite, {1, 2, 3}) == std::numeric_limits<double>::infinity());
}

TEST_CASE("tape: many constants while a gradient is recorded") {
  // Each power adds constants to the tape, whose storage moves: rules may hold no pointers into it.
  for (int n = 1; n < 70; ++n) {
    const Program p = compiled(1, [&](Var x) {
      Var y = pow(x, 0.9);
      for (int i = 1; i < n; ++i) y = y + pow(x, 0.9 - 0.01 * i);
      return y;
    });
    double slope = 0;
    for (int i = 0; i < n; ++i) slope += (0.9 - 0.01 * i) * std::pow(1.7, 0.9 - 0.01 * i - 1);
    CAPTURE(n);
    CHECK(difference(run(p, std::vector{1.7}).gradient[0], slope) < 1e-14);
  }
}

TEST_CASE("tape: the gradient of a constant is full of zeros, and long tapes need no stack") {
  const Result<double> flat = run(compiled(5, [](Var x) { return x.constant(3.5); }), {1, 2, 3, 4, 5});
  CHECK(flat.value == 3.5);
  CHECK(flat.gradient == std::vector<double>(5, 0.0));
  const Program chain = compiled(1, [](Var x) {
    Var y = x;
    for (int i = 0; i < 100000; ++i) y = sin(y);
    return y;
  });
  CHECK(chain.code.size() >= 300000);
  CHECK(std::isfinite(run(chain, {0.7}).gradient[0]));
}

TEST_CASE("tape: misuse is reported") {
  Tape tape(3), other(3);
  const Var x = tape.input();
  CHECK_THROWS_AS(x + x.constant({1.0, 2.0}), ShapeError);
  CHECK_THROWS_AS(dot(x, x[0]), ShapeError);
  CHECK_THROWS_AS(x[3], ShapeError);
  CHECK_THROWS_AS(x[-1], ShapeError);
  CHECK_THROWS_AS(matvec(ugly_matrix(3, 2), x), ShapeError);
  CHECK_THROWS_AS(gradient(x, x), ShapeError);
  CHECK_THROWS_AS(compile(tape, x, x), ShapeError);
  CHECK_THROWS_AS(compile(tape, sum(x), x[0]), ValueError);
  CHECK_THROWS_AS(x + other.input(), ValueError);
  CHECK_THROWS_AS(gradient(sum(x), other.input()), ValueError);
  CHECK_THROWS_AS(Var() + x, ValueError);
  CHECK_THROWS_AS(Tape(0), ShapeError);
}
