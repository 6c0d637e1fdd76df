// SPDX-License-Identifier: MIT
// The inner problem of a JKO step with the terms that a test asks for, away from the origin and not of
// size 1.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "brenier/expression.hpp"
#include "kernels/operations.hpp"
#include "tests/support/nets.hpp"

namespace brenier::test {

inline PairKernel quadratic_log(double quadratic, double log_coefficient, double constant) {
  PairKernel kernel;
  kernel.quadratic = quadratic;
  kernel.log_coefficient = log_coefficient;
  kernel.constant = constant;
  return kernel;
}

/// An internal energy of every form.
inline std::vector<InternalTerm> every_internal() {
  InternalTerm general{.weight = 0.3, .form = InternalTerm::Form::general};
  const Expression f = Expression::internal("t^3 + t*log(t)");
  general.program = f.program();
  general.surrogate = f.weight();
  return {{.weight = 0.7}, {.weight = 0.5, .form = InternalTerm::Form::power, .exponent = 1.5}, general};
}

struct StepTerms {
  std::vector<InternalTerm> internal = every_internal();
  bool potential = true;
  std::vector<PairKernel> interaction = {};
};

template <class T>
struct StepCase {
  Icnn net;
  std::vector<T> theta;
  Matrix<T> x;
  std::vector<double> log_density;
  Objective objective;
  InnerProblem<T> problem;

  StepCase(const Architecture& architecture, Index n, StepTerms terms = {}, Index minibatch = 0)
      : net(architecture), theta(generic_parameters<T>(net, 61)) {
    const int d = net.dim();
    Numbers numbers(59);
    x = numbers.matrix<T>(n, d, 0.3, 1.7);
    for (Index i = 0; i < n; ++i) log_density.push_back(numbers(-1, 1));
    objective.internal = std::move(terms.internal);
    if (terms.potential)
      objective.potential = Expression::potential("sum(x^2) + 0.1*sum(exp(x))", d).program();
    for (const PairKernel& kernel : terms.interaction) objective.interaction.push_back({0.4, kernel});
    problem.net = &net;
    problem.x = x;
    problem.log_density = log_density.data();
    problem.shift.assign(d, 1.0);
    problem.scale = 0.4;
    problem.tau = 0.05;
    problem.objective = &objective;
    problem.adam = {.rate = 3e-3, .final_fraction = 0.1};
    problem.iterations = 12;
    problem.minibatch = minibatch;
    problem.seed = 5;
    problem.step = 3;
  }
  // `problem` has the addresses of its neighbours.
  StepCase(const StepCase&) = delete;
  StepCase& operator=(const StepCase&) = delete;

  std::vector<double> gradient(const Operations<T>& ops, Team& team, int iteration = 4) const {
    std::vector<double> out(net.parameters(), 1e9);
    ops.objective_gradient(problem, theta.data(), iteration, out.data(), team);
    return out;
  }
  InnerState<T> state() const {
    return {theta, std::vector<T>(theta.size(), T(0)), std::vector<T>(theta.size(), T(0)), 0};
  }
};

/// A small step in the plane with a term of every kind that has launches of its own.
template <class T>
struct SmallStep : StepCase<T> {
  explicit SmallStep(Index n, const std::vector<int>& hidden = {9, 5})
      : StepCase<T>({.dim = 2, .hidden = hidden}, n,
                    {.internal = {{.form = InternalTerm::Form::power, .exponent = 2}},
                     .interaction = {quadratic_log(0.1, 0, 0)}}) {
    const auto learned = std::make_shared<const Icnn>(Architecture{.dim = 2, .hidden = {6, 4}});
    const std::vector<double> parameters = generic_parameters<double>(*learned, 7);
    this->objective.network.push_back(
        {0.5, learned, std::make_shared<const std::vector<double>>(parameters)});
    this->problem.iterations = 20;
  }
};

}  // namespace brenier::test
