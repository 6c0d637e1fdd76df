// SPDX-License-Identifier: MIT
// The oracles judge everything else, so they are judged here against quadrature, against the equations that
// they solve, and against numbers computed elsewhere.
#include <doctest/doctest.h>

#include <cmath>
#include <numbers>
#include <vector>

#include "brenier/base/error.hpp"
#include "brenier/oracles.hpp"
#include "tests/support/capture.hpp"

using namespace brenier;

namespace {

constexpr double eps = 2.220446049250313e-16;
constexpr double pi = std::numbers::pi;

/// |a - b| <= relative * max(|a|, |b|); false for NaN.
bool near(double a, double b, double relative) {
  return std::abs(a - b) <= relative * std::max(std::abs(a), std::abs(b));
}

/// Integral over a ball of R^d of f(|x|), where f may have a root singularity at the edge: r = R sin(angle),
/// by the midpoint rule.
template <class F>
double radial_integral(Index d, double radius, const F& f) {
  const int cells = 200000;
  const double h = 0.5 * pi / cells;
  double sum = 0;
  for (int i = 0; i < cells; ++i) {
    const double angle = (i + 0.5) * h;
    const double r = radius * std::sin(angle);
    sum += f(r) * std::pow(r, static_cast<double>(d - 1)) * radius * std::cos(angle);
  }
  const double sphere =
      2 * std::pow(pi, 0.5 * static_cast<double>(d)) / std::tgamma(0.5 * static_cast<double>(d));
  return sphere * sum * h;
}

std::vector<double> on_axis(Index d, double r) {
  std::vector<double> x(static_cast<std::size_t>(d), 0.0);
  x.back() = r;
  return x;
}

Matrix<double> matrix(Index n, const std::vector<double>& elements) {
  Matrix<double> a(n, n);
  a.elements() = elements;
  return a;
}

Matrix<double> product(const Matrix<double>& a, const Matrix<double>& b) {
  Matrix<double> c(a.rows(), b.cols());
  for (Index i = 0; i < a.rows(); ++i)
    for (Index k = 0; k < a.cols(); ++k)
      for (Index j = 0; j < b.cols(); ++j) c(i, j) += a(i, k) * b(k, j);
  return c;
}

/// Inverse of a symmetric 2 x 2 matrix.
Matrix<double> inverse2(const Matrix<double>& a) {
  const double det = a(0, 0) * a(1, 1) - a(0, 1) * a(1, 0);
  return matrix(2, {a(1, 1) / det, -a(0, 1) / det, -a(1, 0) / det, a(0, 0) / det});
}

double largest_difference(const Matrix<double>& a, const Matrix<double>& b) {
  double largest = 0;
  for (std::size_t i = 0; i < a.elements().size(); ++i)
    largest = std::max(largest, std::abs(a.elements()[i] - b.elements()[i]));
  return largest;
}

}  // namespace

TEST_CASE("Barenblatt constants of unit mass, and the paper's of mass 2") {
  const double expected[][3] = {
      {1, 0.360562, 12}, {2, 0.199471, 16}, {3, 0.134810, 20}, {6, 0.069715, 32}, {10, 0.045803, 48}};
  for (const auto& [d, C, k] : expected) {
    const Barenblatt profile(static_cast<Index>(d), 2);
    CHECK(near(profile.C(), C, 2e-5));
    CHECK(near(profile.k(), 1 / k, 4 * eps));
  }
  CHECK(near(Barenblatt(1, 2).C(), std::cbrt(3.0 / 64), 16 * eps));
  CHECK(near(Barenblatt(1, 2, 2).C(), std::cbrt(3.0 / 16), 16 * eps));
}

TEST_CASE("Barenblatt mass, moments and energy agree with quadrature") {
  for (const Index d : {1, 2, 3, 7})
    for (const double m : {1.3, 2.0, 3.7}) {
      const double mass = 1.7, t = 0.37;
      const Barenblatt profile(d, m, mass);
      const double R = profile.radius(t);
      const auto rho = [&](double r) { return profile.density(on_axis(d, r), t); };
      CAPTURE_BOUND(d);
      CAPTURE(m);
      CHECK(near(radial_integral(d, R, rho), mass, 1e-7));
      const double moment = radial_integral(d, R, [&](double r) { return r * r * rho(r); }) / mass;
      CHECK(near(profile.second_moment(t), moment, 1e-7));
      CHECK(near(profile.standard_deviation(t), std::sqrt(moment / static_cast<double>(d)), 1e-7));
      const double energy = radial_integral(d, R, [&](double r) { return std::pow(rho(r), m) / (m - 1); });
      CHECK(near(profile.energy(t), energy, 1e-7));
      CHECK(std::isinf(profile.log_density(on_axis(d, R * 1.0001), t)));
    }
}

TEST_CASE("Barenblatt solves the porous medium equation") {
  // d_t rho = rho^m'' + (d-1)/r rho^m', by central differences inside the support.
  for (const Index d : {1, 3}) {
    const double m = 2.5, t = 0.8, h = 1e-4;
    const Barenblatt profile(d, m);
    const double r = 0.4 * profile.radius(t);
    const auto rho = [&](double s, double time) { return profile.density(on_axis(d, s), time); };
    const auto power = [&](double s) { return std::pow(rho(s, t), m); };
    const double left = (rho(r, t + h) - rho(r, t - h)) / (2 * h);
    const double second = (power(r + h) - 2 * power(r) + power(r - h)) / (h * h);
    const double first = (power(r + h) - power(r - h)) / (2 * h);
    CHECK(near(left, second + static_cast<double>(d - 1) / r * first, 1e-5));
  }
}

TEST_CASE("porous medium in one dimension: the numbers of the time-stepping study") {
  const double t0 = 1e-3;
  const Barenblatt profile(1, 2);
  for (const double t : {1e-3, 1e-2, 0.1})
    CHECK(near(profile.energy(t), 0.28845 * std::pow(t, -1.0 / 3), 1e-5));
  CHECK(near(Barenblatt(1, 2, 2).energy(1), 0.915771, 1e-6));
  CHECK(near(profile.standard_deviation(0.031), 0.29222, 2e-5));

  const BarenblattFlow flow(profile, t0);
  const double exact = flow.exact(0.03);
  CHECK(near(exact, std::cbrt(31.0), 8 * eps));
  const double first = flow.iterates(1e-3, 30).back();
  CHECK(near(flow.standard_deviation(first), 0.28885, 2e-5));
  CHECK(near(flow.energy(first), 0.9290, 6e-5));
  CHECK(near(1 - first / exact, 0.0115, 0.01));

  const double second = std::abs(1 - flow.iterates(1e-3, 30, 2).back() / exact);
  const double halved = std::abs(1 - flow.iterates(5e-4, 60, 2).back() / exact);
  const double quartered = std::abs(1 - flow.iterates(2.5e-4, 120, 2).back() / exact);
  CHECK(near(second, 0.0021, 0.03));
  CHECK(second / halved > 3.3);
  CHECK(second / halved < 3.7);
  CHECK(halved / quartered > 3.5);
  CHECK(halved / quartered < 4.2);
}

TEST_CASE("a JKO step of a Barenblatt profile minimises the JKO functional over scales") {
  for (const Index d : {1, 4})
    for (const double stiffness : {0.0, 1.9}) {
      const double mass = 2.2, tau = 0.07, start = 0.05;
      const Barenblatt profile(d, 1.8, mass);
      const BarenblattFlow flow(profile, start, stiffness);
      const auto scales = flow.iterates(tau, 2);
      REQUIRE(scales.size() == 3);
      CHECK(scales[0] == 1);
      // From iterate 1, so that the scale before the step counts too.
      const double moment = mass * profile.second_moment(start);
      const auto objective = [&](double scale) {
        const double moved = scale - scales[1];
        return flow.energy(scale) + moment * moved * moved / (2 * tau);
      };
      const double h = 1e-5 * scales[2];
      const double slope = (objective(scales[2] + h) - objective(scales[2] - h)) / (2 * h);
      const double curvature =
          (objective(scales[2] + h) - 2 * objective(scales[2]) + objective(scales[2] - h)) / (h * h);
      CHECK(curvature > 0);
      CHECK(std::abs(slope / curvature) < 1e-8 * scales[2]);
    }
  // The cubic of the one-dimensional case, s^2 (s-1) = tau F / M2.
  const Barenblatt profile(1, 2);
  const double s = BarenblattFlow(profile, 1e-3).iterates(1e-3, 1)[1];
  CHECK(near(s * s * (s - 1), 1e-3 * profile.energy(1e-3) / profile.second_moment(1e-3), 32 * eps));
}

TEST_CASE("order 2 begins with the short steps and goes on by the extrapolated recurrence") {
  const BarenblattFlow flow(Barenblatt(2, 3), 0.01);
  const double tau = 4e-3;
  const auto scales = flow.iterates(tau, 2, 2);
  CHECK(near(scales[1], flow.iterates(tau / startup_steps, startup_steps).back(), 4 * eps));
  // A flow from the extrapolated profile is the same flow from another time, by self-similarity.
  const double extrapolated = (4 * scales[1] - scales[0]) / 3;
  const double q = 2 * (3 - 1.0);  // d(m-1)
  const double time = 0.01 * std::pow(extrapolated, q + 2);
  const double step = BarenblattFlow(Barenblatt(2, 3), time).iterates(2 * tau / 3, 1)[1];
  CHECK(near(scales[2], extrapolated * step, 32 * eps));
  // More mass is faster diffusion: by mass^(m-1) in time.
  const double heavy = BarenblattFlow(Barenblatt(2, 3, 1.5), 0.01).iterates(tau, 3).back();
  const double later = BarenblattFlow(Barenblatt(2, 3), 0.01 * 2.25).iterates(tau * 2.25, 3).back();
  CHECK(near(heavy, later, 32 * eps));
}

TEST_CASE("the confined porous flow tends to its steady state") {
  const Barenblatt profile(3, 1.6, 1.3);
  const BarenblattFlow flow(profile, 0.2, 2.5);
  const PorousSteadyState steady = porous_steady_state(3, 1.6, 2.5, 1.3);
  CHECK(near(flow.radius(flow.exact(50)), steady.radius, 64 * eps));
  CHECK(near(flow.energy(flow.exact(50)), steady.energy, 64 * eps));
  CHECK(near(flow.radius(flow.iterates(0.3, 400).back()), steady.radius, 1e-12));
  CHECK(near(flow.radius(flow.iterates(0.1, 900, 2).back()), steady.radius, 1e-12));
  // dE/dt = -|grad|^2: the scale obeys r' = -E'(r)/M2.
  const double moment = 1.3 * profile.second_moment(0.2), h = 1e-5, r = flow.exact(0.3);
  const double velocity = (flow.exact(0.3 + h) - flow.exact(0.3 - h)) / (2 * h);
  const double slope = (flow.energy(r + h) - flow.energy(r - h)) / (2 * h);
  CHECK(near(velocity, -slope / moment, 1e-7));
}

TEST_CASE("nonlinear Fokker-Planck: V = x^2, m = 2") {
  const PorousSteadyState steady = porous_steady_state(1, 2, 2);
  CHECK(near(steady.C, std::cbrt(9.0 / 32), 16 * eps));
  CHECK(near(steady.C, 0.65519, 1e-5));
  CHECK(near(steady.radius, 1.14471, 1e-5));
  CHECK(near(steady.energy, 0.78622, 1e-5));
  CHECK(near(steady.energy, 1.2 * std::cbrt(9.0 / 32), 16 * eps));
  const auto rho = [&](double r) { return steady.density(std::vector<double>{r}); };
  CHECK(near(radial_integral(1, steady.radius, rho), 1, 1e-9));
  CHECK(near(radial_integral(1, steady.radius, [&](double r) { return r * r * rho(r) + rho(r) * rho(r); }),
             steady.energy, 1e-9));
  CHECK(steady.density(std::vector<double>{1.15}) == 0);
}

TEST_CASE("aggregation: the semicircle") {
  CHECK(near(AggregationFlow::infimum(), 0.54829, 1e-5));
  CHECK(near(AggregationFlow::energy(std::numbers::sqrt2), AggregationFlow::infimum(), 4 * eps));
  CHECK(near(AggregationFlow::gaussian_energy(1), 0.64430, 1e-5));
  CHECK(near(AggregationFlow::gaussian_energy(4), 1.79773, 1e-5));
  const double mass = radial_integral(1, std::numbers::sqrt2, AggregationFlow::steady_density);
  CHECK(near(mass, 1, 1e-9));
  // JKO optimality over scales; the variance is R^2/4.
  const double R = 0.7, tau = 0.2;
  const AggregationFlow flow(R);
  const double next = flow.iterates(tau, 1)[1];
  const auto objective = [&](double r) {
    return AggregationFlow::energy(r) + 0.25 * (r - R) * (r - R) / (2 * tau);
  };
  const double h = 1e-5;
  const double curvature = (objective(next + h) - 2 * objective(next) + objective(next - h)) / (h * h);
  CHECK(std::abs((objective(next + h) - objective(next - h)) / (2 * h) / curvature) < 1e-9);
  CHECK(near(flow.exact(30), std::numbers::sqrt2, 4 * eps));
  const double exact = flow.exact(1);
  const double coarse = std::abs(flow.iterates(0.05, 20).back() - exact);
  const double fine = std::abs(flow.iterates(0.025, 40).back() - exact);
  const double coarse2 = std::abs(flow.iterates(0.05, 20, 2).back() - exact);
  const double fine2 = std::abs(flow.iterates(0.025, 40, 2).back() - exact);
  CHECK(coarse / fine > 1.8);
  CHECK(coarse / fine < 2.2);
  CHECK(coarse2 / fine2 > 3);
  CHECK(coarse2 / fine2 < 5);
  CHECK(coarse2 < 0.2 * coarse);
}

TEST_CASE("Gaussian JKO steps solve the scalar equations when everything commutes") {
  const std::vector<double> a = {0.3, 1.7, 11.0}, b = {1, -2, 0.5};
  Matrix<double> A(3, 3), S(3, 3);
  for (Index i = 0; i < 3; ++i) {
    A(i, i) = a[i];
    S(i, i) = 1.0 + static_cast<double>(i);
  }
  const double tau = 0.05;
  const GaussianFlow flow(A, b);
  const auto states = flow.iterates({{0.1, 0.2, 0.3}, S}, tau, 4);
  REQUIRE(states.size() == 5);
  for (std::size_t n = 0; n < 4; ++n)
    for (Index i = 0; i < 3; ++i) {
      const double s = std::sqrt(states[n].covariance(i, i)), t = std::sqrt(states[n + 1].covariance(i, i));
      CHECK(std::abs((1 / tau + a[i]) * t * t - s * t / tau - 1) < 64 * eps * s * t / tau);
      CHECK(
          near(states[n + 1].mean[i], (states[n].mean[i] + tau * a[i] * b[i]) / (1 + tau * a[i]), 64 * eps));
    }
  // Entropy only, and potential only.
  const GaussianState first = {{0.1, 0.2, 0.3}, S};
  const auto heat = GaussianFlow(Matrix<double>(3, 3), b).iterates(first, tau, 1)[1];
  const auto pull = GaussianFlow(A, b, 0).iterates(first, tau, 1)[1];
  for (Index i = 0; i < 3; ++i) {
    const double s = std::sqrt(S(i, i));
    CHECK(near(std::sqrt(heat.covariance(i, i)), 0.5 * (s + std::sqrt(s * s + 4 * tau)), 16 * eps));
    CHECK(near(heat.mean[i], first.mean[i], 8 * eps));
    CHECK(near(std::sqrt(pull.covariance(i, i)), s / (1 + tau * a[i]), 16 * eps));
  }
}

TEST_CASE("Gaussian JKO steps satisfy the optimality condition when nothing commutes") {
  const double tau = 0.3, diffusion = 0.6;
  const Matrix<double> A = matrix(2, {2.0, 0.9, 0.9, 1.1}), S = matrix(2, {1.3, -0.7, -0.7, 0.8});
  const GaussianFlow flow(A, {0.4, -1.1}, diffusion);
  const auto next = flow.iterates({{2.0, 0.3}, S}, tau, 1)[1];
  // (y - x)/tau + grad V(y) + diffusion grad log rho'(y) = 0 gives x = K y with a symmetric K, so S = K S' K.
  const Matrix<double> inverse = inverse2(next.covariance);
  Matrix<double> K(2, 2);
  for (Index i = 0; i < 2; ++i)
    for (Index j = 0; j < 2; ++j)
      K(i, j) = (i == j ? 1.0 : 0.0) + tau * A(i, j) - tau * diffusion * inverse(i, j);
  CHECK(K(0, 0) > 0);
  CHECK(K(0, 0) * K(1, 1) > K(0, 1) * K(1, 0));
  CHECK(largest_difference(product(product(K, next.covariance), K), S) < 100 * eps);
  for (Index i = 0; i < 2; ++i) {
    double residual = next.mean[i] - std::vector<double>{2.0, 0.3}[i];
    for (Index j = 0; j < 2; ++j)
      residual += tau * A(i, j) * (next.mean[j] - std::vector<double>{0.4, -1.1}[j]);
    CHECK(std::abs(residual) < 20 * eps);
  }
}

TEST_CASE("Gaussian iterates of both orders converge to the exact flow at their orders") {
  const Matrix<double> A = matrix(2, {2.0, 0.9, 0.9, 1.1});
  const GaussianFlow flow(A, {0.4, -1.1}, 0.6);
  const GaussianState initial = {{2.0, 0.3}, matrix(2, {1.3, -0.7, -0.7, 0.8})};
  const GaussianState exact = flow.exact(initial, 1);
  const auto error = [&](int steps, int order) {
    const auto last = flow.iterates(initial, 1.0 / steps, steps, order).back();
    return std::max(largest_difference(last.covariance, exact.covariance),
                    std::abs(last.mean[0] - exact.mean[0]));
  };
  CHECK(error(40, 1) / error(80, 1) > 1.8);
  CHECK(error(40, 1) / error(80, 1) < 2.2);
  CHECK(error(40, 2) / error(80, 2) > 3.2);
  CHECK(error(40, 2) / error(80, 2) < 4.8);
  CHECK(error(80, 2) < 0.1 * error(80, 1));
  // The exact flow is a semigroup, and starts at its start.
  const GaussianState half = flow.exact(flow.exact(initial, 0.25), 0.75);
  CHECK(largest_difference(half.covariance, exact.covariance) < 20 * eps);
  CHECK(largest_difference(flow.exact(initial, 0).covariance, initial.covariance) < 20 * eps);
}

TEST_CASE("Gaussian energies and the infimum") {
  const GaussianFlow heat(Matrix<double>(1, 1), {0.0});
  const double variance = 0.37;
  CHECK(near(heat.energy({{5.0}, matrix(1, {variance})}),
             -0.5 * std::log(2 * pi * std::numbers::e * variance), 8 * eps));
  CHECK(std::isinf(heat.infimum()));
  CHECK(near(GaussianFlow(matrix(1, {3.0}), {2.0}, 0).energy({{5.0}, matrix(1, {variance})}),
             1.5 * (variance + 9), 8 * eps));
  const Matrix<double> A = matrix(2, {2.0, 0.9, 0.9, 1.1});
  const GaussianFlow flow(A, {0.4, -1.1}, 0.6);
  Matrix<double> S = inverse2(A);
  for (double& element : S.elements()) element *= 0.6;
  CHECK(near(flow.energy({{0.4, -1.1}, S}), flow.infimum(), 64 * eps));
  const auto states = flow.iterates({{2.0, 0.3}, matrix(2, {1.3, -0.7, -0.7, 0.8})}, 0.2, 200);
  for (std::size_t n = 0; n + 1 < 20; ++n) CHECK(flow.energy(states[n + 1]) < flow.energy(states[n]));
  CHECK(near(flow.energy(states.back()), flow.infimum(), 1e-12));
  CHECK(GaussianFlow(A, {0, 0}, 0).infimum() == 0);
}

TEST_CASE("symmetric KL of Gaussians") {
  const GaussianState p = {{1.0}, matrix(1, {4.0})}, q = {{-0.5}, matrix(1, {0.25})};
  // (1/2)(16 + 1/16 - 2 + 2.25 (4 + 1/4))
  CHECK(near(symmetric_kl(p, q), 0.5 * (14.0625 + 2.25 * 4.25), 16 * eps));
  CHECK(symmetric_kl(p, p) == 0);
  // Nearly equal ones keep their digits: (delta/variance)^2/2.
  const double delta = 1e-9;
  CHECK(near(symmetric_kl({{0.0}, matrix(1, {1.0})}, {{0.0}, matrix(1, {1.0 + delta})}), 0.5 * delta * delta,
             1e-6));
}

TEST_CASE("extrapolation that would fold space falls back to order 1") {
  // A stiff potential compresses by more than 4 in the first step.
  const GaussianFlow flow(matrix(1, {1000.0}), {0.0}, 1e-6);
  const auto states = flow.iterates({{1.0}, matrix(1, {1.0})}, 1.0, 3, 2);
  const auto resumed = flow.iterates(states[1], 1.0, 1)[1];
  CHECK(near(states[2].covariance(0, 0), resumed.covariance(0, 0), 64 * eps));
  CHECK(near(states[2].mean[0], resumed.mean[0], 64 * eps));
  const BarenblattFlow confined(Barenblatt(1, 2), 1.0, 1e6);
  const auto scales = confined.iterates(1.0, 2, 2);
  CHECK(scales[1] < 0.25);
  CHECK(scales[2] > 0);
}

TEST_CASE("oracles refuse values without a meaning") {
  CHECK_THROWS_AS(Barenblatt(0, 2), ValueError);
  CHECK_THROWS_WITH_AS(Barenblatt(1, 1),
                       "m is 1; it must be above 1 (for m = 1 use the entropy and a Gaussian)", ValueError);
  CHECK_THROWS_AS(Barenblatt(1, 2, 0), ValueError);
  CHECK_THROWS_AS(Barenblatt(1, 2).energy(0), ValueError);
  CHECK_THROWS_AS(Barenblatt(2, 2).density(std::vector<double>{1.0}, 1), ShapeError);
  const BarenblattFlow flow(Barenblatt(1, 2), 1);
  CHECK_THROWS_AS(flow.iterates(0, 3), ValueError);
  CHECK_THROWS_AS(flow.iterates(1, -1), ValueError);
  CHECK_THROWS_AS(flow.iterates(1, 1, 3), ValueError);
  CHECK(flow.iterates(1, 0) == std::vector<double>{1.0});
  CHECK_THROWS_AS(porous_steady_state(1, 2, 0), ValueError);
  CHECK_THROWS_AS(AggregationFlow(-1), ValueError);
  CHECK_THROWS_AS(GaussianFlow(matrix(2, {1, 2, 3, 4}), {0, 0}), ValueError);
  CHECK_THROWS_AS(GaussianFlow(matrix(2, {1, 0, 0, 1}), {0}), ShapeError);
  CHECK_THROWS_AS(GaussianFlow(matrix(1, {-2.0}), {0}).iterates({{0}, matrix(1, {1})}, 1, 1), ValueError);
  CHECK_THROWS_AS(GaussianFlow(matrix(1, {1.0}), {0}).exact({{0}, matrix(1, {-1})}, 1), ValueError);
}
