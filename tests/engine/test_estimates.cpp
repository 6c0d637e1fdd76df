// SPDX-License-Identifier: MIT
// Densities that are estimated from points. The numbers of SciPy and scikit-learn: density_reference.py.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <vector>

#include "brenier/base/error.hpp"
#include "brenier/density.hpp"
#include "brenier/gaussian_mixture.hpp"
#include "engine/src/density/quantiles.hpp"

using namespace brenier;

namespace {

constexpr double kEps = std::numeric_limits<double>::epsilon();

double normal(double x) {
  return std::exp(-0.5 * x * x) / std::sqrt(2 * std::numbers::pi);
}

/// The points of density_reference.py.
Matrix<double> reference_points() {
  Matrix<double> out(40, 2);
  for (int i = 0; i < 40; ++i) {
    out(i, 0) = std::sin(1.3 * i) + 0.02 * i;
    out(i, 1) = std::cos(2.1 * i) * (1 + 0.05 * i);
  }
  return out;
}

/// Half of the first 20 of them, moved, after all of them.
Matrix<double> with_lump(double x, double y) {
  const Matrix<double> points = reference_points();
  Matrix<double> out(60, 2);
  for (Index i = 0; i < 60; ++i) {
    out(i, 0) = i < 40 ? points(i, 0) : 0.5 * points(i - 40, 0) + x;
    out(i, 1) = i < 40 ? points(i, 1) : 0.5 * points(i - 40, 1) + y;
  }
  return out;
}

Matrix<double> column(const std::vector<double>& values) {
  Matrix<double> out(static_cast<Index>(values.size()), 1);
  out.elements() = values;
  return out;
}

double at(const Density& density, const std::vector<double>& x) {
  return density.log_density(x);
}

}  // namespace

TEST_CASE("kernel estimate: one point is a Gaussian, two are the mean of two") {
  const Density one = Density::kde(column({1.5}).view(), 0.5);
  for (const double x : {-3.0, 1.5, 2.25, 40.0})
    CHECK(at(one, {x}) == doctest::Approx(at(Density::gaussian(1, 1.5, 0.25), {x})).epsilon(8 * kEps));
  const Density two = Density::kde(column({-1, 2}).view(), 0.5);
  for (const double x : {-1.0, 0.5, 0.7, 2.4})
    CHECK(at(two, {x}) ==
          doctest::Approx(std::log(normal((x + 1) / 0.5) + normal((x - 2) / 0.5))).epsilon(64 * kEps));
  CHECK(at(two, {1e200}) == -std::numeric_limits<double>::infinity());
  CHECK(at(two, {-300}) == doctest::Approx(-0.5 * 598 * 598 - 0.5 * std::log(2 * std::numbers::pi)));
}

TEST_CASE("kernel estimate: the bandwidths and values of SciPy and scikit-learn") {
  const Matrix<double> points = reference_points();
  const double tight = 1e-13;
  CHECK(bandwidth_factor(BandwidthRule::scott, 40, 2) == doctest::Approx(0.54074187356009951).epsilon(tight));
  const Matrix<double> covariance = kernel_covariance(points.view(), BandwidthRule::scott);
  CHECK(covariance(0, 0) == doctest::Approx(0.15642046057210848).epsilon(tight));
  CHECK(covariance(0, 1) == doctest::Approx(0.016674148407756519).epsilon(1e-12));
  CHECK(covariance(1, 1) == doctest::Approx(0.64682845715029869).epsilon(tight));
  const Density scott = Density::kde(points.view());
  CHECK(at(scott, {0, 0}) == doctest::Approx(-2.605925085395326).epsilon(tight));
  CHECK(at(scott, {1, -2}) == doctest::Approx(-2.8517365390327294).epsilon(tight));
  CHECK(at(scott, {-4, 5}) == doctest::Approx(-50.034817967195274).epsilon(tight));
  const Density narrow = Density::kde(points.view(), 0.3);
  CHECK(at(narrow, {0, 0}) == doctest::Approx(-4.5278680833787455).epsilon(tight));
  CHECK(at(narrow, {1, -2}) == doctest::Approx(-2.9391313385554612).epsilon(tight));
  CHECK(at(narrow, {-4, 5}) == doctest::Approx(-114.24039047080328).epsilon(tight));

  std::vector<double> first(40);
  for (Index i = 0; i < 40; ++i) first[i] = points(i, 0);
  const Density line = Density::kde(column(first).view(), BandwidthRule::scott);
  const Density smoother = Density::kde(column(first).view(), BandwidthRule::silverman);
  CHECK(at(line, {0}) == doctest::Approx(-0.89363892210100238).epsilon(tight));
  CHECK(at(line, {2.5}) == doctest::Approx(-5.7227907385454602).epsilon(tight));
  CHECK(at(smoother, {0}) == doctest::Approx(-0.90388943648925046).epsilon(tight));
  CHECK(at(smoother, {2.5}) == doctest::Approx(-5.4122336664873663).epsilon(tight));
}

TEST_CASE("kernel estimate: particles have its law") {
  // In d = 1 stratified particles are its quantiles.
  const std::vector<double> centres = {3, -1, -1.2, 0.4, 7};
  const Density line = Density::kde(column(centres).view(), 0.25);
  constexpr Index n = 1001;
  const Cloud quantiles = line.sample(n, Sampling::stratified);
  for (Index i = 0; i < n; ++i) {
    double below = 0;
    for (const double centre : centres) below += normal_tail((quantiles.x(i, 0) - centre) / 0.25, false) / 5;
    CHECK(std::abs(below - (static_cast<double>(i) + 0.5) / n) < 1e-13);
  }
  // Its covariance is that of the points (1/N) and of the kernel.
  const Matrix<double> points = reference_points();
  const Density plane = Density::kde(points.view());
  const Matrix<double> kernel = kernel_covariance(points.view(), BandwidthRule::scott);
  const double factor = bandwidth_factor(BandwidthRule::scott, 40, 2);
  for (const Sampling how : {Sampling::random, Sampling::stratified}) {
    constexpr Index count = 1 << 14;
    const Cloud cloud = plane.sample(count, how, 7);
    CHECK(cloud.log_density == plane.log_density(cloud.x.view()));
    for (Index j = 0; j < 2; ++j) {
      double mean = 0, square = 0, centre = 0;
      for (Index i = 0; i < 40; ++i) centre += points(i, j) / 40;
      for (Index i = 0; i < count; ++i) mean += cloud.x(i, j) / count;
      for (Index i = 0; i < count; ++i) square += std::pow(cloud.x(i, j) - mean, 2) / count;
      const double expected = kernel(j, j) * (1 + 39.0 / 40 / (factor * factor));
      // Five standard errors; the fourth moment of these densities is below 3 variances^2.
      CHECK(std::abs(mean - centre) < 5 * std::sqrt(expected / count));
      CHECK(std::abs(square - expected) < 5 * expected * std::sqrt(2.0 / count));
    }
  }
}

TEST_CASE("kernel estimate: neither the place nor the unit of the points matters") {
  const Matrix<double> points = reference_points();
  for (const double unit : {1e-8, 1e8}) {
    Matrix<double> moved = points;
    for (double& element : moved.elements()) element = unit * (element + 1000);
    const double scaled = at(Density::kde(moved.view()), {unit * 1000.25, unit * 999.5});
    const double plain = at(Density::kde(points.view()), {0.25, -0.5}) - 2 * std::log(unit);
    CHECK(std::abs(scaled - plain) < 1e-9);
  }
}

TEST_CASE("estimates: points that give none are refused with a remedy") {
  const auto message = [](const auto& make) {
    try {
      make();
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("(no error)");
  };
  const auto has = [](const std::string& text, const std::string& piece) {
    CAPTURE(text);
    CHECK(text.find(piece) != std::string::npos);
  };
  has(message([] { Density::kde(column({1}).view()); }), "give the bandwidth as a number");
  has(message([] { Density::kde(column({2, 2, 2}).view()); }), "singular");
  has(message([] { Density::kde(column({1, std::nan("")}).view(), 1.0); }), "point 1");
  has(message([] { Density::kde(column({1, 2}).view(), 0.0); }), "bandwidth");
  has(message([] { Density::kde(Matrix<double>(0, 2).view(), 1.0); }), "at least one point");
  Matrix<double> flat(5, 2);
  for (Index i = 0; i < 5; ++i) flat(i, 0) = flat(i, 1) = static_cast<double>(i);
  has(message([&] { Density::kde(flat.view()); }), "singular");
  has(message([] { fit_gaussian_mixture(column({1, 1, 2, 2}).view(), {.components = 3}); }), "only 2 points");
  has(message([] { fit_gaussian_mixture(column({1, 2}).view(), {.components = 3}); }), "number of points");
  has(message([] { fit_gaussian_mixture(column({4, 4}).view(), {.components = 1}); }), "same");
}

TEST_CASE("Gaussian mixture: one component is the Gaussian of the points") {
  const Matrix<double> points = reference_points();
  const GaussianMixture fit = fit_gaussian_mixture(points.view(), {.components = 1, .regularisation = 1e-13});
  const Matrix<double> covariance = kernel_covariance(points.view(), BandwidthRule::scott);
  const double ratio = 39.0 / 40 / std::pow(bandwidth_factor(BandwidthRule::scott, 40, 2), 2);
  CHECK(fit.converged);
  for (Index j = 0; j < 2; ++j)
    for (Index k = 0; k < 2; ++k)
      CHECK(fit.covariances[0](j, k) == doctest::Approx(ratio * covariance(j, k)).epsilon(1e-11));
}

TEST_CASE("Gaussian mixture: the fits of scikit-learn") {
  const Matrix<double> apart = with_lump(12, 3);
  const GaussianMixture fit = fit_gaussian_mixture(apart.view(), {.components = 2, .regularisation = 1e-13});
  const double tight = 1e-9;
  CHECK(fit.converged);
  CHECK(fit.weights[0] == doctest::Approx(2.0 / 3).epsilon(tight));
  const double means[] = {0.396790149884203, 0.0530745909072793, 12.0912737059395, 3.00877481385093};
  for (Index k = 0; k < 4; ++k)
    CHECK(fit.means.elements()[static_cast<std::size_t>(k)] == doctest::Approx(means[k]).epsilon(tight));
  const double covariances[][3] = {{0.521576689035573, 0.0555991657817333, 2.15681915153847},
                                   {0.116721379091847, -0.0193172363425921, 0.288039345241129}};
  for (std::size_t k = 0; k < 2; ++k) {
    CHECK(fit.covariances[k](0, 0) == doctest::Approx(covariances[k][0]).epsilon(tight));
    CHECK(fit.covariances[k](1, 0) == doctest::Approx(covariances[k][1]).epsilon(tight));
    CHECK(fit.covariances[k](1, 1) == doctest::Approx(covariances[k][2]).epsilon(tight));
  }
  CHECK(fit.log_likelihood == doctest::Approx(-2.94542170179537).epsilon(tight));
  const std::vector<double> values = fit.density().log_density(apart.view());
  double mean = 0;
  for (const double value : values) mean += value / static_cast<double>(values.size());
  CHECK(mean == doctest::Approx(fit.log_likelihood).epsilon(1e-12));

  // Where the parts overlap there are several maxima: the best of the starts is at least as good.
  const Matrix<double> near = with_lump(3, 1);
  const GaussianMixtureOptions many{
      .components = 2, .starts = 20, .tolerance = 1e-14, .regularisation = 1e-13};
  const GaussianMixture overlap = fit_gaussian_mixture(near.view(), many);
  CHECK(overlap.log_likelihood > -2.8741080503664 - 1e-9);
  // The same points and options, the same bits.
  CHECK(fit_gaussian_mixture(near.view(), many).means.elements() == overlap.means.elements());
}
