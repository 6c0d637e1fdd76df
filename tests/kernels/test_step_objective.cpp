// SPDX-License-Identifier: MIT
// The value of a JKO step's objective beside its gradient, against F itself in double precision; and searches by
// L-BFGS that a backend does by itself, against the host's.
#include <atomic>
#include <cmath>
#include <limits>
#include <string>

#include "engine/src/flow/cloud_objective.hpp"
#include "engine/src/flow/solve/metric.hpp"
#include "kernels/resident_cloud.hpp"
#include "solvers/lbfgs.hpp"
#include "tests/support/backends.hpp"
#include "tests/support/step_case.hpp"

using namespace brenier;
using namespace brenier::test;

namespace {

constexpr Index kParticles = kReduced ? 20 : kEmulated ? 45 : 150;

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
      {"potential on the line", {.internal = {}}, 1, false, false},
      {"energies without programs on the line",
       {.internal = {{.weight = 0.7}, {.weight = 0.4, .form = InternalTerm::Form::power}}},
       1,
       false,
       false},
      {"internal energies on the line", {}, 1, false, false},
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
      CAPTURE(backend.ops->name);
      Team team(backend.threads);
      StepCase<T> step({.dim = c.dim, .hidden = {9, 5}, .quadratic_rank = 1}, kParticles, c.terms);
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
          // A device does all steps, whether the marginals are met or not.
          const int steps = kEmulated ? 200 : 500;
          term.sinkhorn = {.epsilon = 0.1, .iterations = steps, .warm_iterations = steps, .debiased = true};
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

TEST_CASE_TEMPLATE("an objective has the same bits in every evaluation, and draws of its iteration", T, float,
                   double) {
  for (const Backend<T>& backend : all_backends<T>()) {
    CAPTURE(backend.ops->name);
    Team team(backend.threads);
    const StepCase<T> step({.dim = 2, .hidden = {9, 5}}, kParticles,
                           {.interaction = {quadratic_log(0.5, -1, 0)}}, 40);
    const auto objective = backend.ops->step_objective(step.problem, team);
    std::vector<double> first(step.net.parameters()), gradient = first;
    const double value = objective->evaluate(step.theta.data(), 3, first.data());
    const double other = objective->evaluate(step.theta.data(), 4, gradient.data());
    CHECK_CLOSE(gradient, step.gradient(*backend.ops, team, 4), 0.0);
    CHECK(std::abs(other - value) > 1e-3 * std::abs(value));
    CHECK(objective->evaluate(step.theta.data(), 3, gradient.data()) == value);
    CHECK(gradient == first);
  }
}

TEST_CASE_TEMPLATE("a value that is not known is NaN: random log-determinants, densities that are NaN", T,
                   float, double) {
  for (const Backend<T>& backend : all_backends<T>()) {
    CAPTURE(backend.ops->name);
    Team team(backend.threads);
    for (const InternalTerm& term : every_internal()) {
      StepCase<T> step({.dim = 3, .hidden = {9, 5}}, kParticles, {.internal = {term}});
      std::vector<double> gradient(step.net.parameters());
      const auto value = [&] {
        return backend.ops->step_objective(step.problem, team)
            ->evaluate(step.theta.data(), 0, gradient.data());
      };
      const double known = value();
      CHECK(std::isfinite(known));
      // No mass: f(0) = 0, which is what the particle counts.
      step.log_density[7] = -std::numeric_limits<double>::infinity();
      CHECK(std::isfinite(value()));
      step.log_density[7] = std::nan("");
      CHECK(std::isnan(value()));
      step.log_density[7] = 0;
      step.problem.log_det = {.method = LogDetOptions::Method::cg, .probes = 1, .iterations = 2};
      CHECK(std::isnan(value()));
      CHECK(std::isfinite(gradient[0]));
      // det H < 0: alpha below its bound.
      step.problem.log_det = {.method = LogDetOptions::Method::exact};
      step.theta[step.net.alpha()] = -1000;
      CHECK(std::isnan(value()));
    }
  }
}

#if !defined(BRENIER_TEST_CUDA)
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
#endif

TEST_CASE("the gradient is that of the value") {
  StepCase<double> step({.dim = 2, .hidden = {9, 5}, .quadratic_rank = 1}, kParticles,
                        {.interaction = {quadratic_log(0.5, -1, 0)}});
  Team one(1);
  for (const Backend<double>& backend : all_backends<double>()) {
    const auto objective = backend.ops->step_objective(step.problem, one);
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

namespace {

template <class T>
struct Found {
  LbfgsReport report;
  std::vector<T> theta;
};

/// By the host, one evaluation after another, or by the backend.
template <class T>
Found<T> search(const Operations<T>& ops, const StepCase<T>& step, const LbfgsOptions& options,
                bool by_host) {
  Team team(1);
  Found<T> out{{}, step.theta};
  const ParameterMetric<T> bounds(step.net, step.theta);
  if (!by_host) {
    SinkhornReport transports;
    out.report =
        ops.search(step.problem, {bounds.lower, bounds.metric}, options, out.theta, transports, team);
    // The same by themselves, and where it lies already that the search starts from.
    const std::unique_ptr<ResidentParameters<T>> known = ops.know(step.net);
    InnerProblem<T> problem = step.problem;
    problem.known = known.get();
    std::vector<T> theta = step.theta;
    known->map(theta, std::vector<double>(static_cast<std::size_t>(step.net.dim())), 1);
    ops.search(problem, {}, options, theta, transports, team);
    CHECK(theta == out.theta);
    return out;
  }
  const auto objective = ops.step_objective(step.problem, team);
  const BoundedProblem<T> problem{
      [&](const T* theta, double* gradient) { return objective->evaluate(theta, 0, gradient); }, bounds.lower,
      bounds.metric};
  out.report = minimise(problem, options, out.theta);
  return out;
}

}  // namespace

TEST_CASE_TEMPLATE("a search on a device comes to the host's decisions", T, float, double) {
  using End = LbfgsReport::End;
  // Sums differ in their last bits, and what comes of that grows by about a half in every evaluation; in float, where
  // now and then a parameter is rounded to the other side, there is less to grow in.
  const int evaluations = sizeof(T) == 8 ? (kReduced ? 8 : 24) : (kReduced ? 5 : 8);
  for (const Backend<T>& backend : backends<T>()) {
    if (!backend.ops->search) continue;
    CAPTURE(backend.ops->name);
    for (const int dim : {2, 1}) {
      CAPTURE(dim);
      const StepCase<T> step({.dim = dim, .hidden = {9, 5}, .quadratic_rank = 1}, kParticles,
                             {.interaction = {quadratic_log(0.5, -0.1, 0.2)}});
      const auto both = [&](const LbfgsOptions& options) {
        const Found<T> expected = search(*backend.ops, step, options, true);
        const Found<T> actual = search(*backend.ops, step, options, false);
        CHECK(actual.report.end == expected.report.end);
        CHECK(actual.report.evaluations == expected.report.evaluations);
        CHECK(actual.report.iterations == expected.report.iterations);
        CHECK(actual.report.resets == expected.report.resets);
        CHECK(actual.report.first == expected.report.first);
        CHECK_REL(actual.report.first_gradient, expected.report.first_gradient, 1e-13);
        CHECK_REL(actual.report.value, expected.report.value, tol<T>(64));
        CHECK_CLOSE(actual.theta, expected.theta, tol<T>(8 * std::exp2(options.evaluations / 2.0)));
        return actual;
      };
      Found<T> whole = both({.evaluations = evaluations});
      CHECK(whole.report.end == End::evaluations);
      CHECK(whole.report.value < whole.report.first);
      CHECK(worst_error(whole.theta, step.theta) > 0.01);
      if (kReduced) break;
      // More pairs than there is room for, and the value of the start given.
      both({.memory = 3, .evaluations = evaluations, .start = 7});
      CHECK(search(*backend.ops, step, {.evaluations = 1, .start = 7}, false).report.first == 7);
      // Where it ends by itself.
      both({.evaluations = evaluations, .tolerance = 0.3, .window = 2});
      both({.evaluations = evaluations, .gradient = whole.report.first_gradient / 2});
      both({.evaluations = evaluations, .noise = 1e3});
    }
  }
}

TEST_CASE_TEMPLATE("a search on a device that is interrupted, or has nothing finite to start from", T, float,
                   double) {
  using End = LbfgsReport::End;
  for (const Backend<T>& backend : backends<T>()) {
    if (!backend.ops->search) continue;
    CAPTURE(backend.ops->name);
    StepCase<T> step({.dim = 2, .hidden = {9, 5}}, kParticles);
    std::atomic<bool> interrupt{true};
    const Found<T> stopped = search(*backend.ops, step, {.evaluations = 50, .interrupt = &interrupt}, false);
    CHECK(stopped.report.end == End::interrupted);
    CHECK(stopped.report.evaluations == 1);
    CHECK(stopped.theta == step.theta);
    CHECK_THROWS_AS(search(*backend.ops, step, {.memory = 21}, false), ValueError);

    step.log_density[7] = std::nan("");
    const Found<T> broken = search(*backend.ops, step, {.evaluations = 50}, false);
    CHECK(broken.report.end == End::not_finite);
    CHECK(broken.theta == step.theta);
    step.log_density[7] = 0;
    step.problem.log_det = {.method = LogDetOptions::Method::cg, .probes = 1, .iterations = 2};
    CHECK(search(*backend.ops, step, {.evaluations = 50}, false).report.end == End::not_finite);
  }
}
