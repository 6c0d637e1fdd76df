// SPDX-License-Identifier: MIT
// Clouds carried by maps: densities along second-order trajectories against exact determinants, and flows in
// the situations that strain them.
#include <doctest/doctest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <Eigen/Dense>
#include <brenier/brenier.hpp>
#include <cmath>
#include <utility>

#include "tests/support/near.hpp"
#include "tests/support/nets.hpp"

using namespace brenier;
using namespace brenier::test;

namespace {

/// x -> H x + shift with H = alpha I + B^T B, as a network whose hidden part is switched off.
BrenierMap affine(int d, Numbers& numbers, double size) {
  BrenierMap map{Icnn({.dim = d, .hidden = {1}, .quadratic_rank = d, .alpha_min = 0, .floor = 0}), {}};
  map.theta.assign(map.net.parameters(), 0.0);
  map.theta[map.net.alpha()] = 0.8;
  for (int k = 0; k < d * d; ++k) map.theta[map.net.factor() + k] = numbers(-size, size);
  for (int c = 0; c < d; ++c) map.theta[map.net.output_input() + c] = numbers(-1, 1);
  return map;
}

double deviation(const Matrix<double>& x) {
  double mean = 0, sum = 0;
  for (const double value : x.elements()) mean += value / static_cast<double>(x.rows());
  for (const double value : x.elements()) sum += (value - mean) * (value - mean);
  return std::sqrt(sum / static_cast<double>(x.rows()));
}

FlowOptions quick(double tau) {
  FlowOptions options{.tau = tau, .seed = 1, .threads = 2};
  options.network.hidden = {16, 8};
  options.inner.iterations = 200;
  options.inner.adam.rate = 3e-3;
  return options;
}

/// The same flow of order 2 with log-densities and without.
template <class T>
std::pair<Flow<T>, Flow<T>> both_ways(const Functional& f, const Density& start, Index n,
                                      FlowOptions options) {
  options.order = 2;
  Cloud cloud = start.sample(n, Sampling::stratified);
  const Cloud bare{cloud.x, {}};
  return {Flow<T>(f, std::move(cloud), options), Flow<T>(f, bare, options)};
}

}  // namespace

TEST_CASE("second order: log-densities are those of the composed Jacobian, whose factors do not commute") {
  const int d = 3;
  Numbers numbers(71);
  Team team(1);
  // A simplex of d + 1 points: affine maps of all points give the Jacobian of the whole by its edges.
  Cloud cloud{numbers.matrix<double>(d + 1, d, -1, 1), std::vector<double>(d + 1, 0.0)};
  const auto edges = [&](const Matrix<double>& x) {
    Eigen::MatrixXd m(d, d);
    for (int i = 0; i < d; ++i) {
      for (int c = 0; c < d; ++c) m(c, i) = x(i + 1, c) - x(0, c);
    }
    return m;
  };
  const double start = std::log(std::abs(edges(cloud.x).determinant()));
  Trajectory trajectory(cloud, true);
  Trajectory positions({cloud.x, {}}, true, false);  // follows without densities and Jacobians
  CHECK_THROWS_WITH_AS(Trajectory(cloud, true, false), doctest::Contains("need Jacobians"), ValueError);
  for (int k = 0; k < 7; ++k) {
    BrenierMap map = affine(d, numbers, 0.5);
    map.base = k < 3 ? MapBase::current : MapBase::extrapolated;
    map.ratio = k < 5 ? 1 : 1.4;  // of step lengths
    map.closes_step = k >= 2;     // three start-up maps make the first step
    const Trajectory::Base base = trajectory.base(map, team);
    REQUIRE(base.admissible);
    trajectory.advance(map, base, team);
    positions.advance(map, team);
    CHECK(positions.x().elements() == trajectory.x().elements());
    CHECK(positions.jacobian().empty());
    const double expected = start - std::log(std::abs(edges(trajectory.x()).determinant()));
    for (int i = 0; i <= d; ++i) CHECK(std::abs(trajectory.log_density()[i] - expected) < 1e-12);
  }
  CHECK(trajectory.has_previous());
}

TEST_CASE("steps of different lengths are exact along a parabola, those of one length need equal ones") {
  // x(t) = t^2 + a, with velocities v: BDF2 takes x(t_{n+1}) from x* by tau (1 + r)/(1 + 2r) v(t_{n+1}).
  const double t0 = 0.3, first = 0.2, second = 0.5, ratio = second / first;
  const auto x = [](double t) { return t * t; };
  Numbers numbers(5);
  BrenierMap shift = affine(1, numbers, 0);
  const auto move = [&](double by) {
    shift.theta[shift.net.alpha()] = 1;
    shift.theta[shift.net.output_input()] = by;
    return shift;
  };
  Team team(1);
  const auto miss = [&](double assumed) {
    Trajectory cloud({Matrix<double>(1, 1, x(t0)), {}}, true);
    cloud.advance(move(x(t0 + first) - x(t0)), team);
    const double end = t0 + first + second;
    BrenierMap map = move(second * (1 + ratio) / (1 + 2 * ratio) * 2 * end);
    map.base = MapBase::extrapolated;
    map.ratio = assumed;
    cloud.advance(map, team);
    return std::abs(cloud.x()(0, 0) - x(end));
  };
  CHECK(miss(ratio) < 1e-14);
  CHECK(miss(1) > 0.05);
}

TEST_CASE(
    "second order without densities takes the first order where an extrapolation would fold the cloud") {
  // tau V'' = 10: one step contracts by 11, and the extrapolation would turn the cloud over.
  auto [with, without] =
      both_ways<float>(potential("5*sum(x^2)", 1), Density::gaussian(1, 0.0, 1.0), 200, quick(1.0));
  double before = without.functional().total();
  for (int k = 0; k < 3; ++k) {
    const std::optional<StepReport> a = with.step(), b = without.step();
    REQUIRE(a.has_value());
    REQUIRE(b.has_value());
    CHECK(a->order == b->order);
    CHECK(b->functional.total() < before);
    before = b->functional.total();
  }
}

TEST_CASE("second order without densities is the second order with them") {
  // tau V'' = 0.2: far from any fold. V alone does not see the densities, so that all bits agree.
  auto [with, without] =
      both_ways<double>(potential("sum(x^2)", 2), Density::gaussian(2, 1.0, 1.0), 100, quick(0.1));
  for (int k = 0; k < 3; ++k) {
    CHECK(with.step()->order == 2);
    CHECK(without.step()->order == 2);
  }
  CHECK(with.trajectory().x().elements() == without.trajectory().x().elements());
}

TEST_CASE("what a trajectory is restored from, and what maps are evaluated into, is checked") {
  const Cloud start = Density::gaussian(2, 0.0, 1.0).sample(5, Sampling::random, 1);
  Numbers numbers(8);
  Team team(1);
  Trajectory cloud({start.x, {}}, true);
  BrenierMap map = affine(2, numbers, 0.5);
  cloud.advance(map, team);
  CHECK(cloud.jacobian().empty());  // by default only densities need them
  Trajectory again = Trajectory::restore(cloud.x(), {}, cloud.previous(), cloud.jacobian(), true);
  map.base = MapBase::extrapolated;
  cloud.advance(map, team);
  again.advance(map, team);
  CHECK(again.x().elements() == cloud.x().elements());
  CHECK_ERROR(Trajectory::restore(start.x, start.log_density, start.x, {}, true), ValueError,
              "need Jacobians");

  Matrix<double> displacement(5, 2), narrow(5, 1), hessian(5, 3);
  CHECK_ERROR(map.evaluate(start.x, narrow, nullptr, {}, team), ShapeError, "(5, 2) into a matrix (5, 1)");
  CHECK_ERROR(map.evaluate(start.x, displacement, nullptr, hessian, team), ShapeError, "(5, 4)");
  map.theta.pop_back();
  CHECK_ERROR(map.evaluate(start.x, displacement, nullptr, {}, team), ShapeError, "parameters for a network");
  CHECK_ERROR(map.inverse(start.x, displacement, {}, team), ShapeError, "parameters for a network");
  CHECK_ERROR(write_map("never.safetensors", map), ShapeError, "parameters for a network");
}

TEST_CASE("redrawn clouds carry densities where a gradient depends on them") {
  const Density start = Density::gaussian(2, 0.0, 1.0);
  for (const int order : {1, 2}) {
    CAPTURE(order);
    const auto end = [&](double weight) {
      FlowOptions options = quick(0.1);
      options.inner.iterations = 40;
      options.order = order;
      options.inner.refresh = 10;
      Functional functional = entropy() + potential("sum(x^2)", 2);
      if (weight > 0) functional = functional + weight * porous_medium(2);
      Flow<double> flow(functional, start.sample(100, Sampling::random, 1), options);
      flow.set_source([&](std::uint32_t k) {
        return start.sample(100, Sampling::random, 1000 + k, RandomStream::fresh);
      });
      for (int k = 0; k < 3; ++k) REQUIRE(flow.step().has_value());
      return flow.trajectory().x().elements();
    };
    // The second runs with densities, which weigh nothing; in the third they do.
    const std::vector<double> without = end(0), with = end(1e-200), heavy = end(1);
    CHECK(without == with);
    CHECK(without != heavy);
  }
}

TEST_CASE("F of a large low-discrepancy cloud, from a subset of its pairs") {
  const Functional f = interaction("0.5*r^2", 2);  // F = d/2 * variance = 1 for N(0, I)
  for (const Index n : {Index{8192}, Index{16384}, Index{65536}, Index{100000}}) {
    CAPTURE(n);
    Flow<float> flow(f, Density::gaussian(2, 0.0, 1.0).sample(n, Sampling::stratified), quick(0.1));
    CHECK_REL(flow.functional_of(flow.trajectory(), 8192).total(), 1.0, 0.03);
    CHECK_REL(flow.functional_of(flow.trajectory(), 1024).total(), 1.0, 0.1);
  }
}

TEST_CASE("densities outside the range of float, and particles without density, are harmless") {
  {
    // f = t^2/(1+t): f' - f/t is 0/0 in floating point at t = 0.
    Cloud cloud = Density::barenblatt({.dim = 1, .m = 2, .time = 1e-2}).sample(99, Sampling::stratified);
    cloud.log_density[0] = -std::numeric_limits<double>::infinity();
    Flow<float> flow(internal("t^2/(1 + t)"), cloud, quick(1e-3));
    const std::optional<StepReport> report = flow.step();
    REQUIRE(report.has_value());
    CHECK(std::isfinite(report->functional.total()));
  }
  {
    // log rho = -88 and below in d = 20.
    FlowOptions options = quick(1.0);
    options.network.hidden = {6};
    options.inner.iterations = 20;
    Flow<float> flow(internal("t*log(t) + t^3/(1 + t)"),
                     Density::gaussian(20, 0.0, 1e3).sample(100, Sampling::stratified), options);
    REQUIRE(flow.step().has_value());
  }
}

TEST_CASE("float keeps its digits far from the origin") {
  const double tau = 0.1;
  GaussianFlow exact(Matrix<double>(1, 1), {0.0});
  GaussianState initial{{0.0}, Matrix<double>(1, 1, 1.0)};
  const double expected = std::sqrt(exact.iterates(initial, tau, 3).back().covariance(0, 0));
  for (const double mean : {0.0, 1e5, 1e8}) {
    CAPTURE(mean);
    Flow<float> flow(entropy(), Density::gaussian(1, mean, 1.0).sample(500, Sampling::whitened), quick(tau));
    for (int k = 0; k < 3; ++k) REQUIRE(flow.step().has_value());
    CHECK_REL(deviation(flow.trajectory().x()), expected, 2e-3);
  }
}

TEST_CASE("steps with nothing to gain are solved without a retry, and move nothing") {
  const Cloud cloud = Density::gaussian(2, 0.5, 1.0).sample(50, Sampling::stratified);
  Cloud minimum{Matrix<double>(30, 2, 0.5), {}};
  struct Still {
    const char* v;
    const Cloud& cloud;
  };
  for (const Still& still :
       {Still{"0*sum(x)", cloud}, Still{"100 + 0*sum(x)", cloud}, Still{"3*sum((x - 0.5)^2) - 7", minimum}}) {
    for (const InnerOptions::Solver solver :
         {InnerOptions::Solver::automatic, InnerOptions::Solver::lbfgs, InnerOptions::Solver::adam}) {
      CAPTURE(still.v);
      CAPTURE(static_cast<int>(solver));
      FlowOptions options = quick(0.1);
      options.inner.solver = solver;
      Flow<float> flow(potential(still.v, 2), still.cloud, options);
      for (int k = 0; k < 2; ++k) {
        const std::optional<StepReport> report = flow.step();
        REQUIRE(report.has_value());
        CHECK(report->retries == 0);
        CHECK(report->solved);
        CHECK(report->decrease >= -1e-30);  // weights have a floor of 1e-18
        CHECK_REL(report->functional.total(), still.v[0] == '0' ? 0 : still.v[0] == '1' ? 100 : -7, 1e-6);
      }
      // 1e-4 of the cloud's size, or of its distance from the origin.
      CHECK_CLOSE(flow.trajectory().x(), still.cloud.x, 1e-4);
    }
  }
  Flow<float> alone(interaction("0.5*r^2", 1), Cloud{Matrix<double>(1, 1, 0.3), {}}, quick(0.1));
  const std::optional<StepReport> report = alone.step();
  REQUIRE(report.has_value());
  CHECK(report->solved);
  CHECK(report->retries == 0);
}

TEST_CASE("more threads than the system gives: an error, not the end of the process") {
#if defined(__SANITIZE_ADDRESS__)
  MESSAGE("SKIPPED: the address sanitizer needs the address space that this test takes away");
#else
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    const rlimit limit{std::size_t{2} << 30, std::size_t{2} << 30};
    ::setrlimit(RLIMIT_AS, &limit);  // room for a few hundred stacks
    try {
      Team team(4096);
    } catch (const NotAvailable& error) {
      ::_exit(std::string(error.what()).find("threads = 4096") != std::string::npos ? 0 : 2);
    }
    ::_exit(1);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
#endif
  CHECK_ERROR(Team(-3), ValueError, "threads = -3");
}
