// SPDX-License-Identifier: MIT
// Flows whose numbers must not depend on how many processes share them, and how those are compared.
#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <vector>

#include "brenier/communicator.hpp"
#include "brenier/density.hpp"
#include "brenier/flow.hpp"

namespace brenier::test {

struct Problem {
  const char* name;
  Functional functional;
  Cloud cloud;
  FlowOptions options;
  Index held_out = 0;
  int steps = 2;
  std::optional<Density> law{};
};

inline Matrix<double> normal_points(int d, Index n, double shift, std::uint64_t seed) {
  return Density::gaussian(d, shift, 0.5).sample(n, Sampling::random, seed).x;
}

inline std::vector<Problem> problems() {
  const Architecture small{.hidden = {8, 4}, .quadratic_rank = 1};
  std::vector<Problem> out;
  {
    const Density start = Density::barenblatt({.dim = 1, .m = 2, .time = 1e-3});
    out.push_back({"porous medium",
                   porous_medium(2),
                   start.sample(650, Sampling::stratified, 1),
                   {.tau = 1e-3, .order = 2, .network = small, .inner = {.iterations = 12}},
                   700,
                   2,
                   start});
  }
  out.push_back({"interaction",
                 interaction("0.5*r^2 - log(r)", 2),
                 {normal_points(2, 600, 0, 2), {}},
                 {.tau = 0.05, .network = small, .inner = {.iterations = 12}},
                 520});
  out.push_back({"interaction by a program",
                 interaction("0.25*r^4 - 0.5*r^2", 2) + potential("0.1*sum(x^2)", 2),
                 {normal_points(2, 600, 0, 2), {}},
                 {.tau = 0.05, .network = small, .inner = {.iterations = 8}}});
  for (const bool debiased : {false, true}) {
    out.push_back(
        {debiased ? "Sinkhorn divergence" : "Sinkhorn",
         potential("0.5*sum(x^2)", 2) +
             10.0 * sinkhorn(normal_points(2, 530, 1, 3),
                             {.epsilon = 1, .iterations = 6, .warm_iterations = 2, .debiased = debiased}),
         {normal_points(2, 600, 0, 4), {}},
         {.tau = 0.05, .network = small, .inner = {.solver = InnerOptions::Solver::adam, .iterations = 4}},
         0,
         1});
  }
  out.push_back({"MMD on particles",
                 mmd(normal_points(2, 530, 1, 3), 0.7),
                 {normal_points(2, 600, 0, 4), {}},
                 {.method = FlowOptions::Method::particles, .tau = 0.5, .inner = {.iterations = 6}}});
  {
    const Density start = Density::gaussian(2, 1, 0.5);
    const FlowOptions drawn{.tau = 0.1, .network = small, .inner = {.iterations = 12, .minibatch = 555}};
    out.push_back({"minibatches", entropy() + potential("0.5*sum(x^2)", 2),
                   start.sample(2000, Sampling::random, 5), drawn, 0, 2, start});
    FlowOptions probes = drawn;
    probes.inner.log_det = {.method = LogDetOptions::Method::cg};
    out.push_back({"probes", porous_medium(2) + potential("0.5*sum(x^2)", 2),
                   start.sample(700, Sampling::random, 5), probes, 0, 1});
    out.push_back(
        {"black box",
         entropy() + potential(2,
                               [](MatrixView<const double> x, double* v, MatrixView<double> gradient) {
                                 for (Index i = 0; i < x.rows; ++i) {
                                   if (v) v[i] = 0.5 * (x(i, 0) * x(i, 0) + x(i, 1) * x(i, 1));
                                   for (Index c = 0; gradient && c < 2; ++c) gradient(i, c) = x(i, c);
                                 }
                               }),
         start.sample(600, Sampling::random, 5),
         {.tau = 0.1, .network = small, .inner = {.iterations = 8}},
         0,
         1});
  }
  return out;
}

/// All numbers of a flow that are to be the same.
template <class T>
std::vector<double> numbers_of(const Problem& problem, int threads,
                               std::shared_ptr<Communicator> communicator) {
  FlowOptions options = problem.options;
  options.threads = threads;
  options.communicator = std::move(communicator);
  Flow<T> flow(problem.functional, problem.cloud, options);
  if (problem.law) flow.set_initial_density(*problem.law);
  if (problem.held_out > 0) {
    Cloud other{problem.cloud.x, problem.cloud.log_density};
    flow.track(std::move(other));
  }
  std::vector<double> out;
  const auto add = [&](const std::vector<double>& more) { out.insert(out.end(), more.begin(), more.end()); };
  for (int k = 0; k < problem.steps; ++k) {
    const StepReport report = flow.step().value();
    add({report.functional.total(), report.transport, report.decrease, report.missed_share,
         report.missed_share_held_out, report.displacement_error, report.residual, report.min_eigenvalue,
         report.round_trip, report.time_error, report.cg.worst_residual, report.sinkhorn.marginal_error,
         static_cast<double>(report.iterations), static_cast<double>(report.cg.iterations),
         static_cast<double>(report.sinkhorn.iterations)});
  }
  add(flow.trajectory().x().elements());
  add(flow.trajectory().log_density());
  add(flow.checkpoint().theta);
  add({flow.functional().total(), flow.functional_of(flow.trajectory(), 550).total()});
  if (problem.held_out > 0) {
    add(flow.tracked(0).x().elements());
    add({flow.functional_of(flow.tracked(0)).total()});
  }
  return out;
}

inline bool same_bits(const std::vector<double>& a, const std::vector<double>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(double)) == 0;
}

}  // namespace brenier::test
