// SPDX-License-Identifier: MIT
// Hutch++: exact where the sketch has the whole range, unbiased where not, and better than plain probes.
#include <doctest/doctest.h>

#include <cmath>

#include "brenier/base/error.hpp"
#include "brenier/hutchpp.hpp"
#include "kernels/operations.hpp"
#include "tests/support/backends.hpp"
#include "tests/support/nets.hpp"
#include "tests/support/spectrum.hpp"

using namespace brenier;
using namespace brenier::test;

namespace {

/// A quadratic u: H = I + B^T B with `rank` rows, at every x.
template <class T>
struct NearIdentity {
  Icnn net;
  std::vector<T> theta;
  NearIdentity(int d, int rank, double size)
      : net({.dim = d, .hidden = {1}, .quadratic_rank = rank, .floor = 0}),
        theta(static_cast<std::size_t>(net.parameters()), T(0)) {
    theta[net.alpha()] = T(1);
    Numbers numbers(31);
    for (Index k = 0; k < Index{rank} * d; ++k)
      theta[net.factor() + k] = static_cast<T>(numbers(-size, size));
  }
};

}  // namespace

TEST_CASE_TEMPLATE("a map that differs from the identity in k directions: the sketch is exact", T, float,
                   double) {
  const int d = 40;
  const NearIdentity<T> map(d, 3, 0.6);
  const Matrix<T> x(5, d, T(0.5));
  const Spectrum spectrum(hessians(map.net, map.theta, x).front());
  for (const Backend<T>& backend : all_backends<T>()) {
    CAPTURE(backend.ops->name);
    Team team(backend.threads);
    std::vector<double> estimate(5), variance(5);
    const HutchppOptions options{.sketch = 5, .probes = 2, .steps = 12, .seed = 3};  // two more than the rank
    log_det_hutchpp<T>(*backend.ops, map.net, map.theta.data(), x, options, estimate.data(), variance.data(),
                       team);
    const double rounding = tol<T>(64) * spectrum.condition() * d;
    for (int i = 0; i < 5; ++i) {
      CHECK(std::abs(estimate[i] - spectrum.log_det()) <= rounding);
      CHECK(std::sqrt(variance[i]) <= rounding);
    }
    // Plain probes, as many, have an error that is seen.
    const HutchppOptions plain{.sketch = 0, .probes = 7, .steps = 12, .seed = 3};
    log_det_hutchpp<T>(*backend.ops, map.net, map.theta.data(), x, plain, estimate.data(), variance.data(),
                       team);
    CHECK(std::sqrt(variance[0]) > 100 * rounding);
  }
}

TEST_CASE("a generic H: no bias, and the variance of the estimate as stated") {
  const int d = 12;
  const Icnn net({.dim = d, .hidden = {31, 11}, .quadratic_rank = 2});
  const std::vector<double> theta = generic_parameters<double>(net, 61);
  const Index n = 2000;  // the same point, with other probes each time
  Matrix<double> x(n, d);
  Numbers numbers(7);
  for (int c = 0; c < d; ++c) x(0, c) = numbers(-1, 1);
  for (Index i = 1; i < n; ++i) std::copy_n(x.row(0), d, x.row(i));
  Matrix<double> one(1, d);
  std::copy_n(x.row(0), d, one.row(0));
  const double exact = Spectrum(hessians(net, theta, one).front()).log_det();
  Team team(2);
  for (const int sketch : {0, 3, d}) {
    CAPTURE(sketch);
    std::vector<double> estimate(n), variance(n);
    log_det_hutchpp<double>(cpu::operations<double>(), net, theta.data(), x,
                            {.sketch = sketch, .probes = 4, .steps = d, .seed = 5}, estimate.data(),
                            variance.data(), team);
    double mean = 0, stated = 0, squares = 0;
    for (Index i = 0; i < n; ++i) {
      mean += estimate[i] / static_cast<double>(n);
      stated += variance[i] / static_cast<double>(n);
    }
    for (Index i = 0; i < n; ++i) squares += std::pow(estimate[i] - mean, 2) / static_cast<double>(n - 1);
    CAPTURE(stated);
    CHECK(std::abs(mean - exact) <= 3 * std::sqrt(squares / static_cast<double>(n)) + 1e-10);
    if (sketch == d) {
      // The whole space, but where d vectors of d random signs are dependent: 23 % of the time for d = 12.
      Index off = 0;
      for (const double found : estimate) off += std::abs(found - exact) > 1e-10;
      CHECK(off < 3 * n / 10);
    } else {
      CHECK(stated == doctest::Approx(squares).epsilon(0.1));
    }
  }
}

TEST_CASE("options of Hutch++") {
  const NearIdentity<double> map(4, 1, 0.5);
  const Matrix<double> x(2, 4), wide(2, 5);
  std::vector<double> estimate(2);
  Team team(1);
  const auto run = [&](MatrixView<const double> points, const HutchppOptions& options) {
    log_det_hutchpp<double>(ref::operations<double>(), map.net, map.theta.data(), points, options,
                            estimate.data(), nullptr, team);
  };
  CHECK_ERROR(run(wide, {}), ShapeError, "dimension 5");
  CHECK_ERROR(run(x, {.sketch = 5}), ValueError, "sketch = 5");
  CHECK_ERROR(run(x, {.probes = 0}), ValueError, "probes = 0");
  CHECK_ERROR(run(x, {.steps = 0}), ValueError, "steps = 0");
}
