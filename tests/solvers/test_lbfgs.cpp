// SPDX-License-Identifier: MIT
// Projected L-BFGS on functions whose minimum is known.
#include <cmath>

#include "solvers/lbfgs.hpp"
#include "tests/support/near.hpp"

using namespace brenier;
using namespace brenier::test;
using End = LbfgsReport::End;

namespace {

constexpr double kFree = -std::numeric_limits<double>::infinity();

template <class T>
struct Run {
  std::vector<T> theta;
  LbfgsReport report;
};

template <class T, class F>
Run<T> run(const F& f, std::vector<T> start, std::vector<T> lower = {}, LbfgsOptions options = {},
           std::vector<double> metric = {}) {
  if (lower.empty()) lower.assign(start.size(), static_cast<T>(kFree));
  if (metric.empty()) metric.assign(start.size(), 1.0);
  BoundedProblem<T> problem{f, lower, metric};
  Run<T> out{std::move(start), {}};
  out.report = minimise(problem, options, out.theta);
  return out;
}

/// 1/2 sum a_k (theta_k - b_k)^2, a_k from 1 to `condition`.
auto quadratic(std::size_t n, double condition) {
  return [=](const auto* theta, double* gradient) {
    double value = 0;
    for (std::size_t k = 0; k < n; ++k) {
      const double a = std::pow(condition, static_cast<double>(k) / static_cast<double>(n - 1));
      const double off = static_cast<double>(theta[k]) - (k % 2 == 0 ? 1.0 : -2.0);
      value += 0.5 * a * off * off;
      gradient[k] = a * off;
    }
    return value;
  };
}

double rosenbrock(const double* x, double* g) {
  const double a = 1 - x[0], b = x[1] - x[0] * x[0];
  g[0] = -2 * a - 400 * x[0] * b;
  g[1] = 200 * b;
  return a * a + 100 * b * b;
}

}  // namespace

/// Of searches on quadratics whose least curvature is 1.
template <class T>
constexpr double kGradient = sizeof(T) == 4 ? tol<T>(50) : 1e-9;

TEST_CASE_TEMPLATE("a quadratic is minimised", T, float, double) {
  LbfgsOptions options{.evaluations = 200, .gradient = kGradient<T>};
  const Run<T> out = run<T>(quadratic(11, 100), std::vector<T>(11, T(0)), {}, options);
  CHECK(out.report.end == End::gradient);
  CHECK(out.report.evaluations < 80);
  for (std::size_t k = 0; k < 11; ++k) CHECK_REL(out.theta[k], k % 2 == 0 ? 1 : -2, 4 * kGradient<T>);
}

TEST_CASE_TEMPLATE("bounds hold exactly, and hold what presses against them", T, float, double) {
  // Odd parameters want -2 and may not go below a bound whose double is not a T.
  std::vector<T> lower(11, static_cast<T>(kFree));
  for (std::size_t k = 1; k < 11; k += 2) lower[k] = static_cast<T>(1e-18);
  LbfgsOptions options{.evaluations = 200, .gradient = kGradient<T>};
  const Run<T> out = run<T>(quadratic(11, 100), std::vector<T>(11, T(0.5)), lower, options);
  CHECK(out.report.end == End::gradient);
  CHECK(out.report.evaluations < 80);
  for (std::size_t k = 0; k < 11; ++k) {
    if (k % 2 == 1) {
      CHECK(out.theta[k] == lower[k]);
    } else {
      CHECK_REL(out.theta[k], 1, 4 * kGradient<T>);
    }
  }
}

TEST_CASE("Rosenbrock's valley, free and with a bound across it") {
  LbfgsOptions options{.evaluations = 200, .gradient = 1e-10};
  Run<double> out = run<double>(rosenbrock, {-1.2, 1.0}, {}, options);
  CHECK(out.report.end == End::gradient);
  CHECK(out.report.evaluations < 100);
  CHECK_REL(out.theta[0], 1, 1e-9);
  CHECK_REL(out.theta[1], 1, 1e-9);
  // x_0 >= 1.5: the minimum is at (1.5, 2.25).
  out = run<double>(rosenbrock, {3.0, 1.0}, {1.5, kFree}, options);
  CHECK(out.report.end == End::gradient);
  CHECK(out.theta[0] == 1.5);
  CHECK_REL(out.theta[1], 2.25, 1e-9);
}

TEST_CASE("units of value and parameters do not matter") {
  // Powers of two: the same digits in every unit.
  const auto f = quadratic(9, 1000);
  const Run<double> out = run<double>(f, std::vector<double>(9, 0.0), {}, {.evaluations = 25});
  const double length = 0x1p-40, energy = 0x1p30;
  const auto scaled = [&](const double* theta, double* gradient) {
    std::vector<double> there(theta, theta + 9);
    for (double& t : there) t /= length;
    const double value = f(there.data(), gradient);
    for (int k = 0; k < 9; ++k) gradient[k] *= energy / length;
    return energy * value;
  };
  const Run<double> same = run<double>(scaled, std::vector<double>(9, 0.0), {}, {.evaluations = 25},
                                       std::vector<double>(9, length * length));
  for (int k = 0; k < 9; ++k) CHECK(same.theta[k] == length * out.theta[k]);
  CHECK(same.report.value == energy * out.report.value);
}

TEST_CASE("a good metric is worth what it says") {
  const auto f = quadratic(40, 1e6);
  std::vector<double> metric(40);
  for (std::size_t k = 0; k < 40; ++k) metric[k] = std::pow(1e6, -static_cast<double>(k) / 39);
  LbfgsOptions options{.evaluations = 300, .gradient = 1e-9};
  const Run<double> plain = run<double>(f, std::vector<double>(40, 0.0), {}, options);
  const Run<double> scaled = run<double>(f, std::vector<double>(40, 0.0), {}, options, metric);
  CHECK(scaled.report.evaluations < 10);
  CHECK(plain.report.evaluations > 5 * scaled.report.evaluations);
  // A metric of 0 fixes a parameter.
  metric[3] = 0;
  const Run<double> fixed = run<double>(f, std::vector<double>(40, 0.25), {}, options, metric);
  CHECK(fixed.theta[3] == 0.25);
  CHECK_REL(fixed.theta[4], 1, 1e-9);
}

TEST_CASE("how a search ends") {
  const auto f = quadratic(11, 100);
  const std::vector<double> start(11, 0.0);
  Run<double> out = run<double>(f, start, {}, {.evaluations = 7});
  CHECK(out.report.end == End::evaluations);
  CHECK(out.report.evaluations == 7);
  CHECK(out.report.value < out.report.first);
  out = run<double>(f, start, {}, {.evaluations = 200, .tolerance = 1e-3});
  CHECK(out.report.end == End::tolerance);
  CHECK(out.report.value < 1e-2 * out.report.first);
  std::atomic<bool> stop = true;
  out = run<double>(f, start, {}, {.interrupt = &stop});
  CHECK(out.report.end == End::interrupted);
  CHECK(out.theta == start);
  const auto broken = [](const double*, double* gradient) {
    std::fill_n(gradient, 2, 1.0);
    return std::nan("");
  };
  CHECK(run<double>(broken, {1.0, 2.0}).report.end == End::not_finite);
  // A gradient that points uphill.
  const auto wrong = [](const double* x, double* gradient) {
    gradient[0] = -2 * x[0];
    return x[0] * x[0];
  };
  out = run<double>(wrong, {1.0});
  CHECK(out.report.end == End::no_decrease);
  CHECK(out.theta[0] == 1.0);
}

TEST_CASE("points where the function is not finite are passed by") {
  // -log(x_0) + x_0 behind a wall at 0, from far away with a first step that crosses it.
  const auto f = [](const double* x, double* gradient) {
    gradient[0] = 1 - 1 / x[0];
    return x[0] > 0 ? x[0] - std::log(x[0]) : std::nan("");
  };
  const Run<double> out = run<double>(f, {0.5}, {}, {.gradient = 1e-10, .first_step = 10});
  CHECK(out.report.end == End::gradient);
  CHECK_REL(out.theta[0], 1, 1e-9);
}
