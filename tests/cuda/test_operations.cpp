// SPDX-License-Identifier: MIT
// Every operation of the cuda backend once, on problems small enough for tools that watch each access
// (compute-sanitizer), and random draws in bulk. The full comparison is tests/kernels/test_backends.cpp.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "brenier/expression.hpp"
#include "kernels/cuda/network/device_net.hpp"
#include "kernels/cuda/step/step_cg.hpp"
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
          {.dim = 5, .hidden = {9, 6}},
          // more layers than tiles take
          {.dim = 2, .hidden = {4, 4, 4, 4, 4, 4}, .residual = true}};
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
    // Adam moves a parameter by its rate however small the gradient is: rounding errors would decide the sign.
    // With an epsilon of the size of gradients it does not.
    std::vector<double> gradient(in.theta.size());
    ref::operations<T>().objective_gradient(problem, in.theta.data(), 0, gradient.data(), in.team);
    for (const double g : gradient) problem.adam.epsilon = std::max(problem.adam.epsilon, std::abs(g) / 100);
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

namespace {

/// products[0]: x_i y_c of a block of 16 x 8 by ProductBlock, products[1]: with both parts of an operand rounded
/// to nearest, as Ootomo and Yokota have it. One warp for 16 elements of x and 8 of y.
template <class T>
BRENIER_KERNEL void product_of_pairs(const T* x, const T* y, T* products, int blocks) {
  using namespace cuda;
  const T *left = x + 16 * block_index(), *right = y + 8 * block_index();
  T* const to = products + 128 * block_index();
  ProductBlock<Tf32x3, T, 1> block(0, 16, 0, 8);
  block.multiply(
      1, [&](int i) { return [=](int) { return left[i]; }; },
      [&](int c) { return [=](int) { return right[c]; }; });
  block.for_elements([&](int i, int c, T value, int) { to[8 * i + c] = value; });

  const int g = lane() / 4, t = lane() % 4;
  T a_hi[4] = {}, a_lo[4] = {}, b_hi[2] = {}, b_lo[2] = {}, main[4] = {}, rest[4] = {};
  const auto split = [](T value, T& hi, T& lo) {
    hi = round_tf32(value);
    lo = round_tf32(value - hi);
  };
  if (t == 0) {
    split(left[g], a_hi[0], a_lo[0]);
    split(left[g + 8], a_hi[1], a_lo[1]);
    split(right[g], b_hi[0], b_lo[0]);
  }
  multiply_add_tf32(main, a_hi, b_hi);
  multiply_add_tf32(rest, a_hi, b_lo);
  multiply_add_tf32(rest, a_lo, b_hi);
  for (int e = 0; e < 4; ++e) {
    const int i = g + e / 2 * 8, c = 2 * t + e % 2;
    to[128 * blocks + 8 * i + c] = main[e] + rest[e];
  }
}

}  // namespace

TEST_CASE("products: an operand split in three instructions loses no more than one that is rounded twice") {
  constexpr int blocks = 2000;
  Numbers numbers(59);
  std::vector<float> x, y, found(2 * 128 * blocks);
  for (int i = 0; i < 16 * blocks; ++i) x.push_back(static_cast<float>(std::exp(numbers(-3, 3))));
  for (int i = 0; i < 8 * blocks; ++i) y.push_back(static_cast<float>(-std::exp(numbers(-3, 3))));
  device::Stream stream;
  device::DeviceBuffer<float> left(16 * blocks), right(8 * blocks), products(2 * 128 * blocks);
  left.copy_to_device(x, stream);
  right.copy_to_device(y, stream);
  device::launch(product_of_pairs<float>, {blocks, 32, 0, stream, "products"}, left.pointer(),
                 right.pointer(), products.pointer(), blocks);
  products.copy_to_host(found, stream);
  double worst[2] = {};
  for (std::size_t k = 0; k < found.size(); ++k) {
    const std::size_t pair = k % (128 * blocks);
    const double exact = static_cast<double>(x[pair / 8]) * static_cast<double>(y[pair / 128 * 8 + pair % 8]);
    double& error = worst[k / (128 * blocks)];
    error = std::max(error, std::abs(static_cast<double>(found[k]) - exact) / std::abs(exact));
  }
  MESSAGE("worst relative errors in 2^-24: " << worst[0] * 0x1p24 << ", rounded twice " << worst[1] * 0x1p24);
  CHECK(worst[0] <= 1.05 * worst[1]);
  CHECK(worst[0] < 0x1p-21);

  // What is not finite stays so.
  for (const float value : {std::numeric_limits<float>::infinity(), std::nanf(""), -std::nanf("0x1fff")}) {
    left.copy_to_device(std::vector<float>(16 * blocks, value), stream);
    device::launch(product_of_pairs<float>, {1, 32, 0, stream, "products"}, left.pointer(), right.pointer(),
                   products.pointer(), blocks);
    products.copy_to_host(found, stream);
    for (int k = 0; k < 128; ++k) CHECK_FALSE(std::isfinite(found[static_cast<std::size_t>(k)]));
  }
}

TEST_CASE("tiles: two blocks of a step have room on a multiprocessor, for the networks of the paper") {
  // Of compute capability 9.0: 228 KiB, of which each block takes 1 KiB for itself.
  constexpr std::size_t half = 228 * 1024 / 2 - 1024;
  const auto bytes = [](int d, bool entropy, auto form) {
    Objective objective;
    objective.potential = Expression::potential("sum(x^2)", d).program();
    cuda::TileTask task{.gradient = true, .step = true};
    if (entropy) task.directions = Directions::unit;
    task.program_rows = static_cast<int>(objective.potential.workspace());
    const Icnn net({.dim = d, .hidden = {100, 20}});
    const cuda::PackedNet packed(net);
    using Form = decltype(form);
    return cuda::tile_bytes<Form>(packed.view(), cuda::TilePlan(packed.view(), task, Form::kParticles));
  };
  using Medium = cuda::TileForm<float, cuda::Tf32x3, 16>;
  using Large = cuda::TileForm<float, cuda::Tf32x3, 32>;
  CHECK(bytes(1, false, Large{}) <= half);
  CHECK(bytes(2, false, Large{}) <= half);
  CHECK(bytes(1, true, Medium{}) <= half);
  CHECK(bytes(2, true, Large{}) > half);  // else tiles of 16 would not be needed
  CHECK(bytes(2, true, Medium{}) <= half);
}

TEST_CASE("arguments of every kernel are below 4 KB") {
  CHECK(sizeof(cuda::TileArgs<double>) < 1024);
  CHECK(sizeof(cuda::StepArgs<double>) < 2048);
}

TEST_CASE("large: tiles of 16, where two of 32 have no room") {
#if !defined(BRENIER_TEST_REDUCED)
#if BRENIER_CUDA
  const Architecture architecture{.dim = 2, .hidden = {100, 20}};
#else
  const Architecture architecture{.dim = 2, .hidden = {9, 5}};
#endif
  const StepCase<float> step(architecture, 4100);
  const cuda::PackedNet net(step.net);
  cuda::TileTask task{.directions = Directions::unit, .gradient = true, .step = true};
  task.program_rows = static_cast<int>(step.objective.potential.workspace());
  for (const InternalTerm& term : step.objective.internal)
    task.surrogate_rows = std::max(task.surrogate_rows, static_cast<int>(term.surrogate.workspace()));
#if !BRENIER_CUDA
  // A device on which this network has room twice with tiles of 16, not with tiles of 32.
  const auto bytes = [&](auto form) {
    using Form = decltype(form);
    return cuda::tile_bytes<Form>(net.view(), cuda::TilePlan(net.view(), task, Form::kParticles));
  };
  device::emulator::Options options = device::emulator::options();
  options.shared_memory = bytes(cuda::TileForm<float, cuda::Tf32x3, 16>{}) +
                          bytes(cuda::TileForm<float, cuda::Tf32x3, 32>{}) + 1024;
  const device::emulator::ScopedOptions scarce(options);
#endif
  CHECK(cuda::choose_tiling<float, cuda::Tf32x3>(net.view(), task, 4100).first == cuda::Tiling::medium);
  Team team(1);
  compare<float>([&](const Operations<float>& ops) { return step.gradient(ops, team); });
#endif
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
