// SPDX-License-Identifier: MIT
// Direct optimisation of particles: closed forms, and gradients of every term against differences of F.
#include <doctest/doctest.h>

#include <brenier/brenier.hpp>
#include <cmath>
#include <limits>

#include "brenier/base/error.hpp"
#include "tests/support/capture.hpp"
#include "tests/support/near.hpp"
#include "tests/support/nets.hpp"

using namespace brenier;
using namespace brenier::test;
using Method = DescentOptions::Method;

TEST_CASE("gradient descent on a parabola is geometric, at the share of a particle") {
  const Matrix<double> start = Numbers(3).matrix<double>(7, 3, -1, 1);
  Descent descent(potential("0.5*sum(x^2)", 3), start, {.method = Method::sgd, .rate = 0.7, .threads = 1});
  for (int k = 0; k < 20; ++k) descent.step();
  Matrix<double> expected = start;
  for (double& x : expected.elements()) x *= std::pow(1 - 0.7 / 7, 20);
  CHECK_CLOSE(descent.x(), expected, 1e-14);
  CHECK(descent.steps() == 20);
  double squares = 0;
  for (const double x : expected.elements()) squares += x * x;
  CHECK_REL(descent.functional().total(), squares / 14, 1e-13);
}

TEST_CASE("Adam moves every coordinate by its rate at first, whatever the size of the gradient") {
  const Matrix<double> start = Numbers(5).matrix<double>(6, 2, 0.5, 2);
  Descent descent(potential("1e5*sum(x^2)", 2), start, {.method = Method::adam, .rate = 0.01, .threads = 1});
  descent.step();
  for (std::size_t k = 0; k < start.elements().size(); ++k)
    CHECK_REL(start.elements()[k] - descent.x().elements()[k], 0.01, 1e-9);
}

TEST_CASE("one step of gradient descent is the gradient of F, term by term") {
  const Index n = 9, d = 3;
  Numbers numbers(7);
  const Matrix<double> start = numbers.matrix<double>(n, d, -1, 1);
  const Matrix<double> reference = numbers.matrix<double>(11, d, -1, 1);
  const Icnn net({.dim = static_cast<int>(d), .hidden = {5, 4}});
  const std::pair<const char*, Functional> terms[] = {
      {"potential", potential("sum(x^4) + x[0]*x[1]", d)},
      {"network", 2 * learned_potential({net, generic_parameters<double>(net, 61)}, "V")},
      {"interaction", interaction("0.5*r^2 - log(r)", d)},
      {"sinkhorn", 3 * sinkhorn(reference, {.epsilon = 0.1, .iterations = 10'000, .tolerance = 1e-12})},
      {"debiased",
       sinkhorn(reference, {.epsilon = 0.1, .iterations = 10'000, .tolerance = 1e-12, .debiased = true})},
      {"mmd", mmd(reference, 0.8)},
      {"energy", energy_distance_to(reference)}};
  Functional sum;
  for (const auto& [name, term] : terms) sum = sum + term;
  const auto check = [&](const Functional& functional) {
    Descent descent(functional, start, {.method = Method::sgd, .rate = 1, .threads = 1});
    const auto value = [&](const Matrix<double>& x) {
      return Descent(functional, x, {.threads = 1}).functional().total();
    };
    descent.step();
    Matrix<double> slope(n, d), expected(n, d);
    const double h = 1e-5;
    for (Index i = 0; i < n; ++i) {
      for (Index c = 0; c < d; ++c) {
        slope(i, c) = start(i, c) - descent.x()(i, c);
        Matrix<double> x = start;
        x(i, c) += h;
        const double up = value(x);
        x(i, c) -= 2 * h;
        expected(i, c) = (up - value(x)) / (2 * h);
      }
    }
    CHECK_CLOSE(slope, expected, 1e-7);
  };
  for (const auto& [name, term] : terms) {
    CAPTURE_BOUND(name);
    check(term);
  }
  check(sum);
}

TEST_CASE("descent towards a cloud arrives there") {
  Numbers numbers(9);
  const Matrix<double> start = numbers.matrix<double>(12, 2, -1, 1),
                       reference = numbers.matrix<double>(12, 2, 2, 4);
  Descent descent(sinkhorn(reference, {.epsilon = 1e-3, .iterations = 2000, .debiased = true}), start,
                  {.method = Method::sgd, .rate = 6, .threads = 2});
  const double before = descent.functional().total();
  for (int k = 0; k < 60; ++k) descent.step();
  CHECK(descent.functional().total() < 1e-3 * before);
  CHECK(descent.sinkhorn().solves >= 60);
}

TEST_CASE("Langevin dynamics: without entropy explicit Euler, with it the moments of the Gaussian solution") {
  const Matrix<double> start = Numbers(11).matrix<double>(5, 3, -1, 1);
  Descent euler(potential("0.5*sum(x^2)", 3), start, {.method = Method::langevin, .rate = 0.1, .threads = 1});
  for (int k = 0; k < 7; ++k) euler.step();
  Matrix<double> expected = start;
  for (double& x : expected.elements()) x *= std::pow(0.9, 7);
  CHECK_CLOSE(euler.x(), expected, 1e-14);

  // dX = -X dt + sqrt(2 D) dW from a point: with steps eta the variance is D (1 - (1 - eta)^(2k)) 2/(2 - eta).
  const double eta = 0.05, diffusion = 0.3;
  const Functional functional = diffusion * entropy() + potential("0.5*sum(x^2)", 3);
  const Index n = 20'000;
  const auto moved = [&](std::uint64_t seed, int threads) {
    Descent langevin(functional, Matrix<double>(n, 3, 1.0),
                     {.method = Method::langevin, .rate = eta, .seed = seed, .threads = threads});
    for (int k = 0; k < 20; ++k) langevin.step();
    return langevin.x();
  };
  const Matrix<double> x = moved(3, 1);
  CHECK(x.elements() == moved(3, 2).elements());
  CHECK(x.elements() != moved(4, 2).elements());
  const double fall = std::pow(1 - eta, 20);
  const double variance = diffusion * (1 - fall * fall) * 2 / (2 - eta);
  for (Index c = 0; c < 3; ++c) {
    double mean = 0, square = 0;
    for (Index i = 0; i < n; ++i) mean += x(i, c) / static_cast<double>(n);
    for (Index i = 0; i < n; ++i) square += std::pow(x(i, c) - mean, 2) / static_cast<double>(n);
    CHECK(std::abs(mean - fall) < 5 * std::sqrt(variance / static_cast<double>(n)));
    CHECK(std::abs(square - variance) < 5 * variance * std::sqrt(2.0 / static_cast<double>(n)));
  }
  CHECK_ERROR(Descent(porous_medium(2), start, {.method = Method::langevin}), ValueError,
              "no entropy of weight");
  CHECK_ERROR(Descent(entropy(), start), ValueError, "internal energy");
}

TEST_CASE(
    "the curvature of F at the particles is that of V and W, but for kinks, and looking changes nothing") {
  const Matrix<double> x = Numbers(5).matrix<double>(200, 3, -1, 1);
  const auto curvature = [&](const Functional& f) {
    return Descent(f, x, {.method = Method::langevin, .rate = 0.1}).curvature();
  };
  CHECK_REL(curvature(potential("90*x[0]^2 + 10*x[1]^2 - x[2]", 3)), 180, 1e-6);
  CHECK_REL(curvature(2 * potential("3*x[0]*x[1] - 20*x[2]^2", 3) + entropy()), 80, 1e-6);
  CHECK_REL(curvature(interaction("0.5*r^2", 3)), 1, 0.2);
  CHECK(curvature(potential("sum(abs(x))", 3)) < 1e-6);
  CHECK(std::isnan(curvature(potential("1e300*exp(1e3*sum(x^2))", 3))));
  // Of a cloud that is small beside where it lies: what nine tenths of 12 (x - 1e6)^2 are below.
  Matrix<double> away(201, 1);
  for (Index i = 0; i < 201; ++i) away(i, 0) = 1e6 + 0.01 * static_cast<double>(i - 100);
  CHECK_REL(
      Descent(potential("(x[0] - 1e6)^4", 1), away, {.method = Method::langevin, .rate = 0.1}).curvature(),
      12 * 0.9 * 0.9, 0.03);

  SinkhornOptions plans;
  plans.epsilon = 0.1;
  const Functional transport = sinkhorn(Numbers(6).matrix<double>(50, 3, -1, 1), plans);
  Descent looked(transport, x, {.method = Method::sgd, .rate = 1}),
      plain(transport, x, {.method = Method::sgd, .rate = 1});
  for (int k = 0; k < 3; ++k) {
    looked.step();
    looked.curvature();
    plain.step();
  }
  CHECK(looked.x().elements() == plain.x().elements());
}

TEST_CASE("what descent rejects, and what it leaves as it was") {
  const Matrix<double> x(3, 2, 1.0);
  CHECK_ERROR(Descent(Functional(), x), ValueError, "no terms");
  CHECK_ERROR(Descent(entropy(), x), ValueError, "internal energy");
  CHECK_ERROR(Descent(potential("sum(x)", 3), x), ShapeError, "dimension 3");
  CHECK_ERROR(Descent(potential("time*sum(x)", 2), x), ValueError, "V depends on `time`");
  CHECK_ERROR(Descent(potential("sum(x)", 2), Matrix<double>()), ValueError, "no particles");
  CHECK_ERROR(Descent(potential("sum(x)", 2), x, {.rate = 0}), ValueError, "rate = 0");
  CHECK_ERROR(Descent(potential("sum(x)", 2), x, {.device = "abacus"}), ValueError, "abacus");
  Matrix<double> bad = x;
  bad(1, 1) = std::numeric_limits<double>::quiet_NaN();
  CHECK_ERROR(Descent(potential("sum(x)", 2), bad), ValueError, "nan");
  Descent runaway(potential("sum(x^4)", 2), x, {.method = Method::sgd, .rate = 1e200});
  runaway.step();
  const std::vector<double> before = runaway.x().elements();
  CHECK_ERROR(runaway.step(), NumericalError, "1e+200");
  CHECK(runaway.x().elements() == before);
  CHECK(runaway.steps() == 1);
}
