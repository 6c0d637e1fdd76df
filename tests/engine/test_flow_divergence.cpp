// SPDX-License-Identifier: MIT
// Distances from a fixed cloud as terms of F: the gradient of a JKO step against central differences,
// backends against the reference, and flows towards a cloud, whose mean the scheme moves by an exact factor a
// step.
#include <doctest/doctest.h>

#include <cmath>

#include "brenier/base/error.hpp"
#include "brenier/flow.hpp"
#include "brenier/functional.hpp"
#include "kernels/operations.hpp"
#include "tests/support/cases.hpp"

using namespace brenier;
using namespace brenier::test;

namespace {

Matrix<double> shifted_cloud(Index n, Index d, std::uint64_t seed, double shift) {
  Matrix<double> x = Numbers(seed).matrix<double>(n, d, -1, 1);
  for (double& value : x.elements()) value += shift;
  return x;
}

#if defined(BRENIER_TEST_CUDA)
constexpr bool kDevice = true;
#else
constexpr bool kDevice = false;
#endif

Functional distances(Index d, bool debiased) {
  // A device records all steps in its graphs, an emulated one is slow: an epsilon at which a few are enough.
  const SinkhornOptions options{.epsilon = kDevice ? 2 : 0.1,
                                .iterations = kDevice ? 60 : 5000,
                                .warm_iterations = kDevice ? 50 : 5000,
                                .tolerance = kDevice ? 1e-10 : 1e-12,
                                .debiased = debiased};
  return 0.7 * sinkhorn(shifted_cloud(14, d, 3, 1.5), options) +
         0.4 * mmd(shifted_cloud(11, d, 4, 0.5), 0.8) + 0.3 * energy_distance_to(shifted_cloud(9, d, 5, 0.8));
}

/// A JKO step whose F is made of distances.
template <class T>
struct Step {
  Icnn net{{.dim = 3, .hidden = {6, 4}}};
  Matrix<T> x;
  Objective objective;
  InnerProblem<T> problem;

  Step(Index n, bool debiased, Index minibatch = 0) : x(Numbers(7).matrix<T>(n, 3, -1, 1)) {
    objective = distances(3, debiased).objective();
    problem.net = &net;
    problem.x = x;
    problem.shift = {0.9, 1.0, 1.1};
    problem.scale = 0.6;
    problem.tau = 0.2;
    problem.objective = &objective;
    problem.adam = {.rate = 3e-3};
    problem.iterations = 8;
    problem.minibatch = minibatch;
    problem.seed = 5;
  }
  Step(const Step&) = delete;
  Step& operator=(const Step&) = delete;

  std::vector<T> theta() const { return generic_parameters<T>(net, 61); }
  InnerState<T> state() const {
    const std::vector<T> zeros(static_cast<std::size_t>(net.parameters()));
    return {theta(), zeros, zeros, 0};
  }

  /// F + E|y - x|^2 / (2 tau) at the images y.
  double value(const Operations<T>& ops, const std::vector<T>& at) const {
    Team team(1);
    const Index n = x.rows();
    Matrix<T> x_hat = x, displacement(n, 3), y = x;
    for (T& element : x_hat.elements()) element /= T(problem.scale);
    MapOutputs<T> map;
    map.displacement = displacement;
    ops.evaluate(net, at.data(), x_hat, map, team);
    double total = 0;
    for (std::size_t k = 0; k < y.elements().size(); ++k) {
      const double step = problem.scale * double(displacement.elements()[k]);
      y.elements()[k] += T(step);
      total += step * step / (2 * problem.tau * double(n));
    }
    for (const DivergenceTerm& term : objective.divergence) {
      double value = 0;
      ops.divergence(term, {y, problem.shift.data()}, &value, {}, nullptr, team);
      total += term.weight * value;
    }
    return total;
  }
};

}  // namespace

TEST_CASE("the gradient of a step towards a cloud equals central differences") {
  for (const Backend<double>& backend : all_backends<double>()) {
    for (const bool debiased : {false, true}) {
      CAPTURE(backend.ops->name);
      CAPTURE(debiased);
      const Step<double> step(13, debiased);
      const std::vector<double> theta = step.theta();
      std::vector<double> gradient(theta.size());
      Team team(backend.threads);
      backend.ops->objective_gradient(step.problem, theta.data(), 0, gradient.data(), team);
      double scale = 0;
      for (const double g : gradient) scale = std::max(scale, std::abs(g));
      for (std::size_t k = 0; k < theta.size(); k += 7) {
        std::vector<double> moved = theta;
        const double h = 1e-5;
        moved[k] = theta[k] + h;
        const double above = step.value(ref::operations<double>(), moved);
        moved[k] = theta[k] - h;
        const double below = step.value(ref::operations<double>(), moved);
        CAPTURE(k);
        CHECK(std::abs(gradient[k] - (above - below) / (2 * h)) <= 1e-6 * scale);
      }
    }
  }
}

TEST_CASE(
    "the inner loop towards a cloud follows the reference, with the same bits on any number of threads") {
  for (const Index minibatch : {0, kEmulated ? 33 : 70}) {
    const Step<double> step(kEmulated ? 35 : 90, true, minibatch);
    check_inner_loop(
        step, 8, 1e-8,
        [&](const InnerReport& expected, const InnerReport& found) {
          CHECK(expected.sinkhorn.solves == 16);
          CHECK(found.sinkhorn.solves >= 16);  // the cuda backend has one more of each before its loop
          if (minibatch == 0) CHECK(expected.sinkhorn.schedules == 2);
          CHECK(found.sinkhorn.unconverged == 0);
          CHECK(found.gradient < found.first_gradient);
        },
        [](const Backend<double>&, const std::vector<double>&) {});
  }
}

#if !defined(BRENIER_TEST_CUDA)

TEST_CASE(
    "a flow of transport to a cloud brings the mean nearer by 1/(1 + tau) a step, and the cloud with it") {
  const Matrix<double> target = shifted_cloud(60, 2, 21, 3);
  std::vector<double> goal(2), start(2);
  Cloud cloud;
  cloud.x = shifted_cloud(80, 2, 22, 0);
  for (Index c = 0; c < 2; ++c) {
    for (Index j = 0; j < 60; ++j) goal[c] += target(j, c) / 60;
    for (Index i = 0; i < 80; ++i) start[c] += cloud.x(i, c) / 80;
  }
  FlowOptions options{.tau = 0.5, .network = {.hidden = {16}}, .threads = 2};
  options.inner.iterations = 1500;
  options.inner.adam.rate = 5e-3;
  Flow<double> flow(sinkhorn(target, {.epsilon = 0.05, .iterations = 500, .debiased = true}), cloud, options);
  double value = flow.functional().total();
  for (int k = 1; k <= 6; ++k) {
    const StepReport report = *flow.step();
    CHECK(report.functional.divergence == flow.functional().total());
    CHECK(report.functional.total() < value);
    CHECK(report.sinkhorn.solves == 2 * report.iterations);
    CHECK(report.sinkhorn.marginal_error < 0.01);
    value = report.functional.total();
    for (Index c = 0; c < 2; ++c) {
      double mean = 0;
      for (Index i = 0; i < 80; ++i) mean += flow.trajectory().x()(i, c) / 80;
      CHECK(std::abs(mean - (goal[c] + (start[c] - goal[c]) * std::pow(1.5, -k))) <= 5e-3);
    }
  }
}

TEST_CASE_TEMPLATE("flows of MMD and energy distance end at the cloud", T, float, double) {
  const Matrix<double> target = shifted_cloud(50, 2, 31, 1);
  Cloud cloud;
  cloud.x = shifted_cloud(50, 2, 32, 0);
  for (const Functional& functional : {mmd(target, 1.5), 0.5 * energy_distance_to(target)}) {
    FlowOptions options{.tau = 1, .network = {.hidden = {16}}, .threads = 1};
    options.inner.adam.rate = 5e-3;
    options.inner.iterations = 200;
    Flow<T> flow(functional, cloud, options);
    const double first = flow.functional().total();
    double value = first;
    for (int k = 0; k < 6; ++k) {
      const double next = flow.step()->functional.total();
      CHECK(next < value);
      value = next;
    }
    CHECK(value < 0.05 * first);
    CHECK(value > 0);
  }
}

TEST_CASE("a potential against the distance from where the cloud was") {
  // E|x|^2/2 pulls to the origin, transport to the start holds: with both of weight 1 the cloud goes half of
  // the way, as far as epsilon does not blur it.
  Cloud cloud;
  cloud.x = shifted_cloud(64, 2, 41, 2);
  FlowOptions options{.tau = 1, .network = {.quadratic_rank = 2}, .threads = 1};
  options.inner.adam.rate = 1e-2;
  const Functional f = potential("0.5*sum(x^2)", 2) + sinkhorn(cloud.x, {.epsilon = 1e-3, .debiased = true});
  Flow<double> flow(f, cloud, options);
  CHECK(std::abs(flow.functional().divergence) <= 1e-4);
  for (int k = 0; k < 8; ++k) flow.step();
  for (Index i = 0; i < 64; ++i) {
    for (Index c = 0; c < 2; ++c) {
      CHECK(std::abs(flow.trajectory().x()(i, c) - cloud.x(i, c) / 2) <= 0.05);
    }
  }
}

TEST_CASE("distances in sums, their texts and their errors") {
  const Matrix<double> target = shifted_cloud(5, 2, 51, 0);
  const Functional f = 2.0 * sinkhorn(target, {.epsilon = 0.25}) + mmd(target, 0.5) + entropy();
  CHECK(f.dimension() == 2);
  CHECK(f.needs_density());
  CHECK(f.describe() ==
        "2 * entropic transport (epsilon 0.25) to 5 points + 1 * MMD^2 (bandwidth 0.5) to 5 points + 1 * "
        "internal t*log(t)");
  CHECK_FALSE(f.gaussian(2).has_value());
  CHECK(f.objective().divergence[0].weight == 2);
  CHECK_ERROR(f + potential("sum(x^2)", 3), ShapeError, "dimension 3");
  CHECK_ERROR(sinkhorn(target, {.epsilon = -1}), ValueError, "epsilon = -1");
  CHECK_ERROR(mmd(target, 0), ValueError, "bandwidth = 0");
  CHECK_ERROR(energy_distance_to(Matrix<double>(0, 2)), ShapeError, "0 points");
  CHECK_ERROR(energy_distance_to(target, {0.5, 0.5}), ShapeError, "2 weights for 5 points");
  Cloud line;
  line.x = shifted_cloud(5, 1, 52, 0);
  CHECK_ERROR(Flow<float>(sinkhorn(target), line), ShapeError, "dimension 2");
}

#endif
