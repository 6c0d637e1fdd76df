// SPDX-License-Identifier: MIT
// The stochastic log-determinant inside a JKO step (LogDetOptions): one body for every backend. What the
// estimator is comes from dense linear algebra, whether it is unbiased from the exact gradient.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <string>

#include "brenier/expression.hpp"
#include "kernels/model/tridiagonal.hpp"
#include "kernels/operations.hpp"
#include "tests/support/cases.hpp"
#include "tests/support/spectrum.hpp"
#include "tests/support/step_case.hpp"

using namespace brenier;
using namespace brenier::test;

namespace {

using Method = LogDetOptions::Method;

/// Every backend and, where the GPU does not stand in for it, the reference.
template <class T>
std::vector<Backend<T>> everyone() {
#if defined(BRENIER_TEST_CUDA)
  return backends<T>();
#else
  return all_backends<T>();
#endif
}

/// A JKO step with internal energies alone, or with a potential and an interaction; a stochastic log det.
template <class T>
struct Step : StepCase<T> {
  Step(const Architecture& architecture, Index n, std::vector<InternalTerm> internal = every_internal(),
       bool others = true, Index minibatch = 0)
      : StepCase<T>(
            architecture, n,
            {.internal = std::move(internal),
             .potential = others,
             .interaction = others ? std::vector{quadratic_log(0.5, -1, 0)} : std::vector<PairKernel>{}},
            minibatch) {
    this->problem.log_det = {.method = Method::cg, .probes = 2, .iterations = 4};
  }
};

const std::vector<InternalTerm> kEntropy = {{.weight = 1}};

double norm(const std::vector<double>& v) {
  double sum = 0;
  for (const double value : v) sum += value * value;
  return std::sqrt(sum);
}

}  // namespace

TEST_CASE("the signs of probes are fair, and differ between seeds, steps, iterations, places and probes") {
  const int d = 150;  // more than one draw
  const auto signs = [&](std::uint64_t seed, std::uint32_t step, std::uint32_t iteration, std::uint64_t place,
                         int probe) {
    std::vector<int> out(d, 0);
    RademacherProbes(seed, step, iteration, d).for_components(place, probe, [&](int c, bool negative) {
      out[c] = negative ? -1 : 1;
    });
    return out;
  };
  const std::vector<int> first = signs(1, 2, 3, 4, 1);
  const RademacherProbes probes(1, 2, 3, d);
  for (int c = 0; c < d; ++c) CHECK((probes.negative(4, 1, c) ? -1 : 1) == first[c]);
  for (const std::vector<int>& other : {signs(2, 2, 3, 4, 1), signs(1, 3, 3, 4, 1), signs(1, 2, 4, 4, 1),
                                        signs(1, 2, 3, 5, 1), signs(1, 2, 3, 4, 0), signs(1, 2, 3, 4, 2)}) {
    int along = 0;
    for (int c = 0; c < d; ++c) along += first[c] * other[c];
    CHECK(std::abs(along) <= 5 * std::sqrt(d));
  }
  int sum = 0;
  for (int place = 0; place < 200; ++place) {
    for (const int sign : signs(7, 0, 0, static_cast<std::uint64_t>(place), 0)) sum += sign;
  }
  CHECK(std::abs(sum) <= 5 * std::sqrt(200.0 * d));
}

TEST_CASE_TEMPLATE("the stochastic gradient of a JKO step equals the reference", T, float, double) {
  Team one(1);
  const std::vector<Index> sizes = kReduced ? std::vector<Index>{33} : std::vector<Index>{1, 33, 130};
  for (const NetCase& net_case : net_cases()) {
    for (const Index n : sizes) {
      for (const bool others : {false, true}) {
        for (const Index minibatch : {Index{0}, Index{70}}) {
          if (kEmulated && (minibatch > 0) != others) continue;
          CAPTURE(net_case.name);
          CAPTURE(n);
          CAPTURE(others);
          CAPTURE(minibatch);
          const Step<T> step(net_case.architecture, n, every_internal(), others, minibatch);
          const std::vector<double> expected = step.gradient(ref::operations<T>(), one);
          for (const Backend<T>& backend : backends<T>()) {
            CAPTURE(backend.ops->name);
            Team team(backend.threads);
            // Four steps of CG amplify rounding by little more than an inverse does.
            CHECK_CLOSE(step.gradient(*backend.ops, team), expected, 16 * net_tolerance<T>(step.net, 16));
          }
        }
      }
    }
  }
}

TEST_CASE_TEMPLATE("the gradient is that of the probes: H^{-1} e, and w from e^T log(H) e, by dense algebra",
                   T, float, double) {
  // d steps of CG solve, and their quadrature is exact.
  for (const int d : {2, 3}) {
    for (const std::vector<InternalTerm>& internal :
         {kEntropy, std::vector<InternalTerm>{{.form = InternalTerm::Form::power, .exponent = 2}}}) {
      CAPTURE(d);
      const Index n = 40;
      Step<T> step({.dim = d, .hidden = {11, 5}, .quadratic_rank = 1}, n, internal, false);
      step.problem.tau = 1e30;  // the inertia weighs nothing
      step.problem.log_det = {.method = Method::cg, .probes = 3, .iterations = d};
      Matrix<T> x_hat = step.x;
      for (T& value : x_hat.elements()) value /= static_cast<T>(step.problem.scale);
      const std::vector<Eigen::MatrixXd> h = hessians(step.net, step.theta, x_hat);
      Matrix<double> probes(n, 3 * d), solutions(n, 3 * d), velocity(n, d);
      const RademacherProbes signs(step.problem.seed, step.problem.step, 4, d);
      for (Index i = 0; i < n; ++i) {
        double log_det = 0;
        for (int k = 0; k < 3; ++k) {
          Eigen::VectorXd e(d);
          for (int c = 0; c < d; ++c) e[c] = signs.negative(static_cast<std::uint64_t>(i), k, c) ? -1 : 1;
          const Eigen::VectorXd z = solve(h[i], e);
          log_det += e.dot(Spectrum(h[i]).log() * e) / 3;
          for (int c = 0; c < d; ++c) probes(i, k * d + c) = e[c], solutions(i, k * d + c) = z[c];
        }
        const double xi = std::exp(step.log_density[i] - log_det);
        const double w = internal[0].form == InternalTerm::Form::entropy ? 1 : xi;
        for (int c = 0; c < 3 * d; ++c) solutions(i, c) *= -w / 3;
      }
      JetSeeds<double> seeds;
      seeds.v = velocity;
      seeds.directions = 3;
      seeds.q = probes;
      seeds.p = solutions;
      std::vector<double> expected(step.net.parameters());
      Team one(1);
      const std::vector<double> theta(step.theta.begin(), step.theta.end());
      ref::operations<double>().jet_gradient(step.net, theta.data(), cast<double>(x_hat), seeds,
                                             expected.data(), one);
      for (double& value : expected) value /= static_cast<double>(n);
      for (const Backend<T>& backend : everyone<T>()) {
        CAPTURE(backend.ops->name);
        Team team(backend.threads);
        CHECK_CLOSE(step.gradient(*backend.ops, team), expected, 16 * net_tolerance<T>(step.net, 16));
      }
    }
  }
}

TEST_CASE("entropy, d = 20: without bias along fixed directions and as a whole") {
  if (kReduced) return;
  // The mean over n copies of one particle is one over n probes.
  const int d = 20;
  const Index n = kEmulated ? 32 : 64;
  const int batches = kEmulated ? 32 : 40;
  Step<double> step({.dim = d, .hidden = {31, 11}, .quadratic_rank = 2}, n, kEntropy);
  for (Index i = 0; i < n; ++i) std::copy_n(step.x.row(0), d, step.x.row(i));
  step.objective.interaction.clear();  // copies lie in one place
  step.problem.log_det = {.method = Method::cg, .probes = 1, .iterations = 2 * d, .tolerance = 1e-12};
  Team one(1);
  step.problem.log_det.method = Method::exact;
  const std::vector<double> exact = step.gradient(ref::operations<double>(), one);
  step.problem.log_det.method = Method::cg;
  const Index m = step.net.parameters();
  const Matrix<double> directions = rademacher<double>(6, m, 179);
  for (const Backend<double>& backend : everyone<double>()) {
    // One backend of each kind: the others agree with the reference, seen above.
    if (backend.ops == &ref::operations<double>()) continue;
    CAPTURE(backend.ops->name);
    Team team(backend.threads);
    std::vector<RunningMean> along(6, RunningMean{}), component(m, RunningMean{});
    for (int batch = 0; batch < batches; ++batch) {
      const std::vector<double> gradient = step.gradient(*backend.ops, team, batch);
      for (int k = 0; k < 6; ++k) {
        double sum = 0;
        for (Index j = 0; j < m; ++j) sum += directions(k, j) * (gradient[j] - exact[j]);
        along[k].add(sum);
      }
      for (Index j = 0; j < m; ++j) component[j].add(gradient[j] - exact[j]);
    }
    for (int k = 0; k < 6; ++k) {
      const double error = std::sqrt(along[k].variance() / batches);
      CHECK(std::abs(along[k].mean) <= 3 * error);
      CHECK(error < 0.05 * norm(exact));  // else that proves little
    }
    // |mean error|^2 is as large as the variances of the means say.
    double square = 0, expected = 0;
    for (Index j = 0; j < m; ++j) {
      square += component[j].mean * component[j].mean;
      expected += component[j].variance() / batches;
    }
    MESSAGE(std::string(backend.ops->name), ": |mean - exact| / |exact| = ", std::sqrt(square) / norm(exact),
            ", expected ", std::sqrt(expected) / norm(exact), ", probes ", n * batches);
    CHECK(square <= 3 * expected);
    CHECK(square >= expected / 5);
  }
}

TEST_CASE("a porous medium's gradient approaches the exact one with the number of probes") {
  for (const int d : {2, 3}) {
    CAPTURE(d);
    Step<double> step({.dim = d, .hidden = {11, 5}, .quadratic_rank = 1}, 33,
                      {{.form = InternalTerm::Form::power, .exponent = 2}}, false);
    Team one(1);
    step.problem.log_det.method = Method::exact;
    const std::vector<double> exact = step.gradient(ref::operations<double>(), one);
    for (const Backend<double>& backend : everyone<double>()) {
      CAPTURE(backend.ops->name);
      Team team(backend.threads);
      const auto error = [&](int probes) {
        step.problem.log_det = {.method = Method::cg, .probes = probes, .iterations = d};
        std::vector<double> gradient = step.gradient(*backend.ops, team);
        for (std::size_t k = 0; k < exact.size(); ++k) gradient[k] -= exact[k];
        return norm(gradient) / norm(exact);
      };
      const double few = error(1), many = error(kReduced ? 8 : 64);
      MESSAGE(std::string(backend.ops->name), ", d = ", d, ": relative error ", few, " with 1 probe, ", many,
              " with many");
      CHECK(many < few);
      if (!kReduced) CHECK(many < 0.03);
    }
  }
}

TEST_CASE_TEMPLATE("large clouds and networks beyond shared memory equal the reference", T, float, double) {
  if (kReduced) return;
  const auto check = [](const Step<T>& step) {
    CAPTURE(step.x.rows());
    const double tolerance = 4 * net_tolerance<T>(step.net, 16);
    for_each_backend<T>(
        [&](const Operations<T>& ops, Team& team) { return step.gradient(ops, team); },
        [&](const auto& actual, const auto& expected) { CHECK_CLOSE(actual, expected, tolerance); });
  };
  // The layered form of the cuda backend takes 8192 particles at a time; its tiles are larger above 4096.
  if (!kEmulated || sizeof(T) == 8) {
    check({{.dim = 2, .hidden = {3, 2}}, 8200, every_internal(), false});
    check(
        {{.dim = 2, .hidden = {320, 320, 320}, .residual = true, .quadratic_rank = 1}, 5, every_internal()});
  }
  if (!kEmulated || sizeof(T) == 4) check({{.dim = 2, .hidden = {33, 9}}, 4100, every_internal(), false});
}

TEST_CASE("without off-diagonal elements one probe is exact") {
  // H = alpha I: e^T log(H) e = d log alpha and e^T H^{-1} e = d / alpha for every e.
  for (const int d : {1, 4}) {
    CAPTURE(d);
    Step<double> step({.dim = d, .hidden = {3}}, 20, every_internal());
    std::fill(step.theta.begin(), step.theta.end(), 0.0);
    step.theta[step.net.alpha()] = 1.7;
    const Index alpha = step.net.alpha();
    Team one(1);
    step.problem.log_det.method = Method::exact;
    const double exact = step.gradient(ref::operations<double>(), one)[alpha];
    step.problem.log_det = {.method = Method::cg, .probes = 1, .iterations = 1};
    for (const Backend<double>& backend : everyone<double>()) {
      CAPTURE(backend.ops->name);
      Team team(backend.threads);
      CHECK_REL(step.gradient(*backend.ops, team)[alpha], exact, tol<double>(64));
    }
  }
}

TEST_CASE(
    "the stochastic inner loop follows the reference; its bits do not depend on the number of threads") {
  const Index n = kReduced ? 130 : 300;
  for (const Index minibatch : {Index{0}, Index{200}}) {
    if (kReduced && minibatch > 0) continue;
    CAPTURE(minibatch);
    Step<double> step({.dim = 3, .hidden = {17, 5}, .quadratic_rank = 1}, n, every_internal(), true,
                      minibatch);
    step.problem.log_det.tolerance = 1e-3;
    check_inner_loop(
        step, 12, 1e-8,
        [](const InnerReport& expected, const InnerReport& found) {
          CHECK(found.cg.iterations >= 2);
          CHECK(found.cg.iterations <= 4);
          CHECK(found.cg.iterations == expected.cg.iterations);
          CHECK(found.cg.unconverged == expected.cg.unconverged);
          CHECK(found.cg.worst_residual > 0);
          CHECK(found.cg.worst_residual < 1);
          CHECK_REL(found.cg.worst_residual, expected.cg.worst_residual, 1e-6);
          CHECK(found.cg.indefinite == 0);
        },
        [&](const Backend<double>& backend, const std::vector<double>& first) {
          InnerState<double> parts = step.state();  // continued, the draws go on where they were
          Team team(backend.threads);
          backend.ops->inner_loop(step.problem, parts, 5, team);
          backend.ops->inner_loop(step.problem, parts, 12, team);
          CHECK(parts.theta == first);
        });
  }
}

TEST_CASE("exact gradients take no notice of the other options, and report no solves") {
  for (const Backend<double>& backend : everyone<double>()) {
    CAPTURE(backend.ops->name);
    Team team(backend.threads);
    Step<double> step({.dim = 2, .hidden = {9, 5}}, 33, every_internal());
    step.problem.log_det = {};
    const std::vector<double> plain = step.gradient(*backend.ops, team);
    step.problem.log_det = {.method = Method::exact, .probes = 7, .iterations = 3, .tolerance = 0.5};
    CHECK(step.gradient(*backend.ops, team) == plain);
    InnerState<double> state = step.state();
    const InnerReport report = backend.ops->inner_loop(step.problem, state, 2, team);
    CHECK(report.cg.iterations == 0);
    CHECK(report.cg.worst_residual == 0);
    // Without an internal energy there is nothing to solve for.
    step.objective.internal.clear();
    step.problem.log_det.method = Method::cg;
    const InnerReport none = backend.ops->inner_loop(step.problem, state, 4, team);
    CHECK(none.cg.iterations == 0);
    CHECK(none.iterations == 2);
  }
}

TEST_CASE("curvature that is not positive leaves the gradient finite, and is counted") {
  for (const Backend<double>& backend : everyone<double>()) {
    CAPTURE(backend.ops->name);
    Team team(backend.threads);
    Step<double> step({.dim = 2, .hidden = {3}, .learn_alpha = false}, 40, every_internal(), false);
    std::fill(step.theta.begin(), step.theta.end(), 0.0);
    step.theta[step.net.alpha()] = -1;
    for (const double value : step.gradient(*backend.ops, team)) CHECK(std::isfinite(value));
    InnerState<double> state = step.state();
    const InnerReport report = backend.ops->inner_loop(step.problem, state, 1, team);
    CHECK(report.finite);
    CHECK(report.cg.indefinite == 2 * 40);
    CHECK(report.cg.iterations == 0);
    CHECK(report.cg.worst_residual == 1);
    // A density of 0 weighs nothing in a porous medium.
    Step<double> edge({.dim = 2, .hidden = {5}}, 40, {{.form = InternalTerm::Form::power, .exponent = 2}});
    edge.log_density[39] = -std::numeric_limits<double>::infinity();
    for (const double value : edge.gradient(*backend.ops, team)) CHECK(std::isfinite(value));
  }
}
