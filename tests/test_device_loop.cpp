// SPDX-License-Identifier: MIT
// The inner loop on the emulated device: the host only launches, and what an inner loop promises holds there
// too.
#include <doctest/doctest.h>

#include <atomic>

#include "brenier/expression.hpp"
#include "kernels/ops.hpp"
#include "kernels/runtime/device.hpp"
#include "tests/support/near.hpp"
#include "tests/support/nets.hpp"

using namespace brenier;
using namespace brenier::test;

namespace {

struct Problem {
  Icnn net{Architecture{.dim = 2, .hidden = {9, 5}}};
  Matrix<double> x = Numbers(3).matrix<double>(70, 2, -1, 1);
  std::vector<double> log_density = std::vector<double>(70, -0.5);
  Objective objective;
  InnerProblem<double> inner;

  Problem() {
    objective.potential = Expression::potential("sum(x^2)", 2).program();
    objective.internal.push_back({.form = InternalTerm::Form::power, .exponent = 2});
    PairKernel kernel;
    kernel.quadratic = 0.1;
    objective.interaction.push_back({1.0, kernel});
    inner.net = &net;
    inner.x = x;
    inner.log_density = log_density.data();
    inner.shift = {0, 0};
    inner.tau = 0.1;
    inner.objective = &objective;
    inner.iterations = 20;
  }
  InnerState<double> state() const {
    const std::size_t n = static_cast<std::size_t>(net.parameters());
    return {generic_parameters<double>(net, 5), std::vector<double>(n), std::vector<double>(n), 0};
  }
};

}  // namespace

TEST_CASE("the host waits as often for many iterations as for one") {
  Problem problem;
  Team team(1);
  for (const char* variant : cuda::variants<double>()) {
    CAPTURE(variant);
    const Operations<double>& ops = cuda::operations<double>(variant);
    const auto waits = [&](int iterations) {
      InnerState<double> state = problem.state();
      const std::uint64_t before = device::host_synchronisations();
      const InnerReport report = ops.inner_loop(problem.inner, state, iterations, team);
      CHECK(report.iterations == iterations);
      return device::host_synchronisations() - before;
    };
    CHECK(waits(1) == waits(7));
  }
}

TEST_CASE(
    "on the device an inner loop continues, stops on its tolerance, and keeps theta from what is not "
    "finite") {
  Team team(1);
  for (const char* variant : cuda::variants<double>()) {
    CAPTURE(variant);
    Problem problem;
    const Operations<double>& ops = cuda::operations<double>(variant);
    InnerState<double> whole = problem.state(), parts = problem.state();
    ops.inner_loop(problem.inner, whole, 6, team);
    ops.inner_loop(problem.inner, parts, 2, team);
    ops.inner_loop(problem.inner, parts, 6, team);
    CHECK(parts.theta == whole.theta);
    CHECK(parts.iteration == 6);

    problem.inner.tolerance = 0.999;
    InnerState<double> early = problem.state();
    const InnerReport converged = ops.inner_loop(problem.inner, early, 20, team);
    CHECK(converged.converged);
    CHECK(converged.iterations < 20);
    CHECK(early.iteration == converged.iterations);
    problem.inner.tolerance = 0;

    std::atomic<bool> interrupt{true};
    problem.inner.interrupt = &interrupt;
    InnerState<double> stopped = problem.state();
    const InnerReport interrupted = ops.inner_loop(problem.inner, stopped, 20, team);
    CHECK(interrupted.interrupted);
    CHECK(interrupted.iterations == 1);
    problem.inner.interrupt = nullptr;

    problem.log_density[40] = std::nan("");
    InnerState<double> broken = problem.state();
    const InnerReport report = ops.inner_loop(problem.inner, broken, 20, team);
    CHECK_FALSE(report.finite);
    CHECK(report.iterations == 0);
    CHECK(broken.theta == problem.state().theta);
  }
}
