// SPDX-License-Identifier: MIT
// The value of a JKO step's objective beside its gradient, against F itself in double precision.
#include <cmath>
#include <string>

#include "engine/src/flow/cloud_objective.hpp"
#include "tests/support/backends.hpp"
#include "tests/support/step_case.hpp"

using namespace brenier;
using namespace brenier::test;

namespace {

/// F and the transport of the case's map, from evaluate() and CloudObjective in double precision.
template <class T>
double exact_value(const StepCase<T>& step, const std::vector<T>& theta, Team& team) {
  const InnerProblem<T>& problem = step.problem;
  const Index n = step.x.rows(), d = step.x.cols();
  Matrix<double> hat(n, d), displacement(n, d), y(n, d);
  for (Index i = 0; i < n; ++i) {
    for (Index c = 0; c < d; ++c) hat(i, c) = static_cast<double>(step.x(i, c)) / problem.scale;
  }
  std::vector<double> log_det(n), log_density = step.log_density;
  MapOutputs<double> out;
  out.displacement = displacement;
  out.log_det = log_det.data();
  const std::vector<double> exact(theta.begin(), theta.end());
  ref::operations<double>().evaluate(step.net, exact.data(), hat, out, team);
  double transport = 0;
  for (Index i = 0; i < n; ++i) {
    log_density[i] -= log_det[i];
    for (Index c = 0; c < d; ++c) {
      const double move = problem.scale * displacement(i, c);
      y(i, c) = static_cast<double>(step.x(i, c)) + problem.shift[c] + move;
      transport += move * move / (2 * problem.tau * static_cast<double>(n));
    }
  }
  CloudObjective objective(step.objective, ref::operations<double>());
  return objective.value(y, log_density, 0, team).total() + transport;
}

std::shared_ptr<const Matrix<double>> reference_points(int d) {
  Numbers numbers(17);
  return std::make_shared<Matrix<double>>(numbers.matrix<double>(23, d, 0.2, 1.5));
}

}  // namespace

TEST_CASE_TEMPLATE("the value of a step's objective is F and the transport, up to a constant", T, float,
                   double) {
  struct Case {
    std::string name;
    StepTerms terms;
    int dim;
    bool learned, divergences;
  };
  const Expression gauss = Expression::interaction("exp(-r^2)", 2);
  PairKernel radial;
  radial.form = PairKernel::Form::radial;
  radial.program = gauss.program();
  const std::vector<Case> cases{
      {"potential", {.internal = {}}, 3, false, false},
      {"internal energies", {}, 2, false, false},
      {"internal energies, d = 5", {}, 5, false, false},
      {"quadratic interaction",
       {.internal = {}, .interaction = {quadratic_log(0.7, 0, 0.3)}},
       3,
       false,
       false},
      {"logarithmic interaction", {.interaction = {quadratic_log(0.5, -1, 0.2)}}, 1, false, false},
      {"radial interaction", {.internal = {}, .interaction = {radial}}, 2, false, false},
      {"learned potential", {.internal = {}, .potential = false}, 3, true, false},
      {"divergences", {.internal = {}, .potential = false}, 2, false, true},
  };
  Team one(1);
  for (const Case& c : cases) {
    CAPTURE(c.name);
    for (const Backend<T>& backend : all_backends<T>()) {
      if (!backend.ops->step_objective) continue;
      CAPTURE(backend.ops->name);
      Team team(backend.threads);
      StepCase<T> step({.dim = c.dim, .hidden = {9, 5}, .quadratic_rank = 1}, 150, c.terms);
      if (c.learned) {
        auto net = std::make_shared<Icnn>(Architecture{.dim = c.dim, .hidden = {7, 6}});
        auto theta = std::make_shared<std::vector<double>>(generic_parameters<double>(*net, 5));
        step.objective.network.push_back({0.8, net, theta});
      }
      if (c.divergences) {
        using Form = DivergenceTerm::Form;
        for (const Form form : {Form::sinkhorn, Form::mmd, Form::energy}) {
          DivergenceTerm term;
          term.weight = 0.6;
          term.form = form;
          term.reference = reference_points(c.dim);
          term.sinkhorn = {.epsilon = 0.1, .iterations = 500, .warm_iterations = 500, .debiased = true};
          step.objective.divergence.push_back(term);
        }
      }
      const std::unique_ptr<StepObjective<T>> objective = backend.ops->step_objective(step.problem, team);
      std::vector<double> gradient(step.net.parameters());
      std::vector<T> other = step.theta;
      for (std::size_t k = 0; k < other.size(); ++k) other[k] *= static_cast<T>(k % 3 == 0 ? 0.9 : 1.02);
      const double a = objective->evaluate(step.theta.data(), 0, gradient.data());
      const double b = objective->evaluate(other.data(), 0, gradient.data());
      const double exact_a = exact_value(step, step.theta, one), exact_b = exact_value(step, other, one);
      const double size = std::max(std::abs(exact_a), std::abs(a)) + std::abs(exact_b);
      // Sums of terms of this size, each rounded; transport plans end at a tolerance.
      const double tolerance = c.divergences ? 2e-5 : tol<T>(64);
      CHECK(std::abs((a - b) - (exact_a - exact_b)) <= tolerance * size);
      CHECK(std::abs(exact_a - exact_b) > 1e-3 * size);

      const std::vector<double> first = gradient;
      CHECK(objective->evaluate(other.data(), 0, gradient.data()) ==
            (c.divergences ? doctest::Approx(b) : b));
      step.theta = other;
      // Values of a network take another way to the same slopes.
      if (!c.divergences)
        CHECK_CLOSE(first, step.gradient(*backend.ops, team, 0), c.learned ? tol<T>(16) : 0.0);
    }
  }
}

TEST_CASE_TEMPLATE("value and gradient of a step have the same bits for any number of threads", T, float,
                   double) {
  const StepCase<T> step({.dim = 2, .hidden = {9, 5}}, 700, {.interaction = {quadratic_log(0.5, -1, 0)}});
  const auto& ops = cpu::operations<T>();
  std::vector<double> expected(step.net.parameters()), gradient = expected;
  Team one(1);
  const double value = ops.step_objective(step.problem, one)->evaluate(step.theta.data(), 0, expected.data());
  for (const int threads : {2, 3, 7}) {
    Team team(threads);
    CHECK(ops.step_objective(step.problem, team)->evaluate(step.theta.data(), 0, gradient.data()) == value);
    CHECK(gradient == expected);
  }
}

TEST_CASE("the gradient is that of the value") {
  StepCase<double> step({.dim = 2, .hidden = {9, 5}, .quadratic_rank = 1}, 150,
                        {.interaction = {quadratic_log(0.5, -1, 0)}});
  Team one(1);
  for (const Operations<double>* ops : {&ref::operations<double>(), &cpu::operations<double>()}) {
    const auto objective = ops->step_objective(step.problem, one);
    std::vector<double> gradient(step.net.parameters()), unused = gradient;
    objective->evaluate(step.theta.data(), 0, gradient.data());
    double norm2 = 0;
    for (const double g : gradient) norm2 += g * g;
    const double h = 1e-4 / std::sqrt(norm2);
    const auto at = [&](double t) {
      std::vector<double> theta = step.theta;
      for (std::size_t k = 0; k < theta.size(); ++k) theta[k] += t * gradient[k];
      return objective->evaluate(theta.data(), 0, unused.data());
    };
    CHECK_REL((at(h) - at(-h)) / (2 * h), norm2, 1e-6);
  }
}
