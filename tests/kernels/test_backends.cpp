// SPDX-License-Identifier: MIT
// One body for every backend: each operation against the reference, float and double, at sizes that do not
// fit tiles, with padded rows.
#include <doctest/doctest.h>

#include <limits>
#include <string_view>

#include "bench/operations/cases.hpp"
#include "brenier/expression.hpp"
#include "brenier/tape.hpp"
#include "kernels/operations.hpp"
#include "tests/support/capture.hpp"
#include "tests/support/cases.hpp"
#include "tests/support/step_case.hpp"

using namespace brenier;
using namespace brenier::test;

namespace {

// With a sanitizer over the emulator: tiles of 8 or 32 particles of which the last is not full.
const std::vector<Index> kSizes =
    kReduced ? std::vector<Index>{33} : std::vector<Index>{1, 7, 31, 33, 64, 65, 257};
const std::vector<Index> kStepSizes = kReduced ? std::vector<Index>{33} : std::vector<Index>{1, 33, 300};
constexpr Index kLoopSize = kReduced ? 130 : 700;
constexpr Index kMinibatch = kReduced ? 40 : 130;

/// Largest error of a gradient, each tensor relative to its own largest element: a wrong bias does not hide
/// behind large weights.
double gradient_error(const Icnn& net, const std::vector<double>& actual,
                      const std::vector<double>& expected) {
  double worst = 0;
  for (const ParameterTensor& tensor : net.tensors()) {
    const auto part = [&](const std::vector<double>& from) {
      return std::span<const double>(from).subspan(tensor.offset, tensor.size());
    };
    worst = std::max(worst, worst_error<double, double>(part(actual), part(expected)));
  }
  return worst;
}

}  // namespace

TEST_CASE_TEMPLATE("every operation of the benchmarks is as exact as its case says", T, float, double) {
  for (const Backend<T>& backend : backends<T>()) {
    Team team(backend.threads);
    for (const auto& [dim, hidden] : {std::pair{1, std::vector<int>{9, 5}}, {3, {9, 5, 4}}, {5, {17}}}) {
      const Icnn net({.dim = dim, .hidden = hidden});
      const bench::OperationData<T> data(net, kReduced ? 33 : 70);
      for (const bench::OperationCase& op : bench::operation_cases(net)) {
        CAPTURE(backend.ops->name);
        CAPTURE(op.name);
        CAPTURE_BOUND(dim);
        const bench::OperationCase::Accuracy found = op.accuracy(*backend.ops, data, data.n, team);
        CHECK(found.error <= op.template tolerance<T>());
        CHECK(found.residual <= 10 * op.template tolerance<T>());  // ten steps are enough in these dimensions
      }
    }
  }
}

TEST_CASE_TEMPLATE("evaluate and hessian_vector equal the reference", T, float, double) {
  Team one(1);
  for_each_case<T>(31, kSizes, [&](const Case<T>& at) {
    const Icnn& net = at.net;
    const Index n = at.n, d = net.dim();
    Numbers numbers(37);
    const Padded<T> x(numbers.matrix<T>(n, d, -2, 2));
    const Padded<T> p(numbers.matrix<T>(n, d, -1, 1));
    struct Result {
      std::vector<T> u;
      Padded<T> displacement, hessian, hp;
      std::vector<double> log_det;
    };
    const auto run = [&](const Operations<T>& by, Team& threads) {
      Result r{std::vector<T>(n), Padded<T>(n, d), Padded<T>(n, d * d), Padded<T>(n, d),
               std::vector<double>(n)};
      MapOutputs<T> out;
      out.potential = r.u.data();
      out.displacement = r.displacement;
      out.hessian = r.hessian;
      out.log_det = r.log_det.data();
      by.evaluate(net, at.theta.data(), x, out, threads);
      by.hessian_vector(net, at.theta.data(), x, p, r.hp, threads);
      return r;
    };
    const Result expected = run(ref::operations<T>(), one);
    const Result actual = run(at.ops, at.team);
    const double tolerance = net_tolerance<T>(net, 1);
    CHECK_CLOSE(actual.u, expected.u, tolerance);
    CHECK_CLOSE(actual.displacement.elements(), expected.displacement.elements(), tolerance);
    CHECK_CLOSE(actual.hessian.elements(), expected.hessian.elements(), tolerance);
    CHECK_CLOSE(actual.hp.elements(), expected.hp.elements(), tolerance);
    // log det adds d terms, each with the relative error of a pivot.
    CHECK_CLOSE(actual.log_det, expected.log_det, tolerance * static_cast<double>(d));
    CHECK(actual.displacement.guards_intact());
    CHECK(actual.hessian.guards_intact());
    CHECK(actual.hp.guards_intact());
  });
}

TEST_CASE_TEMPLATE("a displacement near the identity keeps its digits, for quadratic parts of any rank", T,
                   float, double) {
  // grad u - x = B^T B x, six digits smaller than x: a product with I + B^T B would leave none of them in float.
  constexpr int d = 7;
  constexpr Index n = 33;
  for (const int rank : {1, 3, 4, 7, 9}) {
    const Icnn net({.dim = d, .hidden = {3}, .quadratic_rank = rank});
    Numbers numbers(41);
    std::vector<T> theta(net.parameters(), T(0));
    theta[net.alpha()] = 1;
    for (int k = 0; k < rank * d; ++k) theta[net.factor() + k] = static_cast<T>(1e-3 * numbers(-1, 1));
    const Matrix<T> x = numbers.matrix<T>(n, d, -2, 2);
    std::vector<T> expected;
    for (Index i = 0; i < n; ++i) {
      for (int a = 0; a < d; ++a) {
        double sum = 0;
        for (int r = 0; r < rank; ++r) {
          double projection = 0;
          for (int b = 0; b < d; ++b) projection += double{theta[net.factor() + r * d + b]} * double{x(i, b)};
          sum += double{theta[net.factor() + r * d + a]} * projection;
        }
        expected.push_back(static_cast<T>(sum));
      }
    }
    for (const Backend<T>& backend : backends<T>()) {
      CAPTURE(backend.ops->name);
      CAPTURE(rank);
      Team team(backend.threads);
      Matrix<T> displacement(n, d);
      MapOutputs<T> out;
      out.displacement = displacement;
      backend.ops->evaluate(net, theta.data(), x, out, team);
      // Sums of d and rank terms, none of which is larger than the largest displacement by more than their number.
      CHECK_CLOSE(displacement.elements(), expected, 4.0 * (d + rank) * std::numeric_limits<T>::epsilon());
    }
  }
}

TEST_CASE_TEMPLATE("log det is NaN where H is not positive definite", T, float, double) {
  const Icnn net({.dim = 2, .hidden = {3}, .learn_alpha = false});
  std::vector<T> theta(net.parameters(), T(0));
  theta[net.alpha()] = T(-1);
  for (const Backend<T>& backend : backends<T>()) {
    Team team(backend.threads);
    Matrix<T> x(70, 2, T(0.5));
    std::vector<double> log_det(70, 0.0);
    MapOutputs<T> out;
    out.log_det = log_det.data();
    backend.ops->evaluate(net, theta.data(), x, out, team);
    for (const double value : log_det) CHECK(std::isnan(value));
  }
}

TEST_CASE_TEMPLATE("jet_gradient equals the reference for every kind of seed", T, float, double) {
  Team one(1);
  for_each_case<T>(41, kSizes, [&](const Case<T>& at) {
    const Icnn& net = at.net;
    const Index n = at.n, d = net.dim();
    Numbers numbers(43);
    const Padded<T> x(numbers.matrix<T>(n, d, -2, 2));
    const Matrix<T> a = numbers.matrix<T>(n, 1, -1, 1);
    // By themselves of one sign: the sums of some tensors have nothing else that could outweigh what
    // cancels.
    const Matrix<T> positive = Numbers(45).matrix<T>(n, 1, 0.2, 1);
    const Padded<T> v(numbers.matrix<T>(n, d, -1, 1));
    const Padded<T> q(numbers.matrix<T>(n, 3 * d, -1, 1));
    const Padded<T> p(numbers.matrix<T>(n, 3 * d, -1, 1));
    Matrix<T> metric = numbers.matrix<T>(n, d * d, -1, 1);
    for (Index i = 0; i < n; ++i) {
      for (Index b = 0; b < d; ++b) {
        for (Index c = 0; c < b; ++c) metric(i, b * d + c) = metric(i, c * d + b);
      }
    }
    for (const char* kind : {"v", "a", "a and v", "metric", "single", "pairs"}) {
      CAPTURE(kind);
      JetSeeds<T> seeds;
      const std::string k = kind;
      if (k != "a") seeds.v = v;
      if (k != "v" && k != "metric") seeds.a = a.data();
      if (k == "a") seeds.a = positive.data();
      if (k == "metric") seeds.metric = metric;
      if (k == "single" || k == "pairs") {
        seeds.directions = 3;
        seeds.q = q;
      }
      if (k == "pairs") seeds.p = p;
      std::vector<double> expected(net.parameters()), actual(net.parameters(), 1e9);
      ref::operations<T>().jet_gradient(net, at.theta.data(), x, seeds, expected.data(), one);
      at.ops.jet_gradient(net, at.theta.data(), x, seeds, actual.data(), at.team);
      CHECK_CLOSE(actual, expected, net_tolerance<T>(net, n));
      CHECK(gradient_error(net, actual, expected) <=
            4 * net_tolerance<T>(net, n));  // small tensors are differences
    }
  });
}

namespace {

std::vector<PairKernel> pair_kernels(int d) {
  PairKernel radial{.form = PairKernel::Form::radial};
  radial.program = Expression::interaction("r^4/4 - exp(-r)", d).program();
  PairKernel vector{.form = PairKernel::Form::vector};
  vector.program = Expression::interaction("exp(-sum(x^2)) + cos(x[0])", d).program();
  std::vector<PairKernel> kernels = {quadratic_log(0.5, -1, 0.25), quadratic_log(0.5, 0, 0),
                                     quadratic_log(0, 1, 0), radial};
  if (d > 1) kernels.push_back(vector);
  return kernels;
}

}  // namespace

TEST_CASE_TEMPLATE("interactions equal the reference", T, float, double) {
  Team one(1);
  for (const Backend<T>& backend : backends<T>()) {
    Team team(backend.threads);
    for (const int d : {1, 2, 3, 5}) {
      const std::vector<PairKernel> kernels = pair_kernels(d);
      for (std::size_t k = 0; k < kernels.size(); ++k) {
        for (const Index n : {Index{1}, Index{2}, Index{33}, Index{300}}) {
          if (kReduced && n == 300) continue;
          CAPTURE(backend.ops->name);
          CAPTURE(d);
          CAPTURE(k);
          CAPTURE(n);
          Numbers numbers(47);
          Matrix<T> cloud = numbers.matrix<T>(n, d, -1, 1);
          if (n > 30) {  // two particles in one place
            for (Index c = 0; c < d; ++c) cloud(7, c) = cloud(20, c);
          }
          const Padded<T> y(cloud);
          double expected_energy = 0, energy = 1e9;
          Padded<T> expected(n, d), actual(n, d);
          ref::operations<T>().interaction(kernels[k], y, &expected_energy, expected, one);
          backend.ops->interaction(kernels[k], y, &energy, actual, team);
          const double tolerance = tol<T>(20 * std::sqrt(static_cast<double>(n)));
          CHECK_REL(energy, expected_energy, tolerance * 10);
          CHECK_CLOSE(actual.elements(), expected.elements(), tolerance);
        }
      }
    }
  }
}

TEST_CASE_TEMPLATE("logarithms of the smallest and the largest distances", T, float, double) {
  // Whole multiples of a power of two, whose squares are exact, also where they are denormal.
  constexpr Index n = 150;
  const int smallest = std::is_same_v<T, float> ? -70 : -530, largest = std::is_same_v<T, float> ? 55 : 500;
  for (const Backend<T>& backend : backends<T>()) {
    if (!std::string_view(backend.ops->name).starts_with("cpu")) continue;
    Team team(backend.threads);
    for (const int power : {smallest, 0, largest}) {
      CAPTURE(backend.ops->name);
      CAPTURE(power);
      Matrix<T> y(n, 1);
      for (Index i = 0; i < n; ++i) y(i, 0) = static_cast<T>(std::ldexp(static_cast<double>(i), power));
      double expected = 0, energy = 1e9;
      for (Index i = 0; i < n; ++i) {
        for (Index j = 0; j < i; ++j)
          expected += std::log(static_cast<double>(i - j)) + power * std::log(2.0);
      }
      backend.ops->interaction(quadratic_log(0, 1, 0), y, &energy, {}, team);
      CHECK_REL(energy, expected * 2 / (n * (n - 1)) / 2, tol<T>(4));
      y(3, 0) = std::numeric_limits<T>::infinity();
      backend.ops->interaction(quadratic_log(0, 1, 0), y, &energy, {}, team);
      CHECK_FALSE(std::isfinite(energy));
    }
  }
}

TEST_CASE_TEMPLATE("programs equal the reference, every instruction", T, float, double) {
  Team one(1);
  const char* texts[] = {
      "sum(x^2)/2",
      "sum(exp(x) + log(2 + x) + sqrt(2 + x) + abs(x - 0.1) + sin(x)*cos(2*x))",
      "sum(tanh(x) + softplus(3*x) + sigmoid(x)) / norm(x)",
      "max(x[0], 0.2) + min(dot(x, x), 1.5) + x[1]^3 + 2^x[2]",
      "dot(x - b, A*(x - b))",
      "sum(erf(x)) + atan2(x[0], 0.3 - x[1])",
      "where(x[0] < 0.1, sum(x^2), log(x[0]) + sqrt(x[0] - 0.05)) + where(x[1] >= 0, x[1]^0.3/0.001, x[2])",
      "tanh(exp(150*x[0])) + 1/(1 + exp(-400*x[1])) + 0.1^(8^(99*x[2]))",  // overflows, on both sides
      "sigmoid(x[0]/0) + tanh(1/max(x[1], 0)) + max(log(max(x[2], 0)), -3) + exp(-1/max(x[0], 0))",  // poles
      "3",
  };
  const Parameters parameters = {
      {"b", Parameter::vector({0.1, -0.2, 0.3})},
      {"A", Parameter::matrix([] {
         Matrix<double> a(3, 3);
         for (Index k = 0; k < 9; ++k) a.elements()[k] = 0.1 * static_cast<double>(k) - 0.3;
         return a;
       }())},
  };
  for (const Backend<T>& backend : backends<T>()) {
    Team team(backend.threads);
    for (const char* text : texts) {
      const Program program = Expression::potential(text, 3, parameters).program();
      for (const Index n : kSizes) {
        CAPTURE(backend.ops->name);
        CAPTURE(text);
        CAPTURE(n);
        Numbers numbers(53);
        const Padded<T> x(numbers.matrix<T>(n, 3, -1.5, 1.5));
        std::vector<T> expected(n), value(n);
        Padded<T> expected_gradient(n, 3), gradient(n, 3);
        ref::operations<T>().evaluate_program(program, x, expected.data(), expected_gradient, one);
        for (const T slope : expected_gradient.elements()) CHECK(std::isfinite(slope));
        backend.ops->evaluate_program(program, x, value.data(), gradient, team);
        CHECK_CLOSE(value, expected, tol<T>(30));
        CHECK_CLOSE(gradient.elements(), expected_gradient.elements(), tol<T>(200));
      }
    }
  }
}

namespace {

/// Every kind of term, or none between particles.
StepTerms terms(int d, bool interacting) {
  StepTerms out;
  if (interacting) out.interaction = pair_kernels(d);
  return out;
}

}  // namespace

TEST_CASE_TEMPLATE("the gradient of a JKO step equals the reference", T, float, double) {
  Team one(1);
  for_each_case<T>(61, kStepSizes, [&](const Case<T>& at) {
    const Icnn& net = at.net;
    const Index n = at.n;
    for (const bool interacting : {false, true}) {
      for (const Index minibatch : {Index{0}, kMinibatch}) {
        CAPTURE(interacting);
        CAPTURE(minibatch);
        const StepCase<T> step(net.architecture(), n, terms(net.dim(), interacting), minibatch);
        const std::vector<double> expected = step.gradient(ref::operations<T>(), one);
        const std::vector<double> actual = step.gradient(at.ops, at.team);
        // Inverses of H and pair forces amplify rounding beyond the network's own sums.
        CHECK_CLOSE(actual, expected, 8 * net_tolerance<T>(step.net, 16));
        CHECK(gradient_error(step.net, actual, expected) <= 16 * net_tolerance<T>(step.net, 16));
      }
    }
  });
}

namespace {

/// A learned potential with generic parameters.
NetworkTerm learned(const Architecture& architecture, double weight) {
  NetworkTerm term{weight, std::make_shared<const Icnn>(architecture), nullptr};
  term.theta = std::make_shared<const std::vector<double>>(generic_parameters<double>(*term.net, 67));
  return term;
}

/// A residual network without quadratic term, and a plain one with, whose weight is negative.
std::vector<NetworkTerm> learned_potentials(int d) {
  NetworkTerm plain = learned({.dim = d, .hidden = {7}, .learn_alpha = false}, 1.2);
  std::vector<double> theta = *plain.theta;
  theta[plain.net->alpha()] = 0;
  plain.theta = std::make_shared<const std::vector<double>>(theta);
  const Architecture curved{.dim = d, .hidden = {9, 9}, .residual = true, .quadratic_rank = 2};
  return {plain, learned(curved, -0.3)};
}

}  // namespace

TEST_CASE_TEMPLATE("learned potentials in a JKO step equal the reference", T, float, double) {
  Team one(1);
  for (const Backend<T>& backend : backends<T>()) {
    Team team(backend.threads);
    for (const int d : {1, 2, 5}) {
      for (const Index n : kStepSizes) {
        for (const bool interacting : {false, true}) {
          for (const LogDetOptions::Method method :
               {LogDetOptions::Method::exact, LogDetOptions::Method::cg}) {
            CAPTURE(backend.ops->name);
            CAPTURE(d);
            CAPTURE(n);
            CAPTURE(interacting);
            CAPTURE(static_cast<int>(method));
            const Index minibatch = n == 33 ? 0 : 70;
            StepCase<T> step({.dim = d, .hidden = {12, 6}}, n, terms(d, interacting), minibatch);
            step.objective.network = learned_potentials(d);
            step.problem.log_det = {.method = method, .iterations = 3};
            const std::vector<double> expected = step.gradient(ref::operations<T>(), one);
            const std::vector<double> actual = step.gradient(*backend.ops, team);
            CHECK_CLOSE(actual, expected, 8 * net_tolerance<T>(step.net, 16));
            CHECK(gradient_error(step.net, actual, expected) <= 16 * net_tolerance<T>(step.net, 16));
          }
        }
      }
    }
  }
}

TEST_CASE("a network that is a quadratic gives the gradient of the program for the same potential") {
  // Far from the origin, where y + m has few digits left in float: the frame of the cloud is what counts.
  const int d = 3;
  auto net = std::make_shared<const Icnn>(Architecture{.dim = d, .hidden = {1}, .quadratic_rank = 1});
  std::vector<double> theta(net->parameters(), 0.0);
  theta[net->alpha()] = 2;
  for (int c = 0; c < d; ++c) {
    theta[net->factor() + c] = c + 1.0;
    theta[net->output_input() + c] = 1e4 * (2 + 6 * (c + 1.0));  // the minimum is at (-1e4, -1e4, -1e4)
  }
  const auto shared = std::make_shared<const std::vector<double>>(theta);
  const auto run = [&]<class T>(const Backend<T>& backend, double tolerance) {
    CAPTURE(backend.ops->name);
    Team team(backend.threads);
    StepCase<T> step({.dim = d, .hidden = {6, 5}}, 40);
    step.problem.shift.assign(d, -1e4);
    StepCase<double> exact({.dim = d, .hidden = {6, 5}}, 40);
    const std::string form = "(x[0] + 2*x[1] + 3*x[2])^2/2 + sum(x^2)";
    // The reference has the minimum at the origin, and the cloud around it.
    exact.problem.shift.assign(d, 0.0);
    exact.objective.potential = Expression::potential(form, d).program();
    for (Index i = 0; i < 40 * d; ++i) exact.x.elements()[i] = static_cast<double>(step.x.elements()[i]);
    step.objective.potential = {};
    step.objective.network = {{1.0, net, shared}};
    exact.theta.assign(step.theta.begin(), step.theta.end());
    Team one(1);
    CHECK_CLOSE(step.gradient(*backend.ops, team, 0), exact.gradient(ref::operations<double>(), one, 0),
                tolerance);
  };
  // In double the constants of the network, near 1e6, leave 1e-10 of its slopes near 1.
  for (const Backend<double>& backend : all_backends<double>()) run(backend, 1e-9);
  for (const Backend<float>& backend : all_backends<float>()) run(backend, 2e-5);
}

#if !defined(BRENIER_TEST_REDUCED)

TEST_CASE_TEMPLATE("learned potentials beyond the shared memory of a block equal the reference", T, float,
                   double) {
  StepCase<T> step({.dim = 2, .hidden = {12, 6}}, 40, terms(2, true));
  step.objective.network = {learned({.dim = 2, .hidden = {320, 320, 320}, .residual = true}, 0.8)};
  const double tolerance = 8 * net_tolerance<T>(*step.objective.network[0].net, 16);
  for_each_backend<T>(
      [&](const Operations<T>& ops, Team& team) { return step.gradient(ops, team); },
      [&](const auto& actual, const auto& expected) { CHECK_CLOSE(actual, expected, tolerance); });
}

TEST_CASE_TEMPLATE("networks beyond the shared memory of a block equal the reference", T, float, double) {
  // 200,000 parameters and their gradients: no tile of a GPU holds them.
  const StepCase<T> step({.dim = 2, .hidden = {320, 320, 320}, .residual = true, .quadratic_rank = 1}, 5,
                         terms(2, true));
  const Icnn& net = step.net;
  const std::vector<T>& theta = step.theta;
  struct Result {
    std::vector<double> gradient, curvature;  // log det, H x
  };
  const auto run = [&](const Operations<T>& ops, Team& team) {
    Result r{step.gradient(ops, team), std::vector<double>(5)};
    MapOutputs<T> outputs;
    outputs.log_det = r.curvature.data();
    ops.evaluate(net, theta.data(), step.x, outputs, team);
    Matrix<T> product(5, 2);
    ops.hessian_vector(net, theta.data(), step.x, step.x, product, team);
    r.curvature.insert(r.curvature.end(), product.elements().begin(), product.elements().end());
    return r;
  };
  for_each_backend<T>(run, [&](const Result& actual, const Result& expected) {
    CHECK_CLOSE(actual.gradient, expected.gradient, 8 * net_tolerance<T>(net, 16));
    CHECK(gradient_error(net, actual.gradient, expected.gradient) <= 16 * net_tolerance<T>(net, 16));
    CHECK_CLOSE(actual.curvature, expected.curvature, 2 * net_tolerance<T>(net, 1));
  });
}

TEST_CASE_TEMPLATE("large clouds equal the reference, with forces too", T, float, double) {
  struct Large {
    Architecture architecture;
    Index n;
    bool interacting;
  };
  // The layered form of the cuda backend takes 8192 particles at a time; its tiles are larger above 4096.
  const std::vector<Large> clouds = {{{.dim = 1, .hidden = {3, 2}}, 8200, true},
                                     {{.dim = 2, .hidden = {33, 9}, .quadratic_rank = 1}, 4100, false}};
  for (const auto& [architecture, n, interacting] : clouds) {
    CAPTURE_BOUND(n);
    StepCase<T> step(architecture, n);
    if (interacting) step.objective.interaction.push_back({0.4, quadratic_log(0.5, 0, 0)});
    const Icnn& net = step.net;
    struct Result {
      std::vector<double> gradient;
      std::vector<T> u;
    };
    const auto run = [&](const Operations<T>& ops, Team& team) {
      Result r{step.gradient(ops, team), std::vector<T>(static_cast<std::size_t>(step.x.rows()))};
      MapOutputs<T> outputs;
      outputs.potential = r.u.data();
      ops.evaluate(net, step.theta.data(), step.x, outputs, team);
      return r;
    };
    for_each_backend<T>(run, [&](const Result& actual, const Result& expected) {
      CHECK(gradient_error(net, actual.gradient, expected.gradient) <= 4 * net_tolerance<T>(net, 16));
      CHECK_CLOSE(actual.u, expected.u, net_tolerance<T>(net, 1));
    });
  }
}

#endif

TEST_CASE("the inner loop follows the reference, and its bits do not depend on the number of threads") {
  for (const bool interacting : {false, true}) {
    StepCase<double> step({.dim = 2, .hidden = {17, 5}, .quadratic_rank = 1}, kLoopSize,
                          terms(2, interacting));
    if (!interacting) step.objective.network = learned_potentials(2);
    check_inner_loop(
        step, 12, 1e-9,
        [](const InnerReport& expected, const InnerReport& found) {
          CHECK(found.gradient < found.first_gradient);
          CHECK_REL(found.first_gradient, expected.first_gradient, 1e-11);
        },
        [](const Backend<double>&, const std::vector<double>&) {});
  }
}

TEST_CASE("the inner loop leaves alone what has the rate 0: w, a and b of an output with an activation") {
  const StepCase<double> step({.dim = 2,
                               .hidden = {9, 5},
                               .activation = Activation::leaky_relu,
                               .first_layer = FirstLayer::squared,
                               .output_activation = true,
                               .learn_alpha = false},
                              100, {.internal = {}});
  Team one(1);
  InnerState<double> expected = step.state();
  ref::operations<double>().inner_loop(step.problem, expected, 12, one);
  for (const Backend<double>& backend : all_backends<double>()) {
    CAPTURE(backend.ops->name);
    Team team(backend.threads);
    InnerState<double> actual = step.state();
    backend.ops->inner_loop(step.problem, actual, 12, team);
    CHECK_CLOSE(actual.theta, expected.theta, 1e-9);
    for (const ParameterTensor& tensor : step.net.tensors()) {
      // Behind the first layer biases move bends alone, and no gradient sees these.
      if (tensor.rate > 0 && tensor.offset > 0 && tensor.name.ends_with("bias")) continue;
      CAPTURE(tensor.name);
      const auto begin = static_cast<std::ptrdiff_t>(tensor.offset),
                 end = begin + static_cast<std::ptrdiff_t>(tensor.size());
      const bool still =
          std::equal(step.theta.begin() + begin, step.theta.begin() + end, actual.theta.begin() + begin);
      CHECK(still == (tensor.rate == 0));
    }
  }
}

TEST_CASE("the inner loop can be interrupted and continued, and stops on its tolerance") {
  for (const Backend<float>& backend : all_backends<float>()) {
    CAPTURE(backend.ops->name);
    StepCase<float> step({.dim = 1, .hidden = {12, 6}}, 500);
    Team team(backend.threads);
    InnerState<float> whole = step.state();
    backend.ops->inner_loop(step.problem, whole, 12, team);

    InnerState<float> parts = step.state();
    backend.ops->inner_loop(step.problem, parts, 5, team);
    CHECK(parts.iteration == 5);
    backend.ops->inner_loop(step.problem, parts, 12, team);
    CHECK(parts.theta == whole.theta);

    std::atomic<bool> interrupt{true};
    step.problem.interrupt = &interrupt;
    InnerState<float> stopped = step.state();
    const InnerReport report = backend.ops->inner_loop(step.problem, stopped, 12, team);
    CHECK(report.interrupted);
    CHECK(report.iterations == 1);
    CHECK(stopped.iteration == 1);
    step.problem.interrupt = nullptr;

    step.problem.tolerance = 0.999;
    InnerState<float> early = step.state();
    const InnerReport converged = backend.ops->inner_loop(step.problem, early, 12, team);
    CHECK(converged.converged);
    CHECK(converged.iterations < 12);
    CHECK(converged.gradient <= 0.999 * converged.first_gradient);
  }
}

TEST_CASE("a gradient that is not finite ends the inner loop and leaves theta alone") {
  for (const Backend<double>& backend : all_backends<double>()) {
    CAPTURE(backend.ops->name);
    StepCase<double> step({.dim = 1, .hidden = {5}}, 100);
    step.log_density[40] = std::numeric_limits<double>::quiet_NaN();
    Team team(backend.threads);
    InnerState<double> state = step.state();
    const InnerReport report = backend.ops->inner_loop(step.problem, state, 12, team);
    CHECK_FALSE(report.finite);
    CHECK(report.iterations == 0);
    CHECK(state.theta == step.state().theta);
  }
}

TEST_CASE("a density of zero does no harm: its particles weigh nothing in a porous medium") {
  for (const Backend<double>& backend : all_backends<double>()) {
    CAPTURE(backend.ops->name);
    StepCase<double> step({.dim = 1, .hidden = {5}}, 100);
    step.log_density[99] = -std::numeric_limits<double>::infinity();
    step.objective.internal = {{.form = InternalTerm::Form::power, .exponent = 2}};
    Team team(backend.threads);
    for (const double g : step.gradient(*backend.ops, team, 0)) CHECK(std::isfinite(g));
  }
}
