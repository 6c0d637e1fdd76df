// SPDX-License-Identifier: MIT
// Initial densities: closed forms, exact quantiles, and the statistics of the clouds.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <utility>
#include <vector>

#include "brenier/base/error.hpp"
#include "brenier/density.hpp"
#include "brenier/oracles.hpp"
#include "engine/src/density/quantiles.hpp"
#include "tests/support/capture.hpp"

using namespace brenier;

namespace {

constexpr double eps = 2.220446049250313e-16;
constexpr double pi = std::numbers::pi;
constexpr double infinity = std::numeric_limits<double>::infinity();

/// |a - b| <= relative * max(|a|, |b|); false for NaN.
bool near(double a, double b, double relative) {
  return std::abs(a - b) <= relative * std::max(std::abs(a), std::abs(b));
}

Matrix<double> matrix(Index n, const std::vector<double>& elements) {
  Matrix<double> a(n, n);
  a.elements() = elements;
  return a;
}

double log_density(const Density& density, const std::vector<double>& x) {
  return density.log_density(x);
}

double mean_of(const Matrix<double>& x, Index j) {
  double sum = 0;
  for (Index i = 0; i < x.rows(); ++i) sum += x(i, j);
  return sum / static_cast<double>(x.rows());
}

double covariance_of(const Matrix<double>& x, Index j, Index k) {
  const double mj = mean_of(x, j), mk = mean_of(x, k);
  double sum = 0;
  for (Index i = 0; i < x.rows(); ++i) sum += (x(i, j) - mj) * (x(i, k) - mk);
  return sum / static_cast<double>(x.rows());
}

double squared_norm(const Matrix<double>& x, Index i) {
  double sum = 0;
  for (Index j = 0; j < x.cols(); ++j) sum += x(i, j) * x(i, j);
  return sum;
}

/// Kolmogorov-Smirnov distance between values and a law given by its distribution function, times sqrt(N).
template <class Cdf>
double kolmogorov(std::vector<double> values, const Cdf& cdf) {
  std::sort(values.begin(), values.end());
  const double n = static_cast<double>(values.size());
  double largest = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double p = cdf(values[i]);
    largest = std::max(
        {largest, std::abs(p - static_cast<double>(i) / n), std::abs(p - (static_cast<double>(i) + 1) / n)});
  }
  return largest * std::sqrt(n);
}

/// Exceeded by chance once in 5e5 (the Kolmogorov law); the seeds are fixed besides.
constexpr double kolmogorov_limit = 2.6;

Density two_boxes() {
  return Density::mixture({1, 1}, {Density::uniform({0}, {1}), Density::uniform({2}, {3})});
}

}  // namespace

TEST_CASE("normal quantiles, to the last digits in both tails") {
  // Arguments as doubles, values with 40 digits of working precision.
  const std::pair<double, double> expected[] = {
      {1e-17, -8.4937932241095980661},           {1e-10, -6.3613409024040561991},
      {0.003, -2.7477813854449928365},           {0.0749, -1.4402382675279636631},
      {0.0751, -1.4388253927525399824},          {0.3, -0.52440051270804081597},
      {0.4999999999, -2.5066284820303539022e-10}};
  for (const auto& [p, z] : expected) {
    CAPTURE_BOUND(p);
    CHECK(near(normal_quantile(p), z, 4 * eps));
    CHECK(normal_quantile(p, true) == -normal_quantile(p));
    CHECK(near(normal_tail(normal_quantile(p), false), p, 200 * eps));
  }
  CHECK(normal_quantile(0.5) == 0);
  CHECK(near(normal_quantile(0.75), -normal_quantile(0.25), 4 * eps));
}

TEST_CASE("incomplete beta function and its inverse") {
  struct Row {
    double a, b, x, lower, upper;
  };
  // With 40 digits of working precision.
  const Row rows[] = {{0.5, 2, 0.1, 0.45853026072441501499, 0.54146973927558498501},
                      {64, 2, 0.95, 0.15760138468668739873, 0.84239861531331260127},
                      {1.5, 1.5, 0.999, 0.9999463316153134945, 0.00005366838468650549641},
                      {2.5, 11, 0.01, 0.0013205426966547899638, 0.99867945730334521004},
                      {0.5, 101, 1e-4, 0.11288402666623789127, 0.88711597333376210873},
                      {3, 2, 0.5, 0.3125, 0.6875}};
  for (const Row& row : rows) {
    const BetaLaw law(row.a, row.b);
    CAPTURE(row.a);
    CHECK(near(law.tail(row.x, false), row.lower, 1000 * eps));
    CHECK(near(law.tail(row.x, true), row.upper, 1000 * eps));
  }
  // Beta(1, b) and Beta(a, 1) have closed forms.
  for (const double p : {1e-12, 0.02, 0.5, 0.77, 0.999999}) {
    CHECK(near(BetaLaw(1, 2.5).quantile(p), -std::expm1(std::log1p(-p) / 2.5), 64 * eps));
    CHECK(near(BetaLaw(4.5, 1).quantile(p), std::pow(p, 1 / 4.5), 64 * eps));
  }
  for (const double a : {0.5, 1.0, 3.5, 64.0, 500.0})
    for (const double b : {1.01, 2.0, 11.0, 1001.0})
      for (const double p : {1e-9, 0.003, 0.31, 0.5, 0.81, 0.9999}) {
        const BetaLaw law(a, b);
        const double x = law.quantile(p);
        CAPTURE(a);
        CAPTURE(b);
        CAPTURE_BOUND(p);
        // Half an ulp of x moves p by the density times that.
        CHECK(near(law.tail(x, false), p, 1e-11));
      }
  CHECK(BetaLaw(2, 3).quantile(0) == 0);
  CHECK(BetaLaw(2, 3).quantile(1) == 1);
}

TEST_CASE("log densities in closed form") {
  const Density normal = Density::gaussian(1, 2, 0.25);
  CHECK(near(log_density(normal, {2.5}), -0.5 * std::log(2 * pi * 0.25) - 0.5, 8 * eps));
  // A correlated Gaussian: determinant 2, inverse [3 -1; -1 1]/2.
  const Density pair = Density::gaussian({1, -1}, matrix(2, {1, 1, 1, 3}));
  CHECK(near(log_density(pair, {2, 1}), -std::log(2 * pi) - 0.5 * std::log(2.0) - 0.5 * 1.5, 16 * eps));
  const Density box = Density::uniform({-1, 0, 2}, {1, 3, 2.5});
  CHECK(near(log_density(box, {0.3, 0, 2.5}), -std::log(3.0), 8 * eps));
  CHECK(log_density(box, {0.3, -1e-9, 2.2}) == -infinity);
  const Density mixed = Density::mixture({3, 1}, {Density::uniform({0}, {2}), Density::gaussian(1, 1, 1)});
  CHECK(near(log_density(mixed, {1}), std::log(0.375 + 0.25 / std::sqrt(2 * pi)), 8 * eps));
  CHECK(near(log_density(mixed, {41}), std::log(0.25) - 0.5 * std::log(2 * pi) - 800, 8 * eps));
  const Density profile = Density::barenblatt({.dim = 1, .m = 2, .time = 1e-3, .mass = 2});
  CHECK(profile.mass() == 2);
  // rho(0, t) = C t^(-1/3), C = (3/16)^(1/3).
  CHECK(near(log_density(profile, {0}), std::log(10 * std::cbrt(3.0 / 16)), 16 * eps));
  CHECK(log_density(profile, {1}) == -infinity);
}

TEST_CASE("log densities are NaN at NaN and nowhere else") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const Density densities[] = {
      Density::gaussian({0, 0}, matrix(2, {1, 0.999999, 0.999999, 1})), Density::uniform({0, 0}, {1, 1}),
      Density::barenblatt({.dim = 2, .m = 1.5, .time = 1}),
      Density::mixture({1, 2}, {Density::uniform({0, 0}, {1, 1}), Density::uniform({5, 5}, {6, 6})})};
  for (const Density& density : densities) {
    CHECK(std::isnan(log_density(density, {nan, 0.5})));
    CHECK(std::isnan(log_density(density, {infinity, nan})));
    for (const double bad : {infinity, -infinity, 1e308, 1e200}) {
      CHECK(log_density(density, {bad, bad}) == -infinity);
      CHECK(log_density(density, {0.5, -bad}) == -infinity);
    }
  }
}

TEST_CASE("stratified clouds in one dimension are quantiles of the midpoints") {
  const Index n = 1001;
  const auto check = [&](const Density& density, const auto& cdf) {
    const Cloud cloud = density.sample(n, Sampling::stratified);
    REQUIRE(cloud.x.rows() == n);
    for (Index i = 0; i < n; ++i) {
      CHECK(near(cdf(cloud.x(i, 0)), (static_cast<double>(i) + 0.5) / static_cast<double>(n), 1e-12));
      CHECK(std::isfinite(cloud.log_density[i]));
      CHECK(cloud.log_density[i] == log_density(density, {cloud.x(i, 0)}));
      if (i > 0) CHECK(cloud.x(i, 0) > cloud.x(i - 1, 0));
    }
  };
  check(Density::gaussian(1, -1, 4), [](double x) { return 0.5 * std::erfc(-(x + 1) / std::sqrt(8.0)); });
  check(Density::uniform({2}, {7}), [](double x) { return (x - 2) / 5; });
  // (C - k y^2) integrates to a cubic: with z = x/R, 1/2 + (3 z - z^3)/4.
  const double R = Barenblatt(1, 2).radius(0.01);
  check(Density::barenblatt({.dim = 1, .m = 2, .time = 0.01}), [&](double x) {
    const double z = x / R;
    return 0.25 * (1 + z) * (1 + z) * (2 - z);
  });
  check(Density::mixture({1, 3}, {Density::gaussian(1, -2, 0.25), Density::gaussian(1, 1, 1)}), [](double x) {
    return 0.125 * std::erfc(-(x + 2) / 0.5 / std::sqrt(2.0)) + 0.375 * std::erfc(-(x - 1) / std::sqrt(2.0));
  });
  // The middle point falls on the gap between the supports, and must lie in one of them.
  check(two_boxes(),
        [](double x) { return 0.5 * std::clamp(x, 0.0, 1.0) + 0.5 * std::clamp(x - 2, 0.0, 1.0); });
  // Symmetric laws give symmetric clouds, to the bit.
  const Cloud cloud = Density::barenblatt({.dim = 1, .m = 3, .time = 1}).sample(64, Sampling::stratified);
  for (Index i = 0; i < 32; ++i) CHECK(cloud.x(i, 0) == -cloud.x(63 - i, 0));
}

TEST_CASE("random particles depend on seed, stream and number only") {
  const Density density = Density::mixture(
      {1, 2}, {Density::gaussian(3, 0, 1), Density::barenblatt({.dim = 3, .m = 2, .time = 1})});
  const Cloud few = density.sample(7, Sampling::random, 5);
  const Cloud many = density.sample(23, Sampling::random, 5);
  for (Index i = 0; i < 7; ++i)
    for (Index j = 0; j < 3; ++j) CHECK(few.x(i, j) == many.x(i, j));
  const Cloud other_seed = density.sample(7, Sampling::random, 6);
  const Cloud other_stream = density.sample(7, Sampling::random, 5, RandomStream::held_out);
  for (Index i = 0; i < 7; ++i) {
    CHECK(few.x(i, 0) != other_seed.x(i, 0));
    CHECK(few.x(i, 0) != other_stream.x(i, 0));
  }
  const Cloud shifted = density.sample(7, Sampling::stratified, 5, RandomStream::held_out);
  CHECK(shifted.x(3, 1) != density.sample(7, Sampling::stratified, 5).x(3, 1));
  CHECK(shifted.x(3, 1) == density.sample(7, Sampling::stratified, 5, RandomStream::held_out).x(3, 1));
}

TEST_CASE("random clouds follow their laws") {
  const Index n = 20011;
  const Cloud normal = Density::gaussian({1, -1}, matrix(2, {1, 1, 1, 3})).sample(n, Sampling::random, 3);
  for (const Index j : {0, 1}) {
    const double mean = j == 0 ? 1 : -1, deviation = j == 0 ? 1 : std::sqrt(3.0);
    std::vector<double> values;
    for (Index i = 0; i < n; ++i) values.push_back(normal.x(i, j));
    CHECK(kolmogorov(values, [&](double x) {
            return 0.5 * std::erfc((mean - x) / deviation / std::sqrt(2.0));
          }) < kolmogorov_limit);
  }
  CHECK(std::abs(covariance_of(normal.x, 0, 1) - 1) < 5 * std::sqrt(4.0 / static_cast<double>(n)));
  const Cloud mixed = two_boxes().sample(n, Sampling::random, 4);
  CHECK(kolmogorov(mixed.x.elements(), [](double x) {
          return 0.5 * std::clamp(x, 0.0, 1.0) + 0.5 * std::clamp(x - 2, 0.0, 1.0);
        }) < kolmogorov_limit);
}

TEST_CASE("Barenblatt clouds are exact in every dimension") {
  const Index n = 20011;
  for (const Index d : {1, 2, 3, 6, 20})
    for (const double m : {1.25, 2.0, 4.0}) {
      const double t = 0.02;
      const Cloud cloud =
          Density::barenblatt({.dim = d, .m = m, .time = t, .mass = 3}).sample(n, Sampling::random, 11);
      const Barenblatt profile(d, m, 3);
      const double R = profile.radius(t);
      CAPTURE(d);
      CAPTURE(m);
      // The law of |x| by quadrature of the density itself, independent of the Beta law: r = R sin(angle).
      const int cells = 4000;
      std::vector<double> cdf = {0};
      for (int i = 0; i < cells; ++i) {
        const double angle = (i + 0.5) * 0.5 * pi / cells;
        std::vector<double> x(static_cast<std::size_t>(d), 0.0);
        x[0] = R * std::sin(angle);
        cdf.push_back(cdf.back() + profile.density(x, t) *
                                       std::pow(std::sin(angle), static_cast<double>(d - 1)) *
                                       std::cos(angle));
      }
      std::vector<double> distances;
      double second = 0;
      for (Index i = 0; i < n; ++i) {
        distances.push_back(std::sqrt(squared_norm(cloud.x, i)));
        second += squared_norm(cloud.x, i) / static_cast<double>(n);
        REQUIRE(std::isfinite(cloud.log_density[i]));
      }
      CHECK(kolmogorov(distances, [&](double r) {
              const double at = std::asin(std::min(r / R, 1.0)) / (0.5 * pi) * cells;
              const auto cell = std::min(static_cast<std::size_t>(at), cdf.size() - 2);
              return (cdf[cell] + (at - static_cast<double>(cell)) * (cdf[cell + 1] - cdf[cell])) /
                     cdf.back();
            }) < kolmogorov_limit);
      CHECK(near(second, profile.second_moment(t), 0.05));
      // No preferred direction: five standard errors.
      for (Index j = 0; j < d; ++j)
        CHECK(std::abs(mean_of(cloud.x, j)) <
              5 * profile.standard_deviation(t) / std::sqrt(static_cast<double>(n)));
    }
}

TEST_CASE("stratified clouds in several dimensions beat independent ones") {
  const Index n = 4001;
  for (const Index d : {2, 5, 14, 26}) {
    const Density density = Density::gaussian(d, 0.5, 2);
    const Cloud random = density.sample(n, Sampling::random, 1);
    const Cloud stratified = density.sample(n, Sampling::stratified, 1);
    double random_error = 0, stratified_error = 0, mixed_error = 0;
    for (Index j = 0; j < d; ++j) {
      random_error = std::max(random_error, std::abs(mean_of(random.x, j) - 0.5));
      stratified_error = std::max(stratified_error, std::abs(mean_of(stratified.x, j) - 0.5));
      for (Index k = 0; k < j; ++k)
        mixed_error = std::max(mixed_error, std::abs(covariance_of(stratified.x, j, k)));
    }
    CAPTURE(d);
    CHECK(stratified_error < 0.15 * random_error);
    // Coordinates are not correlated: five standard errors of independent points.
    CHECK(mixed_error < 5 * 2 / std::sqrt(static_cast<double>(n)));
  }
  const Density profile = Density::barenblatt({.dim = 3, .m = 2, .time = 1});
  const Cloud cloud = profile.sample(n, Sampling::stratified, 9);
  double second = 0;
  for (Index i = 0; i < n; ++i) second += squared_norm(cloud.x, i) / static_cast<double>(n);
  CHECK(near(second, Barenblatt(3, 2).second_moment(1), 2e-3));
  const Density mixed =
      Density::mixture({1, 3}, {Density::gaussian(2, -4, 0.1), Density::uniform({0, 0}, {1, 2})});
  const Cloud parts = mixed.sample(1000, Sampling::stratified, 2);
  int first = 0;
  for (Index i = 0; i < 1000; ++i) first += parts.x(i, 0) < -1;
  CHECK(std::abs(first - 250) <= 5);
}

TEST_CASE("a Latin hypercube has one particle in each stratum of each coordinate") {
  const Index n = 97, d = 23;
  const Cloud cloud = Density::uniform(std::vector<double>(23, -1.0), std::vector<double>(23, 1.0))
                          .sample(n, Sampling::stratified, 8);
  for (Index j = 0; j < d; ++j) {
    std::vector<int> count(static_cast<std::size_t>(n), 0);
    for (Index i = 0; i < n; ++i)
      ++count[static_cast<std::size_t>(0.5 * (cloud.x(i, j) + 1) * static_cast<double>(n))];
    CHECK(std::all_of(count.begin(), count.end(), [](int c) { return c == 1; }));
  }
}

TEST_CASE("whitened clouds have the exact mean and covariance") {
  const std::vector<double> mean = {3, -100, 0.001};
  const Matrix<double> covariance = matrix(3, {2, 0.3, -0.4, 0.3, 5, 1, -0.4, 1, 0.9});
  const Density density = Density::gaussian(mean, covariance);
  for (const Index n : {4, 57, 1000}) {
    const Cloud cloud = density.sample(n, Sampling::whitened, 21);
    CAPTURE(n);
    for (Index j = 0; j < 3; ++j) {
      CHECK(std::abs(mean_of(cloud.x, j) - mean[j]) < 400 * eps * std::max(1.0, std::abs(mean[j])));
      for (Index k = 0; k < 3; ++k)
        CHECK(std::abs(covariance_of(cloud.x, j, k) - covariance(j, k)) < 1e-13 * 100);
    }
  }
  const Cloud line = Density::gaussian(1, 2, 0.25).sample(9, Sampling::whitened);
  CHECK(near(covariance_of(line.x, 0, 0), 0.25, 64 * eps));
  const Cloud wide = Density::gaussian(40, 0, 1).sample(41, Sampling::whitened, 3);
  CHECK(near(covariance_of(wide.x, 17, 17), 1, 1e-12));
  CHECK(std::abs(covariance_of(wide.x, 17, 39)) < 1e-12);
  CHECK_THROWS_AS(density.sample(3, Sampling::whitened), ValueError);
  CHECK_THROWS_AS(two_boxes().sample(10, Sampling::whitened), ValueError);
}

TEST_CASE("densities refuse what is not a density") {
  CHECK_THROWS_AS(Density::gaussian({0, 0}, matrix(2, {1, 0.5, 0.4, 1})), ValueError);
  CHECK_THROWS_AS(Density::gaussian({0, 0}, matrix(2, {1, 2, 2, 1})), ValueError);
  CHECK_THROWS_AS(Density::gaussian({0, 0}, matrix(2, {1, 1, 1, 1})), ValueError);
  CHECK_THROWS_AS(Density::gaussian({0}, matrix(2, {1, 0, 0, 1})), ShapeError);
  CHECK_THROWS_AS(Density::gaussian({infinity}, matrix(1, {1})), ValueError);
  CHECK_THROWS_WITH_AS(Density::gaussian(1, 0, -2), "variance is -2; it must be positive and finite",
                       ValueError);
  CHECK_THROWS_AS(Density::gaussian(0, 0, 1), ValueError);
  CHECK_THROWS_WITH_AS(
      Density::uniform({0, 1}, {1, 1}),
      "coordinate 1 of the box runs from 1 to 1; lower must be below upper, at a finite distance",
      ValueError);
  CHECK_THROWS_AS(Density::uniform({0}, {1, 2}), ShapeError);
  CHECK_THROWS_AS(Density::uniform({-1.7e308}, {1.7e308}), ValueError);
  const Density one = Density::gaussian(1, 0, 1), two = Density::gaussian(2, 0, 1);
  CHECK_THROWS_AS(Density::mixture({1, 0}, {one, one}), ValueError);
  CHECK_THROWS_AS(Density::mixture({1}, {one, one}), ShapeError);
  CHECK_THROWS_AS(Density::mixture({}, {}), ShapeError);
  CHECK_THROWS_AS(Density::mixture({1, 1}, {one, two}), ShapeError);
  CHECK_THROWS_AS(Density::mixture({1}, {Density::barenblatt({.dim = 1, .m = 2, .time = 1, .mass = 2})}),
                  ValueError);
  CHECK_THROWS_AS(Density::barenblatt({.dim = 1, .m = 1, .time = 1}), ValueError);
  CHECK_THROWS_AS(Density::barenblatt({.dim = 1, .m = 2}), ValueError);
  CHECK_THROWS_AS(Density::barenblatt({.dim = 1, .m = 2, .time = 1, .mass = -1}), ValueError);
  CHECK_THROWS_AS(one.sample(0), ValueError);
  CHECK_THROWS_AS(log_density(two, {1}), ShapeError);
}

TEST_CASE("Sobol' points of a power of 2 have one in each stratum of each coordinate") {
  const Index n = 128, d = 21;
  const Cloud cloud = Density::uniform(std::vector<double>(21, 0.0), std::vector<double>(21, 1.0))
                          .sample(n, Sampling::stratified, 8);
  for (Index j = 0; j < d; ++j) {
    std::vector<int> count(static_cast<std::size_t>(n), 0);
    for (Index i = 0; i < n; ++i) ++count[static_cast<std::size_t>(cloud.x(i, j) * static_cast<double>(n))];
    CHECK(std::all_of(count.begin(), count.end(), [](int c) { return c == 1; }));
  }
  // The first two coordinates are a (0, 7, 2)-net: one point in each box of area 1/128, of every shape.
  for (int k = 0; k <= 7; ++k) {
    std::vector<int> count(static_cast<std::size_t>(n), 0);
    const double across = std::ldexp(1.0, k), up = std::ldexp(1.0, 7 - k);
    for (Index i = 0; i < n; ++i)
      ++count[static_cast<std::size_t>(std::floor(cloud.x(i, 0) * across) * up +
                                       std::floor(cloud.x(i, 1) * up))];
    CHECK(std::all_of(count.begin(), count.end(), [](int c) { return c == 1; }));
  }
}
