// SPDX-License-Identifier: MIT
// Solves with the Hessian and quadratures of its log-determinant: closed forms on every backend and on the
// reference, then every backend against the reference.
#include <doctest/doctest.h>

#include "kernels/model/tridiagonal.hpp"
#include "kernels/operations.hpp"
#include "tests/support/cases.hpp"
#include "tests/support/spectrum.hpp"

using namespace brenier;
using namespace brenier::test;

namespace {

// With a sanitizer over the emulator: one full tile with a rest.
const std::vector<Index> kSizes = kReduced ? std::vector<Index>{33} : std::vector<Index>{1, 7, 31, 33, 257};

/// All backends, the reference first.
template <class T>
std::vector<Backend<T>> everyone() {
  std::vector<Backend<T>> list = backends<T>();
  list.insert(list.begin(), {&ref::operations<T>(), 1});
  return list;
}

/// u = 1/2 x^T (alpha I + B^T B) x: a network whose hidden part has weights of 0, so that H is known. The
/// rows of B grow geometrically, from size 1 to `spread`.
template <class T>
struct Quadratic {
  Icnn net;
  std::vector<T> theta;
  Eigen::MatrixXd h;

  Quadratic(int d, int rank, double alpha, std::uint64_t seed, double spread = 1)
      : net({.dim = d, .hidden = {3}, .quadratic_rank = rank, .learn_alpha = false, .floor = 0}),
        theta(net.parameters(), T(0)) {
    Numbers numbers(seed);
    theta[net.alpha()] = static_cast<T>(alpha);
    Eigen::MatrixXd b(rank, d);
    for (int k = 0; k < rank * d; ++k) {
      const T value = static_cast<T>(std::pow(spread, (k / d) / std::max(rank - 1.0, 1.0)) * numbers(-1, 1));
      theta[net.factor() + k] = value;
      b(k / d, k % d) = static_cast<double>(value);
    }
    h = static_cast<double>(theta[net.alpha()]) * Eigen::MatrixXd::Identity(d, d) + b.transpose() * b;
  }
};

/// Largest |p - H z| / |p| over particles and right-hand sides.
template <class T>
double true_residual(const std::vector<Eigen::MatrixXd>& h, const Matrix<T>& p, const Matrix<T>& z) {
  double worst = 0;
  const Index d = h.front().rows();
  for (Index i = 0; i < p.rows(); ++i) {
    for (Index at = 0; at < p.cols(); at += d) {
      const Eigen::VectorXd rhs = part_of(p, i, at, d);
      const double residual = (rhs - h[i] * part_of(z, i, at, d)).norm() / rhs.norm();
      worst = std::isfinite(residual) ? std::max(worst, residual) : residual;
    }
  }
  return worst;
}

double worst_condition(const std::vector<Eigen::MatrixXd>& h) {
  double worst = 1;
  for (const Eigen::MatrixXd& matrix : h) worst = std::max(worst, Spectrum(matrix).condition());
  return worst;
}

}  // namespace

TEST_CASE_TEMPLATE("a known H: conjugate gradients end after as many steps as H has eigenvalues", T, float,
                   double) {
  for (const Backend<T>& backend : everyone<T>()) {
    Team team(backend.threads);
    for (const int d : {1, 2, 5, 20, 33}) {
      for (const int rank : {0, 1, d}) {
        if (rank == d && d > 5) continue;  // rounding delays the end of long solves: the next test
        CAPTURE(backend.ops->name);
        CAPTURE(d);
        CAPTURE(rank);
        const Quadratic<T> known(d, rank, 0.8, 71);
        const double condition = Spectrum(known.h).condition();
        const Index n = kEmulated ? 9 : 67;
        Numbers numbers(73);
        const Matrix<T> x = numbers.matrix<T>(n, d, -2, 2);
        const Matrix<T> p = numbers.matrix<T>(n, 2 * d, -1, 1);
        Matrix<T> z(n, 2 * d, T(7));
        const int steps = rank == 0 ? 1 : rank == 1 ? std::min(d, 2) : d;  // alpha I; alpha I + b b^T
        const CgReport report =
            backend.ops->solve_hessian(known.net, known.theta.data(), x, p, z, {.iterations = steps}, team);
        CHECK(report.iterations <= steps);
        CHECK(report.indefinite == 0);
        CHECK(report.unconverged == 0);
        double worst = 0;
        for (Index i = 0; i < n; ++i) {
          for (const Index at : {Index{0}, Index{d}}) {
            const Eigen::VectorXd exact = solve(known.h, part_of(p, i, at, d));
            worst = std::max(worst, (part_of(z, i, at, d) - exact).norm() / exact.norm());
          }
        }
        CHECK(worst <= tol<T>(8 * std::sqrt(d)) * condition);
        CHECK(report.worst_residual <= tol<T>(8 * std::sqrt(d)) * condition);
      }
    }
  }
}

TEST_CASE_TEMPLATE("a known H: conjugate gradients keep Chebyshev's bound, down to rounding", T, float,
                   double) {
  for (const Backend<T>& backend : everyone<T>()) {
    Team team(backend.threads);
    for (const int d : {20, 33, 150}) {
      CAPTURE(backend.ops->name);
      CAPTURE(d);
      const Quadratic<T> known(d, d, 0.05 * d, 71);
      const double condition = Spectrum(known.h).condition();
      const double rate = (std::sqrt(condition) - 1) / (std::sqrt(condition) + 1);
      const Index n = 3;
      Numbers numbers(73);
      const Matrix<T> x = numbers.matrix<T>(n, d, -2, 2);
      const Matrix<T> p = numbers.matrix<T>(n, d, -1, 1);
      for (const int steps : {1, 4, 12, 100}) {
        CAPTURE(steps);
        Matrix<T> z(n, d);
        backend.ops->solve_hessian(known.net, known.theta.data(), x, p, z, {.iterations = steps}, team);
        for (Index i = 0; i < n; ++i) {  // |error|_H <= 2 rate^m |exact|_H
          const Eigen::VectorXd exact = solve(known.h, part_of(p, i, 0, d));
          const Eigen::VectorXd error = part_of(z, i, 0, d) - exact;
          const double relative = std::sqrt(error.dot(known.h * error) / exact.dot(known.h * exact));
          CHECK(relative <= 2 * std::pow(rate, steps) + tol<T>(8 * std::sqrt(d)) * condition);
          if (steps == 1) CHECK(relative > 0.01);  // else the bound proves little
        }
      }
    }
  }
}

TEST_CASE_TEMPLATE("a known H: d Lanczos steps give p^T log(H) p, orthogonal probes log det H", T, float,
                   double) {
  for (const Backend<T>& backend : everyone<T>()) {
    Team team(backend.threads);
    for (const int d : {1, 2, 4, 20}) {
      if (kReduced && d != 4) continue;
      for (const int rank : {0, 1, d}) {  // ranks 0 and 1: the Krylov space ends after 1 and 2 steps
        CAPTURE(backend.ops->name);
        CAPTURE(d);
        CAPTURE(rank);
        const Quadratic<T> known(d, rank, 0.8, 79);
        const Spectrum spectrum(known.h);
        const double tolerance =
            tol<T>(16 * std::sqrt(d)) * spectrum.condition() * spectrum.log().norm();  // absolute, |p| = 1
        const Index n = kEmulated ? 9 : 66;
        const Matrix<T> x(n, d, T(0.5));
        std::vector<double> estimate(n), variance(n);
        for (const int steps : {d, d + 3}) {
          const Matrix<T> probes = hadamard_probes<T>(n, d);
          backend.ops->log_det_lanczos(known.net, known.theta.data(), x, probes, steps, estimate.data(),
                                       variance.data(), team);
          double squares = 0;
          for (int k = 0; k < d; ++k) {
            const Eigen::VectorXd probe = part_of(probes, 0, k * d, d);
            squares += std::pow(probe.dot(spectrum.log() * probe) - spectrum.log_det(), 2);
          }
          for (Index i = 0; i < n; ++i) {
            CHECK(std::abs(estimate[i] - spectrum.log_det()) <= d * tolerance);
            if (d == 1) {
              CHECK(std::isnan(variance[i]));
            } else {
              const double error = d * tolerance;  // of each value
              const double rms = std::sqrt(squares / (d - 1));
              CHECK(std::abs(variance[i] - rms * rms) <= 4 * error * (rms + error));
            }
          }
        }
        Numbers numbers(83);
        const Matrix<T> p = numbers.matrix<T>(n, d, -1, 1);  // one probe, of any length
        backend.ops->log_det_lanczos(known.net, known.theta.data(), x, p, d, estimate.data(), nullptr, team);
        for (Index i = 0; i < n; ++i) {
          const Eigen::VectorXd probe = part_of(p, i, 0, d);
          CHECK(std::abs(estimate[i] - probe.dot(spectrum.log() * probe)) <= tolerance * probe.squaredNorm());
        }
      }
    }
  }
}

TEST_CASE("a wide spectrum: without re-orthogonalisation d Lanczos steps would not be enough") {
  const int d = 20;
  const Quadratic<double> known(d, d, 0.1, 81, 1e3);
  const Spectrum spectrum(known.h);
  REQUIRE(spectrum.condition() > 1e6);
  REQUIRE(spectrum.condition() < 1e9);
  const Index n = 5;
  const Matrix<double> x(n, d, 0.5);
  const Matrix<double> p = rademacher<double>(n, d, 85);
  for (const Backend<double>& backend : everyone<double>()) {
    CAPTURE(backend.ops->name);
    Team team(backend.threads);
    std::vector<double> estimate(n);
    backend.ops->log_det_lanczos(known.net, known.theta.data(), x, p, d, estimate.data(), nullptr, team);
    for (Index i = 0; i < n; ++i) {
      const Eigen::VectorXd probe = part_of(p, i, 0, d);
      CHECK_REL(estimate[i], probe.dot(spectrum.log() * probe), tol<double>(16) * spectrum.condition());
    }
  }
}

TEST_CASE("random probes: the mean is log det H, the variance Hutchinson's") {
  const Quadratic<double> known(5, 5, 0.5, 89);
  const Spectrum spectrum(known.h);
  const Eigen::MatrixXd log = spectrum.log();
  // Var p^T A p = 2 (|A|^2 - sum a_ii^2) for independent signs.
  const double exact_variance = 2 * (log.squaredNorm() - log.diagonal().squaredNorm());
  if (kReduced) return;  // the kernels of the test before; statistics have nothing for a sanitizer
  const Index probes = kEmulated ? 1500 : 4000;
  for (const Backend<double>& backend : everyone<double>()) {
    CAPTURE(backend.ops->name);
    Team team(backend.threads);
    const Index n = 3;
    const Matrix<double> x(n, 5, 0.5);
    const Matrix<double> p = rademacher<double>(n, probes * 5, 97);
    std::vector<double> estimate(n), variance(n);
    backend.ops->log_det_lanczos(known.net, known.theta.data(), x, p, 5, estimate.data(), variance.data(),
                                 team);
    for (Index i = 0; i < n; ++i) {
      const double error = std::sqrt(variance[i] / static_cast<double>(probes));
      CHECK(std::abs(estimate[i] - spectrum.log_det()) <= 3 * error);
      CHECK(error < 0.05 * std::abs(spectrum.log_det()));  // else that proves little
      CHECK_REL(variance[i], exact_variance, 0.1);
    }
  }
}

TEST_CASE_TEMPLATE("15 Lanczos steps are within 1 % of log det H in high dimension", T, float, double) {
  const NetCase cases[] = {
      {"d=20", {.dim = 20, .hidden = {100, 20}}},
      {"d=64", {.dim = 64, .hidden = {100, 20}, .quadratic_rank = 3}},
      {"d=128", {.dim = 128, .hidden = {100, 100}}},
  };
  for (const NetCase& net_case : cases) {
    const Icnn net(net_case.architecture);
    const int d = net.dim();
    const std::vector<T> theta = generic_parameters<T>(net, 101);
    const Index n = 2;
    Numbers numbers(103);
    const Matrix<T> x = numbers.matrix<T>(n, d, -1, 1);
    const std::vector<Eigen::MatrixXd> h = hessians(net, theta, x);
    const Matrix<T> probes = hadamard_probes<T>(n, d);  // traces without statistical error
    for (const Backend<T>& backend : everyone<T>()) {
      const bool slow = kEmulated || backend.ops == &ref::operations<T>();
      if (d > (kEmulated ? 20 : 64) && slow) continue;  // compared elsewhere
      CAPTURE(backend.ops->name);
      CAPTURE(net_case.name);
      Team team(backend.threads);
      std::vector<double> estimate(n);
      backend.ops->log_det_lanczos(net, theta.data(), x, probes, 15, estimate.data(), nullptr, team);
      for (Index i = 0; i < n; ++i) {
        const Spectrum spectrum(h[i]);
        CAPTURE(spectrum.condition());
        CHECK_REL(estimate[i], spectrum.log_det(), 0.01);
      }
    }
  }
}

TEST_CASE_TEMPLATE("solve_hessian and log_det_lanczos equal the reference", T, float, double) {
  Team one(1);
  for_each_case<T>(107, kSizes, [&](const Case<T>& at) {
    const Icnn& net = at.net;
    const Index n = at.n, d = net.dim();
    const Index probes = n == 257 ? 1 : 3;
    Numbers numbers(109);
    const Matrix<T> points = numbers.matrix<T>(n, d, -2, 2);
    const Matrix<T> rhs = numbers.matrix<T>(n, probes * d, -1, 1);
    const Padded<T> x(points), p(rhs);
    const double condition = worst_condition(hessians(net, at.theta, points));
    // Rounding of one product with H, amplified by the solve.
    const double tolerance = net_tolerance<T>(net, 1) * condition;
    CAPTURE(condition);
    for (const int iterations : {0, 1, 3, kEmulated ? 12 : 40}) {
      if (kEmulated && n == 257 && iterations != 3) continue;
      CAPTURE(iterations);
      Padded<T> expected(n, probes * d), actual(n, probes * d);
      const CgOptions options{.iterations = iterations};
      const CgReport a =
          ref::operations<T>().solve_hessian(net, at.theta.data(), x, p, expected, options, one);
      const CgReport b = at.ops.solve_hessian(net, at.theta.data(), x, p, actual, options, at.team);
      CHECK_CLOSE(actual.elements(), expected.elements(), tolerance);
      CHECK(actual.guards_intact());
      CHECK(std::abs(a.worst_residual - b.worst_residual) <= tolerance);
      CHECK(a.indefinite == 0);
      CHECK(b.indefinite == 0);
      CHECK(b.iterations <= iterations);
    }
    for (const int steps : {1, 2, 12}) {
      if (kEmulated && n == 257 && steps != 2) continue;
      CAPTURE(steps);
      std::vector<double> expected(n), actual(n), expected_variance(n), variance(n);
      ref::operations<T>().log_det_lanczos(net, at.theta.data(), x, p, steps, expected.data(),
                                           expected_variance.data(), one);
      at.ops.log_det_lanczos(net, at.theta.data(), x, p, steps, actual.data(), variance.data(), at.team);
      double size = 0;  // of p^T log(H) p before it cancels
      for (Index i = 0; i < n; ++i) {
        size = std::max(size, part_of(rhs, i, 0, probes * d).squaredNorm() * std::log(condition + 2));
      }
      for (Index i = 0; i < n; ++i) {
        CHECK(std::abs(actual[i] - expected[i]) <= tolerance * size);
        if (probes > 1) {
          CHECK(std::abs(variance[i] - expected_variance[i]) <= 4 * tolerance * size * size);
        } else {
          CHECK(std::isnan(variance[i]));
        }
      }
    }
  });
}

TEST_CASE_TEMPLATE("a tolerance is kept, what does not reach it is counted, a guess is used or dropped", T,
                   float, double) {
  const Icnn net({.dim = 20, .hidden = {31, 11}, .quadratic_rank = 20});
  const Index d = 20, n = kReduced ? 33 : 70, probes = 2;
  const std::vector<T> theta = generic_parameters<T>(net, 113);
  Numbers numbers(127);
  const Matrix<T> x = numbers.matrix<T>(n, d, -1, 1);
  const Matrix<T> p = numbers.matrix<T>(n, probes * d, -1, 1);
  const std::vector<Eigen::MatrixXd> h = hessians(net, theta, x);
  const double rounding = net_tolerance<T>(net, 1) * worst_condition(h);
  for (const Backend<T>& backend : everyone<T>()) {
    CAPTURE(backend.ops->name);
    Team team(backend.threads);
    const auto solve = [&](const CgOptions& options, Matrix<T>& z) {
      return backend.ops->solve_hessian(net, theta.data(), x, p, z, options, team);
    };
    Matrix<T> z(n, probes * d);
    int before = 0;
    for (const double tolerance : {1e-1, 1e-2, 1e-4}) {
      const CgReport report = solve({.iterations = 60, .tolerance = tolerance}, z);
      CHECK(report.worst_residual <= tolerance);
      CHECK(std::abs(true_residual(h, p, z) - report.worst_residual) <= rounding);
      CHECK(report.unconverged == 0);
      CHECK(report.indefinite == 0);
      CHECK(report.iterations > before);
      CHECK(report.iterations < 60);
      before = report.iterations;
    }
    const CgReport stopped = solve({.iterations = 1, .tolerance = 1e-4}, z);
    CHECK(stopped.unconverged == n * probes);
    CHECK(stopped.iterations == 1);
    CHECK(stopped.worst_residual > 1e-4);

    // More steps than are of use: residuals at the rounding unit end every solve.
    Matrix<T> exact(n, probes * d);
    const CgReport whole = solve({.iterations = 200}, exact);
    CHECK(whole.iterations < 60);
    CHECK(true_residual(h, p, exact) <= rounding);

    // A good guess saves steps, the solution all of them; a useless one leaves the bits of a cold start.
    Matrix<T> warm = exact;
    CHECK(solve({.iterations = 60, .tolerance = 1e-3, .warm_start = true}, warm).iterations == 0);
    for (T& value : warm.elements()) value *= T(1.01);
    const CgReport near = solve({.iterations = 60, .tolerance = 1e-4, .warm_start = true}, warm);
    CHECK(near.iterations < before);
    CHECK(near.iterations > 0);
    CHECK(true_residual(h, p, warm) <= 1e-4 + rounding);
    solve({.iterations = 5}, z);
    for (const double bad : {1e6, -1e30, std::nan(""), std::numeric_limits<double>::infinity()}) {
      CAPTURE(bad);
      Matrix<T> useless(n, probes * d, static_cast<T>(bad));
      solve({.iterations = 5, .warm_start = true}, useless);
      CHECK(useless.elements() == z.elements());
    }
  }
}

TEST_CASE_TEMPLATE("an indefinite H is reported, and z stays finite", T, float, double) {
  const auto finite = [](const Matrix<T>& z) {
    bool all = true;
    for (const T value : z.elements()) all = all && std::isfinite(value);
    return all;
  };
  const Index n = 70;
  Numbers numbers(131);
  for (const Backend<T>& backend : everyone<T>()) {
    CAPTURE(backend.ops->name);
    Team team(backend.threads);
    {  // H = -I: the first direction shows it
      const Quadratic<T> negative(4, 0, -1, 0);
      const Matrix<T> x(n, 4, T(0.5)), p = numbers.matrix<T>(n, 8, -1, 1);
      Matrix<T> z(n, 8, T(3));
      const CgReport report =
          backend.ops->solve_hessian(negative.net, negative.theta.data(), x, p, z, {.tolerance = 1e-3}, team);
      CHECK(report.indefinite == 2 * n);
      CHECK(report.unconverged == 2 * n);
      CHECK(report.iterations == 0);
      CHECK(report.worst_residual == 1.0);
      CHECK(z.elements() == Matrix<T>(n, 8).elements());
      std::vector<double> estimate(n, 0.0);
      backend.ops->log_det_lanczos(negative.net, negative.theta.data(), x, p, 3, estimate.data(), nullptr,
                                   team);
      for (const double value : estimate) CHECK(std::isnan(value));
    }
    {  // H = -2 I + B^T B with eigenvalues of both signs: met within d steps (Sylvester's law of inertia)
      const Quadratic<T> mixed(4, 4, -0.5, 137);
      const Spectrum spectrum(mixed.h);
      REQUIRE(spectrum.values.minCoeff() < -0.1);
      REQUIRE(spectrum.values.maxCoeff() > 0.5);
      const Matrix<T> x(n, 4, T(0.5)), p = numbers.matrix<T>(n, 4, -1, 1);
      Matrix<T> z(n, 4);
      const CgReport report =
          backend.ops->solve_hessian(mixed.net, mixed.theta.data(), x, p, z, {.iterations = 4}, team);
      CHECK(report.indefinite == n);
      CHECK(finite(z));
      CHECK(std::isfinite(report.worst_residual));
    }
    {  // d = 1 with a concave hidden part: indefinite at some particles, and exactly there
      const Icnn net({.dim = 1, .hidden = {6}, .learn_alpha = false});
      std::vector<T> theta = generic_parameters<T>(net, 139);
      for (int i = 0; i < 6; ++i) theta[net.output_weight() + i] *= T(-1);
      theta[net.alpha()] = T(0.3);
      const Matrix<T> x = numbers.matrix<T>(n, 1, -6, 6), p(n, 1, T(1));
      Index expected = 0;
      for (const Eigen::MatrixXd& h : hessians(net, theta, x)) expected += h(0, 0) <= 0;
      REQUIRE(expected > 5);
      REQUIRE(expected < n - 5);
      Matrix<T> z(n, 1);
      const CgReport report =
          backend.ops->solve_hessian(net, theta.data(), x, p, z, {.tolerance = 1e-3}, team);
      CHECK(report.indefinite == expected);
      CHECK(report.unconverged == expected);
      CHECK(finite(z));
    }
    {  // H = 0, and what is not a number
      const Quadratic<T> flat(3, 0, 0, 0);
      Matrix<T> x(n, 3, T(0.5)), p(n, 3, T(1)), z(n, 3, T(9));
      const auto solve = [&](const Quadratic<T>& q) {
        return backend.ops->solve_hessian(q.net, q.theta.data(), x, p, z, {.tolerance = 1e-3}, team);
      };
      CHECK(solve(flat).indefinite == n);
      CHECK(finite(z));
      Quadratic<T> broken(3, 0, std::nan(""), 0);
      CHECK(solve(broken).indefinite == n);
      CHECK(finite(z));
      Quadratic<T> overflowing(3, 0, 0.9 * static_cast<double>(std::numeric_limits<T>::max()), 0);
      solve(overflowing);
      CHECK(finite(z));
      const Quadratic<T> sound(3, 2, 1, 149);
      p(5, 1) = std::numeric_limits<T>::infinity();
      p(69, 2) = std::numeric_limits<T>::quiet_NaN();
      CgReport report = solve(sound);
      CHECK(report.unconverged == 2);
      CHECK(report.indefinite == 0);
      CHECK(std::isinf(report.worst_residual));
      CHECK(finite(z));
      CHECK(z(6, 0) != 0);
      CHECK(z(5, 0) == 0);
      for (const double size : {0.0, 1e-33, 1e33}) {  // squares leave the range of float
        CAPTURE(size);
        p = Matrix<T>(n, 3, static_cast<T>(size));
        report = solve(sound);
        CHECK(report.unconverged == 0);
        CHECK(report.indefinite == 0);
        CHECK(finite(z));
        if (size == 0) {
          CHECK(report.worst_residual == 0);
          CHECK(z.elements() == Matrix<T>(n, 3).elements());
        } else {
          CHECK(true_residual(std::vector<Eigen::MatrixXd>(n, sound.h), p, z) <= 1e-3);
        }
      }
      std::vector<double> estimate(n, 5.0);
      backend.ops->log_det_lanczos(sound.net, sound.theta.data(), x, Matrix<T>(n, 3), 3, estimate.data(),
                                   nullptr, team);
      for (const double value : estimate) CHECK(value == 0);
    }
  }
}

TEST_CASE("the bits do not depend on the number of threads") {
  const Icnn net({.dim = 5, .hidden = {17, 9}});
  const std::vector<float> theta = generic_parameters<float>(net, 151);
  const Index n = kEmulated ? 66 : 500;
  Numbers numbers(157);
  const Matrix<float> x = numbers.matrix<float>(n, 5, -1, 1);
  const Matrix<float> p = rademacher<float>(n, 15, 163);
  for (const Backend<float>& backend : backends<float>()) {
    CAPTURE(backend.ops->name);
    std::vector<float> first;
    std::vector<double> first_estimate;
    for (const int threads : {1, 2, 3}) {  // a device has no use for them: its runs are alike
      Team team(threads);
      Matrix<float> z(n, 15);
      std::vector<double> estimate(n);
      backend.ops->solve_hessian(net, theta.data(), x, p, z, {.iterations = 4}, team);
      backend.ops->log_det_lanczos(net, theta.data(), x, p, 4, estimate.data(), nullptr, team);
      if (threads == 1) {
        first = z.elements();
        first_estimate = estimate;
      }
      CHECK(z.elements() == first);
      CHECK(estimate == first_estimate);
    }
  }
}

TEST_CASE("z = H^{-1} v gives d log det H / dtheta = E[z^T (dH/dtheta) v], d = 20") {
  const int d = 20;
  const Icnn net({.dim = d, .hidden = {31, 11}, .quadratic_rank = 2});
  const std::vector<double> theta = generic_parameters<double>(net, 167);
  Numbers numbers(173);
  const Matrix<double> point = numbers.matrix<double>(1, d, -1, 1);
  const Eigen::MatrixXd h = hessians(net, theta, point).front();
  const Eigen::MatrixXd inverse = test::inverse(h);
  Team one(1);
  JetSeeds<double> exact_seeds;
  Matrix<double> metric(1, d * d), no_velocity(1, d);
  for (int k = 0; k < d * d; ++k) metric(0, k) = inverse(k / d, k % d);
  exact_seeds.v = no_velocity;
  exact_seeds.metric = metric;
  std::vector<double> exact(net.parameters());
  ref::operations<double>().jet_gradient(net, theta.data(), point, exact_seeds, exact.data(), one);

  for (const Backend<double>& backend : everyone<double>()) {
    CAPTURE(backend.ops->name);
    Team team(backend.threads);
    /// Mean over the rows of v, each a probe at the same point.
    const auto estimate = [&](const Matrix<double>& v) {
      const Index n = v.rows();
      Matrix<double> x(n, d), z(n, d), velocity(n, d);
      for (Index i = 0; i < n; ++i) std::copy_n(point.row(0), d, x.row(i));
      const CgReport report = backend.ops->solve_hessian(net, theta.data(), x, v, z,
                                                         {.iterations = 60, .tolerance = 1e-13}, team);
      CHECK(report.unconverged == 0);
      JetSeeds<double> seeds;
      seeds.v = velocity;
      seeds.directions = 1;
      seeds.q = v;
      seeds.p = z;
      std::vector<double> gradient(net.parameters());
      backend.ops->jet_gradient(net, theta.data(), x, seeds, gradient.data(), team);
      for (double& value : gradient) value /= static_cast<double>(n);
      return gradient;
    };

    // Orthogonal probes: without statistical error, up to the solves.
    const Eigen::MatrixXd rows = hadamard(d);
    Matrix<double> orthogonal(d, d);
    for (int k = 0; k < d * d; ++k) orthogonal(k / d, k % d) = rows(k / d, k % d);
    CHECK_CLOSE(estimate(orthogonal), exact, 1e-11);
    if (kReduced) continue;

    // Random signs: components along fixed directions, standard errors from 40 batches of 50 probes.
    const int batches = 40;
    const Matrix<double> directions = rademacher<double>(4, net.parameters(), 179);
    std::vector<RunningMean> mean(4, RunningMean{});
    for (int batch = 0; batch < batches; ++batch) {
      const std::vector<double> gradient = estimate(rademacher<double>(50, d, 1000 + batch));
      for (int k = 0; k < 4; ++k) {
        double along = 0;
        for (Index j = 0; j < net.parameters(); ++j) along += directions(k, j) * gradient[j];
        mean[k].add(along);
      }
    }
    for (int k = 0; k < 4; ++k) {
      CAPTURE(k);
      double along = 0, size = 0;
      for (Index j = 0; j < net.parameters(); ++j) {
        along += directions(k, j) * exact[j];
        size += exact[j] * exact[j];
      }
      const double error = std::sqrt(mean[k].variance() / batches);
      CHECK(std::abs(mean[k].mean - along) <= 3 * error);
      CHECK(error < 0.05 * std::sqrt(size));  // else that proves little
    }
  }
}
