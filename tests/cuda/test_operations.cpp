// SPDX-License-Identifier: MIT
// Every operation of the cuda backend once, on problems small enough for tools that watch each access
// (compute-sanitizer), and random draws in bulk. The full comparison is tests/kernels/test_backends.cpp.
#include <doctest/doctest.h>

#include <memory>
#include <vector>

#include "brenier/expression.hpp"
#include "kernels/operations.hpp"
#include "tests/emulator/sound_kernels.hpp"
#include "tests/support/near.hpp"
#include "tests/support/nets.hpp"
#include "tests/support/step_case.hpp"

using namespace brenier;
using namespace brenier::test;

namespace {

/// Fits no tile: one full, one of a single particle.
constexpr Index kParticles = 33;

/// Rounding errors of sums over these nets and clouds.
template <class T>
double tolerance() {
  return tol<T>(300);
}

std::vector<Architecture> architectures() {
  return {{.dim = 1, .hidden = {12, 5}},
          {.dim = 3, .hidden = {8, 17, 6}, .quadratic_rank = 2},
          {.dim = 2, .hidden = {9, 9}, .residual = true},
          {.dim = 5, .hidden = {9, 6}}};
}

/// What every case needs; the reference's numbers and the device's are computed from the same inputs.
template <class T>
struct Inputs {
  Icnn net;
  Index d;
  std::vector<T> theta;
  Matrix<T> x, v, p, q;
  Team team{1};

  explicit Inputs(const Architecture& architecture)
      : net(architecture), d(net.dim()), theta(generic_parameters<T>(net, 31)) {
    Numbers numbers(37);
    x = numbers.matrix<T>(kParticles, d, -2, 2);
    v = numbers.matrix<T>(kParticles, d, -1, 1);
    p = numbers.matrix<T>(kParticles, d, -1, 1);
    q = numbers.matrix<T>(kParticles, d, -1, 1);
  }
};

template <class T, class Run>
void compare(const Run& run) {
  CHECK_CLOSE(run(cuda::operations<T>()), run(ref::operations<T>()), tolerance<T>());
}

}  // namespace

TEST_CASE_TEMPLATE("small: evaluate and hessian_vector", T, float, double) {
  for (const Architecture& architecture : architectures()) {
    Inputs<T> in(architecture);
    CAPTURE(in.d);
    compare<T>([&](const Operations<T>& ops) {
      Matrix<T> displacement(kParticles, in.d), hessian(kParticles, in.d * in.d), product(kParticles, in.d);
      std::vector<T> u(kParticles);
      std::vector<double> log_det(kParticles);
      const MapOutputs<T> out{u.data(), displacement, hessian, log_det.data()};
      ops.evaluate(in.net, in.theta.data(), in.x, out, in.team);
      ops.hessian_vector(in.net, in.theta.data(), in.x, in.p, product, in.team);
      for (const Matrix<T>* part : {&displacement, &hessian, &product})
        u.insert(u.end(), part->elements().begin(), part->elements().end());
      u.insert(u.end(), log_det.begin(), log_det.end());
      return u;
    });
  }
}

TEST_CASE_TEMPLATE("small: jet_gradient with every kind of seed", T, float, double) {
  for (const Architecture& architecture : architectures()) {
    Inputs<T> in(architecture);
    CAPTURE(in.d);
    Matrix<T> metric(kParticles, in.d * in.d);
    for (Index i = 0; i < kParticles; ++i) {
      for (Index k = 0; k < in.d * in.d; ++k) metric(i, k) = in.q(i, k / in.d) * in.q(i, k % in.d);
    }
    for (const int kind : {0, 1, 2, 3}) {
      CAPTURE(kind);
      JetSeeds<T> seeds;
      seeds.v = in.v;
      if (kind == 1) seeds.metric = metric;
      if (kind >= 2) {
        seeds.directions = 1;
        seeds.q = in.q;
      }
      if (kind == 3) seeds.p = in.p;
      compare<T>([&](const Operations<T>& ops) {
        std::vector<double> gradient(in.net.parameters(), 1e9);
        ops.jet_gradient(in.net, in.theta.data(), in.x, seeds, gradient.data(), in.team);
        return gradient;
      });
    }
  }
}

TEST_CASE_TEMPLATE("small: programs and interactions", T, float, double) {
  Inputs<T> in({.dim = 2, .hidden = {3}});
  const Program program = Expression::potential("sum(exp(x) + sin(x)) + norm(x)^3", 2).program();
  compare<T>([&](const Operations<T>& ops) {
    Matrix<T> gradient(kParticles, 2);
    std::vector<T> value(kParticles);
    ops.evaluate_program(program, in.x, value.data(), gradient, in.team);
    value.insert(value.end(), gradient.elements().begin(), gradient.elements().end());
    return value;
  });
  PairKernel log{.quadratic = 0.5, .log_coefficient = -1};
  PairKernel radial{.form = PairKernel::Form::radial};
  radial.program = Expression::interaction("r^4/4 - exp(-r)", 2).program();
  PairKernel vector{.form = PairKernel::Form::vector};
  vector.program = Expression::interaction("exp(-sum(x^2)) + cos(x[0])", 2).program();
  for (const PairKernel* kernel : {&log, &radial, &vector}) {
    compare<T>([&](const Operations<T>& ops) {
      Matrix<T> force(kParticles, 2);
      double energy = 1e9;
      ops.interaction(*kernel, in.x, &energy, force, in.team);
      std::vector<double> all(force.elements().begin(), force.elements().end());
      all.push_back(energy);
      return all;
    });
  }
}

TEST_CASE_TEMPLATE("small: an inner loop with every kind of term, whole cloud and minibatch", T, float,
                   double) {
  for (const Index minibatch : {Index{0}, Index{40}}) {
    CAPTURE(minibatch);
    Inputs<T> in({.dim = 2, .hidden = {9, 5}, .quadratic_rank = 1});
    std::vector<double> log_density(kParticles, -0.5);
    Objective objective;
    objective.potential = Expression::potential("sum(x^2)", 2).program();
    const Expression f = Expression::internal("t^3 + t*log(t)");
    InternalTerm general{.weight = 0.3, .form = InternalTerm::Form::general};
    general.program = f.program();
    general.surrogate = f.weight();
    objective.internal = {
        {.weight = 0.7}, {.weight = 0.5, .form = InternalTerm::Form::power, .exponent = 2}, general};
    PairKernel kernel{.quadratic = 0.1, .log_coefficient = -0.2};
    objective.interaction.push_back({1.0, kernel});
    InnerProblem<T> problem;
    problem.net = &in.net;
    problem.x = in.x;
    problem.log_density = log_density.data();
    problem.shift = {0.1, -0.2};
    problem.tau = 0.1;
    problem.objective = &objective;
    problem.iterations = 3;
    problem.minibatch = minibatch;
    problem.seed = 5;
    compare<T>([&](const Operations<T>& ops) {
      const std::size_t n = in.theta.size();
      InnerState<T> state{in.theta, std::vector<T>(n), std::vector<T>(n), 0};
      const InnerReport report = ops.inner_loop(problem, state, 3, in.team);
      CHECK(report.iterations == 3);
      CHECK(report.finite);
      return state.theta;
    });
  }
}

TEST_CASE_TEMPLATE("small: solves and the stochastic log-determinant", T, float, double) {
  for (const Architecture& architecture : architectures()) {
    Inputs<T> in(architecture);
    CAPTURE(in.d);
    const Matrix<T> probes = Numbers(41).matrix<T>(kParticles, 2 * in.d, -1, 1);
    // A few steps: a solve that has arrived goes on with rounding errors.
    compare<T>([&](const Operations<T>& ops) {
      Matrix<T> z(kParticles, 2 * in.d);
      const CgOptions options{.iterations = 2};
      CHECK(ops.solve_hessian(in.net, in.theta.data(), in.x, probes, z, options, in.team).indefinite == 0);
      return std::vector<T>(z.elements().begin(), z.elements().end());
    });
    compare<T>([&](const Operations<T>& ops) {
      std::vector<double> estimate(kParticles), variance(kParticles);
      ops.log_det_lanczos(in.net, in.theta.data(), in.x, probes, 2, estimate.data(), variance.data(),
                          in.team);
      estimate.insert(estimate.end(), variance.begin(), variance.end());
      return estimate;
    });
  }
}

TEST_CASE_TEMPLATE("small: distances to a cloud, costs stored and computed anew", T, float, double) {
  // At this epsilon 60 steps meet the marginals to rounding: backends update in orders of their own.
  const Matrix<T> x = Numbers(43).matrix<T>(kParticles, 3, -1, 1);
  DivergenceTerm term;
  term.reference = std::make_shared<const Matrix<double>>(Numbers(47).matrix<double>(40, 3, -0.5, 1.5));
  using Form = DivergenceTerm::Form;
  for (const Form form : {Form::sinkhorn, Form::mmd, Form::energy}) {
    for (const std::ptrdiff_t storage : {std::ptrdiff_t{0}, SinkhornOptions{}.storage}) {
      if (form != Form::sinkhorn && storage == 0) continue;
      CAPTURE(static_cast<int>(form));
      CAPTURE(storage);
      term.form = form;
      term.sinkhorn = {.epsilon = 1, .iterations = 60, .tolerance = 0, .debiased = true, .storage = storage};
      Team team(1);
      compare<T>([&](const Operations<T>& ops) {
        Matrix<T> force(kParticles, 3);
        double value = 1e9;
        ops.divergence(term, {x}, &value, force, nullptr, team);
        std::vector<double> all(force.elements().begin(), force.elements().end());
        all.push_back(value);
        return all;
      });
    }
  }
}

TEST_CASE_TEMPLATE("small: the gradient of a JKO step, log det exact and by solves, with a distance", T,
                   float, double) {
  for (const int d : {2, 5}) {  // from 5 on a warp factorises H
    for (const bool stochastic : {false, true}) {
      CAPTURE(d);
      CAPTURE(stochastic);
      StepCase<T> step({.dim = d, .hidden = {9, 5}, .quadratic_rank = 1}, kParticles);
      DivergenceTerm term;
      term.weight = 0.5;
      term.reference = std::make_shared<const Matrix<double>>(Numbers(53).matrix<double>(20, d, 0.5, 2.5));
      term.sinkhorn = {.epsilon = 1, .iterations = 60, .warm_iterations = 60, .tolerance = 0};
      step.objective.divergence.push_back(term);
      if (stochastic)
        step.problem.log_det = {.method = LogDetOptions::Method::cg, .probes = 2, .iterations = 2};
      Team team(1);
      compare<T>([&](const Operations<T>& ops) { return step.gradient(ops, team); });
    }
  }
}

TEST_CASE_TEMPLATE("large: a cloud that takes the tiles of large clouds", T, float, double) {
#if !defined(BRENIER_TEST_REDUCED)
  const StepCase<T> step({.dim = 2, .hidden = {9, 5}, .quadratic_rank = 1}, 4100);
  Team team(1);
  compare<T>([&](const Operations<T>& ops) { return step.gradient(ops, team); });
#endif
}

TEST_CASE("bulk: draws of 200,000 particles have the host's bits") {
  const Index n = 200'000;
  device::Stream stream;
  const Random random(0x123456789ABCDEFull, RandomStream::minibatch);
  device::DeviceBuffer<double> out(4 * n);
  device::launch(draws<double>, {256, 128, 0, stream, "draws"}, n, random, out.pointer());
  std::vector<double> found(static_cast<std::size_t>(4 * n));
  out.copy_to_host(found, stream);
  Index different = 0;
  for (Index i = 0; i < n; ++i) {
    const auto particle = static_cast<std::uint64_t>(i);
    const auto pair = random.normals(3, 5, particle, 1);
    const double expected[] = {pair[0], pair[1], random.uniform(3, 6, particle),
                               static_cast<double>(random.below(1000, 3, 7, particle))};
    for (Index k = 0; k < 4; ++k) different += found[static_cast<std::size_t>(4 * i + k)] != expected[k];
  }
  CHECK(different == 0);
}
