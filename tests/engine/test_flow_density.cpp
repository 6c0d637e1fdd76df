// SPDX-License-Identifier: MIT
// Inverses of maps and of whole flows, and the densities that they give.
#include <doctest/doctest.h>

#include <algorithm>
#include <brenier/brenier.hpp>
#include <cmath>

#include "tests/support/near.hpp"
#include "tests/support/nets.hpp"

using namespace brenier;
using namespace brenier::test;

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

BrenierMap generic_map(const Architecture& architecture, std::uint64_t seed) {
  const Icnn net(architecture);
  return {net, generic_parameters<double>(net, seed)};
}

/// x -> diag(h) x + shift, as a network whose hidden part is switched off; h_c > smallest.
BrenierMap diagonal(const std::vector<double>& h, const std::vector<double>& shift) {
  const int d = static_cast<int>(h.size());
  BrenierMap map{Icnn({.dim = d, .hidden = {1}, .quadratic_rank = d, .alpha_min = 0, .floor = 0}), {}};
  map.theta.assign(map.net.parameters(), 0.0);
  const double alpha = 0.9 * *std::min_element(h.begin(), h.end());
  map.theta[map.net.alpha()] = alpha;
  for (int c = 0; c < d; ++c) {
    map.theta[map.net.factor() + c * d + c] = std::sqrt(h[c] - alpha);
    map.theta[map.net.output_input() + c] = shift[c];
  }
  return map;
}

Matrix<double> image(const BrenierMap& map, const Matrix<double>& x, Team& team) {
  Matrix<double> y(x.rows(), x.cols());
  map.evaluate(x, y, nullptr, {}, team);
  for (std::size_t k = 0; k < y.elements().size(); ++k) y.elements()[k] += x.elements()[k];
  return y;
}

double largest_difference(const Matrix<double>& a, const Matrix<double>& b) {
  double worst = 0;
  for (std::size_t k = 0; k < a.elements().size(); ++k) {
    const double difference = std::abs(a.elements()[k] - b.elements()[k]);
    worst = difference <= worst ? worst : difference;  // NaN is kept
  }
  return worst;
}

FlowOptions quick(double tau, int order) {
  FlowOptions options{.tau = tau, .order = order, .seed = 1, .threads = 2};
  options.network.hidden = {20, 10};
  options.inner.iterations = 150;
  options.inner.adam.rate = 3e-3;
  return options;
}

/// n equidistant points from a to b, both of them.
Matrix<double> grid(double a, double b, Index n) {
  Matrix<double> x(n, 1);
  for (Index i = 0; i < n; ++i) x(i, 0) = a + (b - a) * static_cast<double>(i) / static_cast<double>(n - 1);
  return x;
}

/// The three flows of the paper in one dimension, with fewer particles and steps.
struct Line {
  const char* name;
  Functional functional;
  Density initial;
  double tau;
  int steps;
};

std::vector<Line> lines() {
  return {{"porous medium", porous_medium(2), Density::barenblatt({.dim = 1, .m = 2, .time = 1e-3}), 1e-3, 6},
          {"nonlinear Fokker-Planck", porous_medium(2) + potential("sum(x^2)", 1),
           Density::gaussian(1, 0.0, 0.2), 0.05, 6},
          {"aggregation", interaction("0.5*r^2 - log(r)", 1), Density::gaussian(1, 0.0, 1.0), 0.1, 6}};
}

}  // namespace

TEST_CASE("the inverse of a map returns every point, for all architectures") {
  Team team(2);
  Numbers numbers(5);
  for (const NetCase& test : net_cases()) {
    CAPTURE(test.name);
    const BrenierMap map = generic_map(test.architecture, 7);
    const Matrix<double> x = numbers.matrix<double>(150, test.architecture.dim, -3, 3);
    if (!map.net.smooth()) {
      Matrix<double> y(x.rows(), x.cols());
      std::vector<double> log_det(150);
      CHECK_ERROR(map.inverse(x, y, {}, team), ValueError,
                  "map: the inverse of a network with activation = leaky_relu");
      CHECK_ERROR(map.evaluate(x, y, log_det.data(), {}, team), ValueError,
                  "map: a log-determinant of a network");
      continue;
    }
    const Matrix<double> y = image(map, x, team);
    for (const int direct : {64, 0}) {  // Cholesky factors, and conjugate gradients
      CAPTURE(direct);
      Matrix<double> back(150, test.architecture.dim);
      const NewtonReport report = map.inverse(y, back, {.direct_dim = direct}, team);
      CHECK(report.count(InverseStatus::converged) == 150);
      CHECK(largest_difference(back, x) < 1e-11);
      CHECK(*std::max_element(report.iterations.begin(), report.iterations.end()) <= 15);
      Team one(1);
      Matrix<double> again(150, test.architecture.dim);
      map.inverse(y, again, {.direct_dim = direct}, one);
      CHECK(again.elements() == back.elements());
    }
  }
}

TEST_CASE("Newton's method: quadratic with factors, far points and small curvature come home") {
  Team team(1);
  Architecture a{.dim = 3, .hidden = {12, 8}};
  a.alpha_min = 0;
  BrenierMap map = generic_map(a, 3);
  map.theta[map.net.alpha()] = 1e-2;  // the image is R^3, but only because of this
  Numbers numbers(9);
  const Matrix<double> x = numbers.matrix<double>(1, 3, -2, 2);
  const Matrix<double> y = image(map, x, team);
  std::vector<double> residual;
  for (int k = 0; k <= 12; ++k) {
    Matrix<double> back(1, 3);
    residual.push_back(map.inverse(y, back, {.tolerance = 1e-300, .iterations = k}, team).residual[0]);
  }
  // Digits double: |r_{k+1}| <= C |r_k|^2 with one C, from where the residual is small until it is rounding.
  int doublings = 0;
  for (std::size_t k = 0; k + 1 < residual.size(); ++k) {
    CAPTURE(residual[k]);
    CAPTURE(residual[k + 1]);
    if (residual[k] > 1e-1 || residual[k] < 1e-9) continue;
    CHECK(residual[k + 1] <= 20 * residual[k] * residual[k] + 1e-14);
    ++doublings;
  }
  CHECK(doublings >= 2);
  CHECK(residual.back() < 1e-13);

  const Matrix<double> far = numbers.matrix<double>(64, 3, -1e4, 1e4);
  Matrix<double> back(64, 3);
  const NewtonReport report = map.inverse(far, back, {.scale = 1}, team);
  CHECK(report.count(InverseStatus::converged) == 64);
  CHECK(largest_difference(image(map, back, team), far) < 1e-7);
}

TEST_CASE("points that a map does not reach are outside, with density 0") {
  Team team(1);
  // u = sum of softplus: its gradient lies within (0, 1)^2, whatever x is.
  for (const Activation activation : {Activation::softplus, Activation::squareplus}) {
    Architecture a{.dim = 2, .hidden = {2}, .activation = activation, .learn_alpha = false, .alpha_min = 0};
    BrenierMap map{Icnn(a), {}};
    map.theta.assign(map.net.parameters(), 0.0);
    const Index weight = map.net.layers()[0].input_weight;
    map.theta[weight] = map.theta[weight + 3] = 1;
    map.theta[map.net.output_weight()] = map.theta[map.net.output_weight() + 1] = 1;
    Matrix<double> y(6, 2);
    y.elements() = {0.5, 0.5, 0.99, 0.01, 1.2, 0.5, 0.5, -0.1, 3, -4, NAN, 0.5};
    Matrix<double> x(6, 2);
    const NewtonReport report = map.inverse(y, x, {}, team);
    using S = InverseStatus;
    CHECK(report.status ==
          std::vector<S>{S::converged, S::converged, S::outside, S::outside, S::outside, S::outside});
    const FlowDensity flow({map}, Density::gaussian(2, 0.0, 1.0));
    const FlowDensity::LogDensities at = flow.log_density(y);
    for (Index i = 0; i < 6; ++i) CHECK(std::isfinite(at.values[i]) == (i < 2));
    for (Index i = 2; i < 5; ++i) CHECK(at.values[i] == -kInfinity);
    CHECK(std::isnan(at.values[5]));
    CHECK(at.count(S::outside) == 3);
    CHECK(at.status[5] == S::unconverged);
    const FlowDensity::Origins origins = flow.pull(y);
    CHECK(std::isnan(origins.x(3, 0)));
    const MatrixView<const double> found = origins.x.view().rows_from(0, 2);
    const Matrix<double> again = flow.push(found);
    for (int k = 0; k < 4; ++k) CHECK(std::abs(again.elements()[k] - y.elements()[k]) < 1e-12);
  }
}

TEST_CASE("flows on the line: round trips, densities along the cloud, and mass one by quadrature") {
  for (const Line& line : lines()) {
    for (const int order : {1, 2}) {
      CAPTURE(line.name);
      CAPTURE(order);
      const Cloud cloud = line.initial.sample(400, Sampling::stratified);
      Flow<float> flow(line.functional, cloud, quick(line.tau, order));
      while (flow.steps() < line.steps) REQUIRE(flow.step().has_value());
      const FlowDensity density(flow.maps(), line.initial, {.threads = 2});
      REQUIRE(density.steps() == line.steps);

      const FlowDensity::Origins origins = density.pull(flow.trajectory().x());
      CHECK(origins.count(InverseStatus::converged) == 400);
      CHECK(largest_difference(origins.x, cloud.x) < 1e-9);
      CHECK(origins.worst_round_trip < 1e-10);
      const FlowDensity::LogDensities along = density.log_density(flow.trajectory().x());
      CHECK(worst_error(along.values, flow.trajectory().log_density()) < 1e-8);

      // Particles of rho_0 beyond the 400 end where the density is that of the trajectory, too.
      const Cloud other = density.sample(1000, Sampling::stratified, 0, 3);
      CHECK(worst_error(density.log_density(other.x, 3).values, other.log_density) < 1e-8);

      double reach = 0;
      for (const double x : flow.trajectory().x().elements()) reach = std::max(reach, std::abs(x));
      const Index n = 4001;
      const Matrix<double> x = grid(-1.6 * reach, 1.6 * reach, n);
      const FlowDensity::LogDensities at = density.log_density(x);
      double mass = 0;
      for (Index i = 0; i < n; ++i) {
        REQUIRE_FALSE(std::isnan(at.values[i]));
        mass += std::exp(at.values[i]) * (x(1, 0) - x(0, 0));
      }
      CHECK(std::abs(mass - 1) < 2e-3);
    }
  }
}

TEST_CASE("second order in space: origins far from all particles, through factors that do not commute") {
  // The composite of affine maps is affine, so that rho_k is a Gaussian whose moments its corners give.
  const int d = 3;
  Numbers numbers(31);
  std::vector<BrenierMap> maps;
  for (int k = 0; k < 9; ++k) {
    BrenierMap map = diagonal({0.9, 1.0, 1.1}, {0.1, -0.2, 0.3});
    for (int c = 0; c < d * d; ++c) map.theta[map.net.factor() + c] = numbers(-0.4, 0.4);
    map.base = k < 3 ? MapBase::current : MapBase::extrapolated;
    map.closes_step = k >= 2;  // three start-up maps make the first of seven steps
    maps.push_back(map);
  }
  const Density normal = Density::gaussian(d, 0.5, 0.7);
  const FlowDensity flow(maps, normal, {.particles = 64, .threads = 2});
  REQUIRE(flow.steps() == 7);
  const Matrix<double> x = numbers.matrix<double>(200, d, -20, 20);
  Trajectory trajectory({x, normal.log_density(x)}, true);
  Team team(1);
  for (const BrenierMap& map : maps) trajectory.advance(map, team);
  const FlowDensity::Origins origins = flow.pull(trajectory.x());
  CHECK(origins.count(InverseStatus::converged) == 200);
  CHECK(largest_difference(origins.x, x) < 1e-10);
  CHECK(worst_error(flow.log_density(trajectory.x()).values, trajectory.log_density()) < 1e-11);
  CHECK(largest_difference(flow.push(x), trajectory.x()) == 0);

  const FlowDensity alone(maps, normal, {.particles = 64, .threads = 1});
  CHECK(alone.pull(trajectory.x()).x.elements() == origins.x.elements());
}

TEST_CASE("the inverse above the dimension of direct solves, in a few steps") {
  Team team(2);
  Numbers numbers(17);
  const BrenierMap map = generic_map({.dim = 70, .hidden = {40, 12}, .quadratic_rank = 3}, 2);
  const Matrix<double> x = numbers.matrix<double>(100, 70, -1, 1);
  const Matrix<double> y = image(map, x, team);
  Matrix<double> back(100, 70);
  const NewtonReport report = map.inverse(y, back, {}, team);
  CHECK(report.count(InverseStatus::converged) == 100);
  CHECK(largest_difference(back, x) < 1e-11);
  CHECK(*std::max_element(report.iterations.begin(), report.iterations.end()) <= 20);
}

TEST_CASE("affine steps have the density of the exact iterates") {
  // Steps x -> diag(h_k) x + b_k in d = 2: rho_k is a Gaussian with known mean and covariance.
  const std::vector<double> h = {1.4, 0.5};
  const Density start = Density::gaussian({1.0, -2.0}, [] {
    Matrix<double> c(2, 2);
    c.elements() = {0.5, 0.2, 0.2, 0.8};
    return c;
  }());
  std::vector<BrenierMap> maps;
  GaussianState state{{1.0, -2.0}, Matrix<double>(2, 2)};
  state.covariance.elements() = {0.5, 0.2, 0.2, 0.8};
  for (int k = 0; k < 8; ++k) {
    maps.push_back(diagonal(h, {0.3, 0.1 * k}));
    for (int i = 0; i < 2; ++i) {
      state.mean[i] = h[i] * state.mean[i] + (i == 0 ? 0.3 : 0.1 * k);
      for (int j = 0; j < 2; ++j) state.covariance(i, j) *= h[i] * h[j];
    }
  }
  const FlowDensity flow(maps, start);
  const Density exact = Density::gaussian(state.mean, state.covariance);
  const Matrix<double> y = exact.sample(500, Sampling::random, 4).x;
  CHECK(worst_error(flow.log_density(y).values, exact.log_density(y)) < 1e-11);

  // The mean of x_0^2 under rho_8, and its error.
  const Expression square = Expression::potential("x[0]^2", 2);
  const FlowDensity::Mean mean = flow.expectation(square, 20000, 3);
  const double second = state.mean[0] * state.mean[0] + state.covariance(0, 0);
  const double spread = std::sqrt(
      (2 * std::pow(state.covariance(0, 0), 2) + 4 * state.mean[0] * state.mean[0] * state.covariance(0, 0)) /
      20000);
  CHECK_REL(mean.standard_error, spread, 0.05);
  CHECK(std::abs(mean.value - second) < 4 * spread);
  const FlowDensity::Mean same =
      flow.expectation([](std::span<const double> x) { return x[0] * x[0]; }, 20000, 3);
  CHECK_REL(same.value, mean.value, tol<double>(64));
}

TEST_CASE("an Ornstein-Uhlenbeck flow in the plane: mass one, and the density of the exact iterates") {
  for (const int order : {1, 2}) {
    CAPTURE(order);
    const Functional f = entropy() + potential("0.5*x[0]^2 + x[1]^2 + 0.3*x[0]*x[1]", 2);
    const Density start = Density::gaussian({0.8, -0.4}, [] {
      Matrix<double> c(2, 2);
      c.elements() = {0.5, 0.1, 0.1, 1.2};
      return c;
    }());
    FlowOptions options = quick(0.1, order);
    options.network.hidden = {4};
    options.network.quadratic_rank = 2;
    options.inner.iterations = 600;
    Flow<double> flow(f, start.sample(512, Sampling::whitened), options);
    while (flow.steps() < 4) REQUIRE(flow.step().has_value());
    const FlowDensity density(flow.maps(), start, {.threads = 2});

    Matrix<double> stiffness(2, 2);
    stiffness.elements() = {1, 0.3, 0.3, 2};
    GaussianState state{{0.8, -0.4}, Matrix<double>(2, 2)};
    state.covariance.elements() = {0.5, 0.1, 0.1, 1.2};
    const GaussianState last = GaussianFlow(stiffness, {0, 0}).iterates(state, 0.1, 4, order).back();
    const Density exact = Density::gaussian(last.mean, last.covariance);

    const int n = 161;
    const double half = 5, cell = 2 * half / n;
    Matrix<double> y(n * n, 2);
    for (int i = 0; i < n; ++i) {
      for (int j = 0; j < n; ++j) {
        y(i * n + j, 0) = -half + (i + 0.5) * cell;
        y(i * n + j, 1) = -half + (j + 0.5) * cell;
      }
    }
    const FlowDensity::LogDensities at = density.log_density(y);
    double mass = 0, error = 0;
    const std::vector<double> wanted = exact.log_density(y);
    for (Index i = 0; i < y.rows(); ++i) {
      mass += std::exp(at.values[i]) * cell * cell;
      error += std::abs(std::exp(at.values[i]) - std::exp(wanted[i])) * cell * cell;
    }
    CAPTURE(error);
    CHECK(std::abs(mass - 1) < 2e-3);
    CHECK(error < 2e-3);  // twice the total variation; 2e-4 seen
  }
}

TEST_CASE("densities of flows: what cannot be asked") {
  const BrenierMap map = generic_map({.dim = 2, .hidden = {5, 3}}, 1);
  const Density normal = Density::gaussian(2, 0.0, 1.0);
  FlowDensity flow({map, map}, normal);
  const Matrix<double> line(3, 1), points(3, 2);
  CHECK_ERROR(flow.log_density(line), ShapeError, "dimension 1");
  CHECK_ERROR(flow.pull(line), ShapeError, "of dimension 2");
  CHECK_ERROR(flow.push(line), ShapeError, "dimension 1");
  CHECK_ERROR(flow.log_density(points, 3), ValueError, "step 3");
  CHECK_ERROR(flow.expectation(Expression::potential("x[0]", 1), 10), ShapeError, "dimension 2");
  CHECK_ERROR(flow.expectation(Expression::potential("x[0]", 2), 1), ValueError, "at least 2");
  CHECK_ERROR(FlowDensity({map}, Density::gaussian(3, 0.0, 1.0)), ShapeError, "dimension 3");
  CHECK_ERROR(FlowDensity({map}, normal, {.tolerance = NAN}), ValueError, "tolerance = nan");
  CHECK_ERROR(FlowDensity({map}, normal, {.iterations = 0}), ValueError, "iterations = 0");
  CHECK_ERROR(FlowDensity({map}, normal, {.particles = 0}), ValueError, "particles = 0");
  BrenierMap open = map;
  open.theta.pop_back();
  CHECK_ERROR(FlowDensity({map, open}, normal), ShapeError, "map 2");
  open = map;
  open.closes_step = false;
  CHECK_ERROR(FlowDensity({map, open}, normal), ValueError, "whole steps");
  BrenierMap extrapolated = map;
  extrapolated.base = MapBase::extrapolated;
  CHECK_ERROR(FlowDensity({extrapolated}, normal), ValueError, "from the start");

  // Step 0 is rho_0 itself, and without a density pull() remains.
  CHECK(flow.log_density(points, 0).values == normal.log_density(points));
  const FlowDensity blind({map, map}, FlowDensity::Function(), normal.sample(50).x);
  CHECK_ERROR(blind.log_density(points), ValueError, "not known");
  CHECK_ERROR(blind.sample(5), ValueError, "sampled");
  CHECK(worst_error(blind.pull(points).x, flow.pull(points).x) < 1e-12);
  const FlowDensity function(
      {map, map}, [&](std::span<const double> x) { return normal.log_density(x); }, normal.sample(50).x);
  CHECK(worst_error(function.log_density(points).values, flow.log_density(points).values) < 1e-12);
}
