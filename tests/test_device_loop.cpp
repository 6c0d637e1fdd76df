// SPDX-License-Identifier: MIT
// The inner loop on the emulated device: the host only launches, and what an inner loop promises holds there
// too.
#include <doctest/doctest.h>

#include <atomic>

#include "kernels/ops.hpp"
#include "kernels/runtime/device.hpp"
#include "tests/support/inner_problem.hpp"
#include "tests/support/near.hpp"

using namespace brenier;
using namespace brenier::test;

namespace {

constexpr Index kParticles = 70;

}  // namespace

TEST_CASE("the host waits as often for many iterations as for one") {
  SmallProblem<double> problem(kParticles);
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
    SmallProblem<double> problem(kParticles);
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
