// SPDX-License-Identifier: MIT
// The inner loop on a device: the host launches and seldom waits, and what an inner loop promises holds there
// too.
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <limits>
#include <string>
#include <vector>

#include "kernels/device/device.hpp"
#include "kernels/operations.hpp"
#include "tests/support/near.hpp"
#include "tests/support/step_case.hpp"

using namespace brenier;
using namespace brenier::test;

namespace {

constexpr Index kParticles = 70;

/// Those of cuda::variants, without the one that the environment variable BRENIER_TEST_WITHOUT names: cuBLAS
/// is left out under tools that watch every access, its kernels are many.
std::vector<std::string> variants() {
  const char* without = std::getenv("BRENIER_TEST_WITHOUT");
  std::vector<std::string> list;
  for (const char* variant : cuda::variants<double>()) {
    if (!without || variant != std::string(without)) list.emplace_back(variant);
  }
  return list;
}

/// Calls body(variant, ops).
template <class Body>
void for_each_variant(const Body& body) {
  for (const std::string& variant : variants()) {
    CAPTURE(variant);
    body(variant, cuda::operations<double>(variant.c_str()));
  }
}

/// How often the host waits for the device in work().
template <class Work>
int waits_in(const Work& work) {
  const std::uint64_t before = device::host_synchronisations();
  work();
  return static_cast<int>(device::host_synchronisations() - before);
}

}  // namespace

TEST_CASE("the host waits twice for each graph from the third on, and not for single iterations") {
  SmallStep<double> step(kParticles);
  Team team(1);
  for_each_variant([&](const std::string& variant, const Operations<double>& ops) {
    const auto waits = [&](int iterations) {
      step.problem.iterations = iterations;
      InnerState<double> state = step.state();
      return waits_in(
          [&] { CHECK(ops.inner_loop(step.problem, state, iterations, team).iterations == iterations); });
    };
    // For a launch behind which two others are queued, and for the flag that ends a loop, which is read
    // beside them: neither holds the device up. Layer by layer a graph is one iteration, otherwise 16.
    const auto graphs = [&](int iterations) { return variant == "cublas" ? iterations : iterations / 16; };
    waits(1);  // the first loop makes what all later ones use again
    const int once = waits(1);
    for (const int iterations : {2, 7, 53}) {
      CAPTURE(iterations);
      CHECK(waits(iterations) - once == 2 * std::max(0, graphs(iterations) - 2));
    }
  });
}

TEST_CASE(
    "in a search by L-BFGS the host waits twice for each evaluation from the fourth on, and moves little") {
  SmallStep<double> step(kParticles);
  Team team(1);
  const std::vector<double> lower(step.theta.size(), -std::numeric_limits<double>::infinity());
  const std::vector<double> metric(step.theta.size(), 1.0);
  for_each_variant([&](const std::string&, const Operations<double>& ops) {
    const auto waits = [&](int evaluations) {
      std::vector<double> theta = step.theta;
      SinkhornReport transports;
      return waits_in([&] {
        const LbfgsReport report =
            ops.search(step.problem, {lower, metric}, {.evaluations = evaluations}, theta, transports, team);
        CHECK(report.evaluations == evaluations);
      });
    };
    waits(1);
    const int once = waits(1);
    // The first is not of a graph; see LaunchPace.
    for (const int evaluations : {2, 3, 9}) {
      CAPTURE(evaluations);
      CHECK(waits(evaluations) - once == 2 * std::max(0, evaluations - 3));
    }
  });
}

TEST_CASE("an evaluation of an objective waits for its parameters and for its sums") {
  SmallStep<double> step(kParticles);
  Team team(1);
  for_each_variant([&](const std::string&, const Operations<double>& ops) {
    const auto objective = ops.step_objective(step.problem, team);
    std::vector<double> gradient(step.theta.size());
    const auto evaluate = [&] { objective->evaluate(step.theta.data(), 0, gradient.data()); };
    evaluate();
    evaluate();  // which records
    CHECK(waits_in(evaluate) == 2);
  });
}

#if !BRENIER_CUDA
TEST_CASE("everything that an iteration launches has been launched once before it is recorded") {
  SmallStep<double> step(kParticles);
  Team team(1);
  for (const std::string& variant : variants()) {
    CAPTURE(variant);
    const auto launches = [&](int iterations) {
      InnerState<double> state = step.state();
      const std::uint64_t before = device::emulator::device_launches(0);
      cuda::operations<double>(variant.c_str()).inner_loop(step.problem, state, iterations, team);
      return device::emulator::device_launches(0) - before;
    };
    CHECK(launches(1) >= 4);
    // But for what fills in the bounds, once a loop.
    CHECK(3 * (launches(1) - 1) == 2 * (launches(2) - 1));
  }
}

TEST_CASE("a loop makes no handle of matrix products where an earlier one has left its own") {
  SmallStep<double> step(kParticles);
  Team team(1);
  const Operations<double>& ops = cuda::operations<double>("cublas");
  const auto made = [&] {
    InnerState<double> state = step.state();
    const std::uint64_t before = device::emulator::handles_made();
    ops.inner_loop(step.problem, state, 1, team);
    return device::emulator::handles_made() - before;
  };
  made();
  CHECK(made() == 0);
}
#endif

TEST_CASE("launching ends soon after the device has decided to stop") {
  SmallStep<double> step(kParticles);
  Team team(1);
  step.problem.iterations = 2000;
  for_each_variant([&](const std::string& variant, const Operations<double>& ops) {
    const auto waits = [&](int until) {
      InnerState<double> state = step.state();
      return waits_in([&] {
        const InnerReport report = ops.inner_loop(step.problem, state, until, team);
        CHECK(report.converged == (step.problem.tolerance > 0));
        CHECK(report.iterations < 20);
      });
    };
    waits(1);
    const int once = waits(1);
    step.problem.tolerance = 0.999;
    // The graph in which the tolerance was met and two more; what converges below 20 iterations has met it
    // in the second graph of 16, or in the 20th of one.
    CHECK(waits(2000) - once <= 2 * (variant == "cublas" ? 20 : 2));
    step.problem.tolerance = 0;
  });
}

TEST_CASE("with BRENIER_SYNC_LAUNCHES the host waits for every kernel, and the numbers are the same") {
  SmallStep<double> step(kParticles);
  Team team(1);
  for_each_variant([&](const std::string&, const Operations<double>& ops) {
    const auto waits = [&](InnerState<double>& state, const char* value) {
      ::setenv("BRENIER_SYNC_LAUNCHES", value, 1);
      const int found = waits_in([&] { ops.inner_loop(step.problem, state, 5, team); });
      ::unsetenv("BRENIER_SYNC_LAUNCHES");
      return found;
    };
    InnerState<double> queued = step.state(), checked = step.state();
    CHECK(waits(queued, "0") + 10 <= waits(checked, "1"));  // two kernels an iteration at least
    CHECK(checked.theta == queued.theta);
  });
}

TEST_CASE(
    "on the device an inner loop continues, stops on its tolerance, and keeps theta from what is not "
    "finite") {
  Team team(1);
  for (const std::string& variant : variants()) {
    CAPTURE(variant);
    SmallStep<double> step(kParticles);
    const Operations<double>& ops = cuda::operations<double>(variant.c_str());
    InnerState<double> whole = step.state(), parts = step.state();
    ops.inner_loop(step.problem, whole, 6, team);
    ops.inner_loop(step.problem, parts, 2, team);
    ops.inner_loop(step.problem, parts, 6, team);
    CHECK(parts.theta == whole.theta);
    CHECK(parts.iteration == 6);

    step.problem.tolerance = 0.999;
    InnerState<double> early = step.state();
    const InnerReport converged = ops.inner_loop(step.problem, early, 20, team);
    CHECK(converged.converged);
    CHECK(converged.iterations < 20);
    CHECK(early.iteration == converged.iterations);
    step.problem.tolerance = 0;

    std::atomic<bool> interrupt{true};
    step.problem.interrupt = &interrupt;
    InnerState<double> stopped = step.state();
    const InnerReport interrupted = ops.inner_loop(step.problem, stopped, 20, team);
    CHECK(interrupted.interrupted);
    CHECK(interrupted.iterations == 1);
    step.problem.interrupt = nullptr;

    step.log_density[40] = std::nan("");
    InnerState<double> broken = step.state();
    const InnerReport report = ops.inner_loop(step.problem, broken, 20, team);
    CHECK_FALSE(report.finite);
    CHECK(report.iterations == 0);
    CHECK(broken.theta == step.state().theta);
  }
}
