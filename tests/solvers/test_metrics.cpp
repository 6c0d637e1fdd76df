// SPDX-License-Identifier: MIT
// Distances between clouds against closed forms and brute force.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

#include "brenier/base/error.hpp"
#include "brenier/density.hpp"
#include "brenier/metrics.hpp"
#include "brenier/oracles.hpp"
#include "brenier/wasserstein.hpp"
#include "tests/support/capture.hpp"
#include "tests/support/near.hpp"

using namespace brenier;
using namespace brenier::test;

namespace {

Matrix<double> normal(Index n, Index d, double mean, double variance, std::uint64_t seed) {
  return Density::gaussian(d, mean, variance).sample(n, Sampling::random, seed).x;
}

double distance(const Matrix<double>& x, Index i, const Matrix<double>& y, Index j) {
  double square = 0;
  for (Index c = 0; c < x.cols(); ++c) square += std::pow(x(i, c) - y(j, c), 2);
  return std::sqrt(square);
}

/// 2 mean D(x_i, y_j) - mean_{i != k} D(x_i, x_k) - mean_{j != k} D(y_j, y_k), in plain loops.
template <class D>
double brute(const Matrix<double>& x, const Matrix<double>& y, const D& d) {
  const double n = static_cast<double>(x.rows()), m = static_cast<double>(y.rows());
  double across = 0, in_x = 0, in_y = 0;
  for (Index i = 0; i < x.rows(); ++i)
    for (Index j = 0; j < y.rows(); ++j) across += d(distance(x, i, y, j));
  for (Index i = 0; i < x.rows(); ++i)
    for (Index k = 0; k < x.rows(); ++k) in_x += i == k ? 0 : d(distance(x, i, x, k));
  for (Index j = 0; j < y.rows(); ++j)
    for (Index k = 0; k < y.rows(); ++k) in_y += j == k ? 0 : d(distance(y, j, y, k));
  return 2 * across / (n * m) - in_x / (n * (n - 1)) - in_y / (m * (m - 1));
}

}  // namespace

TEST_CASE("two-sample statistics equal their definition, and do not depend on the number of threads") {
  for (const Index d : {1, 3, 7}) {
    CAPTURE(d);
    const Matrix<double> x = normal(31, d, 0, 1, 1), y = normal(44, d, 0.3, 2, 2);
    Team one(1), three(3);
    const Estimate energy = energy_distance(x, y, one);
    CHECK_REL(energy.value, brute(x, y, [](double r) { return r; }), tol<double>(200));
    const auto kernel = [](double r) { return -std::exp(-r * r / (2 * 1.7 * 1.7)); };
    const Estimate mmd = mmd_squared(x, y, 1.7, one);
    CHECK_REL(mmd.value, brute(x, y, kernel), tol<double>(2000));
    double square = 0;  // of the signed measure, all pairs
    for (Index i = 0; i < 31 + 44; ++i) {
      for (Index j = 0; j < 31 + 44; ++j) {
        const Matrix<double>&a = i < 31 ? x : y, &b = j < 31 ? x : y;
        const double weight = (i < 31 ? 1.0 / 31 : -1.0 / 44) * (j < 31 ? 1.0 / 31 : -1.0 / 44);
        square -= weight * kernel(distance(a, i < 31 ? i : i - 31, b, j < 31 ? j : j - 31));
      }
    }
    CHECK_REL(mmd_empirical(x, y, 1.7, one), std::sqrt(square), tol<double>(2000));
    CHECK(mmd_empirical(x, x, 1.7, one) < 1e-7);
    CHECK(energy_distance(x, y, three).value == energy.value);
    CHECK(energy_distance(x, y, three).error == energy.error);
    CHECK(mmd_squared(x, y, 1.7, three).value == mmd.value);
  }
}

TEST_CASE("means and standard errors over many samples agree with the closed forms") {
  // E|X - Y| of normals with difference N(m, s^2): s sqrt(2/pi) exp(-m^2/2s^2) + m erf(m/(s sqrt 2)).
  const auto mean_distance = [](double m, double s) {
    return s * std::sqrt(2 / std::numbers::pi) * std::exp(-m * m / (2 * s * s)) +
           m * std::erf(m / (s * std::numbers::sqrt2));
  };
  // E k(X - Y) for that difference: b/sqrt(b^2 + s^2) exp(-m^2/(2(b^2 + s^2))).
  const double b = 0.8;
  const auto mean_kernel = [b](double m, double s2) {
    return b / std::sqrt(b * b + s2) * std::exp(-m * m / (2 * (b * b + s2)));
  };
  const double exact_energy =
      2 * mean_distance(1, std::sqrt(3.0)) - mean_distance(0, std::sqrt(2.0)) - mean_distance(0, 2.0);
  const double exact_mmd = mean_kernel(0, 2) + mean_kernel(0, 4) - 2 * mean_kernel(1, 3);
  const int repeats = 200;
  Team team(2);
  double energy = 0, energy_squares = 0, energy_error = 0, mmd = 0, mmd_squares = 0, mmd_error = 0;
  for (int k = 0; k < repeats; ++k) {
    const Matrix<double> x = normal(100, 1, 0, 1, 10 + k), y = normal(150, 1, 1, 2, 1000 + k);
    const Estimate e = energy_distance(x, y, team);
    const Estimate m = mmd_squared(x, y, b, team);
    energy += e.value / repeats;
    energy_squares += std::pow(e.value - exact_energy, 2) / repeats;
    energy_error += e.error * e.error / repeats;
    mmd += m.value / repeats;
    mmd_squares += std::pow(m.value - exact_mmd, 2) / repeats;
    mmd_error += m.error * m.error / repeats;
  }
  CHECK(std::abs(energy - exact_energy) <= 3 * std::sqrt(energy_squares / repeats));
  CHECK(std::abs(mmd - exact_mmd) <= 3 * std::sqrt(mmd_squares / repeats));
  // A variance from 200 samples is good to 10 %; the errors are first order in 1/n.
  CHECK_REL(energy_error, energy_squares, 0.3);
  CHECK_REL(mmd_error, mmd_squares, 0.3);
}

TEST_CASE("KL of Gaussians from samples") {
  const Density p = Density::gaussian(3, 0.2, 1.0), q = Density::gaussian(3, -0.1, 1.5);
  const Cloud cloud = p.sample(20000, Sampling::random, 5);
  const Estimate kl = kl_divergence(cloud.log_density, q.log_density(cloud.x));
  const double exact = 1.5 * (1 / 1.5 - 1 + std::log(1.5)) + 3 * 0.09 / (2 * 1.5);
  CHECK(std::abs(kl.value - exact) <= 3 * kl.error);
  CHECK(kl.error < 0.05 * exact);
  const double infinity = std::numeric_limits<double>::infinity();
  CHECK(kl_divergence(std::vector<double>{0, 0}, std::vector<double>{-1, -infinity}).value == infinity);
  CHECK_ERROR(kl_divergence(std::vector<double>{0, 0}, std::vector<double>{0, std::nan("")}), ValueError,
              "sample 1");
  CHECK_ERROR(kl_divergence(std::vector<double>{0, 0}, std::vector<double>{0}), ShapeError, "2 and 1");
}

TEST_CASE("W2 on the line: shifts, unequal numbers of points, and the assignment") {
  const Matrix<double> x = normal(40, 1, 0, 1, 7), y = normal(40, 1, 2, 3, 8);
  std::vector<double> shifted = x.elements();
  for (double& value : shifted) value += 0.75;
  CHECK_REL(wasserstein_1d(x.elements(), shifted), 0.75, tol<double>(16));
  CHECK_REL(wasserstein_1d(x.elements(), y.elements()), wasserstein_assignment(x, y), tol<double>(64));
  // Each point twice is the same measure.
  std::vector<double> twice = y.elements();
  twice.insert(twice.end(), y.elements().begin(), y.elements().end());
  CHECK_REL(wasserstein_1d(x.elements(), twice), wasserstein_1d(x.elements(), y.elements()), tol<double>(64));
  CHECK_REL(wasserstein_1d({0, 1, 2}, std::vector<double>{1}), std::sqrt(2.0 / 3), tol<double>(4));
  CHECK_REL(wasserstein_1d({0, 1}, std::vector<double>{0, 1, 5}),
            std::sqrt((2 * 0 + 1 * 1 + 1 * 0 + 2 * 16) / 6.0), tol<double>(4));
  CHECK_ERROR(wasserstein_1d({}, std::vector<double>{1}), ShapeError, "without points");
  CHECK_ERROR(wasserstein_1d({std::nan("")}, std::vector<double>{1}), ValueError, "nan");
}

TEST_CASE("clouds of different sizes: every point counts, and is split where it must be") {
  // On the line the plan is known; a point that is there twice is one of twice the weight.
  for (const auto& [n, m] : {std::pair<Index, Index>{5, 96}, {96, 5}, {40, 30}, {7, 1}, {1, 9}, {33, 34}}) {
    CAPTURE_BOUND(n);
    const Matrix<double> x = normal(n, 1, 0, 1, 20), y = normal(m, 1, 1, 2, 21);
    CHECK_REL(wasserstein_transport(x, y), wasserstein_1d(x.elements(), y.elements()), tol<double>(256));
  }
  for (const auto& [n, m] : {std::pair<Index, Index>{4, 6}, {5, 7}, {12, 8}, {2, 9}}) {
    CAPTURE_BOUND(n);
    Matrix<double> x = normal(n, 2, 0, 1, 22), y = normal(m, 2, 0.5, 2, 23);
    for (Index i = 0; i < n && n == 12; ++i) x(i, 0) = std::round(x(i, 0)), x(i, 1) = 0;  // ties
    const Index all = std::lcm(n, m);
    Matrix<double> a(all, 2), b(all, 2);
    for (Index k = 0; k < all; ++k) {
      std::copy_n(x.row(k % n), 2, a.row(k));
      std::copy_n(y.row(k % m), 2, b.row(k));
    }
    CHECK_REL(wasserstein_transport(x, y), wasserstein_assignment(a, b), tol<double>(256));
    CHECK_REL(wasserstein_transport(y, x), wasserstein_transport(x, y), tol<double>(256));
  }
  // A Gaussian against many points of itself and of another: no closer than the few can be, not further than all.
  const Matrix<double> few = normal(5, 2, 0, 1, 24), many = normal(480, 2, 0, 1, 25);
  double nearest = 0;
  for (Index j = 0; j < 480; ++j) {
    double best = std::numeric_limits<double>::infinity();
    for (Index i = 0; i < 5; ++i) best = std::min(best, distance(few, i, many, j));
    nearest += best * best / 480;
  }
  CHECK(wasserstein_transport(few, many) >= std::sqrt(nearest));
  CHECK(wasserstein_transport(Matrix<double>(3, 2, 1.5), Matrix<double>(7, 2, 1.5)) == 0);
  const Matrix<double> x = normal(9, 2, 0, 1, 1), y = normal(9, 2, 0, 1, 2);
  CHECK(wasserstein_transport(x, y) == wasserstein_assignment(x, y));
  CHECK_ERROR(wasserstein_transport(x, Matrix<double>(0, 2)), ShapeError, "0 x 2");
  CHECK_ERROR(wasserstein_transport(x, Matrix<double>(4, 3)), ShapeError, "4 x 3");
  CHECK_ERROR(wasserstein_transport(x, Matrix<double>(4, 2, std::nan(""))), ValueError, "nan");
  CHECK_ERROR(wasserstein_transport(x, Matrix<double>(kMostAssigned + 1, 2)), ValueError, "10001 points");
}

TEST_CASE("the assignment is the best of all permutations, and undoes a monotone map") {
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    const Index n = 1 + static_cast<Index>(seed % 7);
    Matrix<double> cost = normal(n, n, 0, 1, 100 + seed);
    if (seed % 3 == 0) {  // ties
      for (double& value : cost.elements()) value = std::round(value);
    }
    std::vector<Index> order(n);
    std::iota(order.begin(), order.end(), 0);
    double best = std::numeric_limits<double>::infinity();
    do {
      double sum = 0;
      for (Index i = 0; i < n; ++i) sum += cost(i, order[i]);
      best = std::min(best, sum);
    } while (std::next_permutation(order.begin(), order.end()));
    std::vector<Index> found = assign(cost);
    double sum = 0;
    for (Index i = 0; i < n; ++i) sum += cost(i, found[i]);
    CHECK(std::abs(sum - best) <= 1e-12);
    std::sort(found.begin(), found.end());
    CHECK(std::adjacent_find(found.begin(), found.end()) == found.end());
  }
  // y = A x with A positive definite is optimal (Brenier), whatever the order of the points.
  const Index n = 300;
  const Matrix<double> x = normal(n, 2, 0, 1, 9);
  Matrix<double> y(n, 2);
  double square = 0;
  for (Index i = 0; i < n; ++i) {
    const double a = 2 * x(i, 0) + 0.5 * x(i, 1), b = 0.5 * x(i, 0) + 1.2 * x(i, 1);
    y(n - 1 - i, 0) = a;
    y(n - 1 - i, 1) = b;
    square += (std::pow(a - x(i, 0), 2) + std::pow(b - x(i, 1), 2)) / static_cast<double>(n);
  }
  CHECK_REL(wasserstein_assignment(x, y), std::sqrt(square), tol<double>(1000));
  CHECK_ERROR(wasserstein_assignment(x, normal(3, 2, 0, 1, 1)), ShapeError, "300 x 2");
  CHECK_ERROR(assign(Matrix<double>(2, 3)), ShapeError, "square");
}

TEST_CASE("Gaussians: W2 of commuting and of rotated covariances, the fit of a cloud") {
  GaussianState p{{0, 1}, Matrix<double>(2, 2)}, q{{2, 0}, Matrix<double>(2, 2)};
  p.covariance(0, 0) = 4, p.covariance(1, 1) = 1, q.covariance(0, 0) = 1, q.covariance(1, 1) = 9;
  CHECK_REL(wasserstein_2(p, q), std::sqrt(4 + 1 + 1 + 4.0), tol<double>(32));
  const double c = std::cos(0.7), s = std::sin(0.7);
  const auto rotated = [&](GaussianState g) {
    const Matrix<double> a = g.covariance;
    const double r[2][2] = {{c, -s}, {s, c}};
    for (int i = 0; i < 2; ++i)
      for (int j = 0; j < 2; ++j) {
        g.covariance(i, j) = 0;
        for (int k = 0; k < 2; ++k) g.covariance(i, j) += r[i][k] * a(k, k) * r[j][k];
      }
    g.covariance(1, 0) = g.covariance(0, 1);
    g.mean = {c * g.mean[0] - s * g.mean[1], s * g.mean[0] + c * g.mean[1]};
    return g;
  };
  CHECK_REL(wasserstein_2(rotated(p), rotated(q)), wasserstein_2(p, q), tol<double>(64));
  CHECK_REL(wasserstein_2(rotated(p), q), wasserstein_2(q, rotated(p)), tol<double>(64));  // not commuting
  GaussianState near = p;
  near.covariance(0, 0) *= 1 + 1e-9;
  CHECK_REL(wasserstein_2(p, near), 1e-9, 1e-6);
  const Cloud cloud = Density::gaussian(p.mean, p.covariance).sample(64, Sampling::whitened);
  CHECK_CLOSE(gaussian_fit(cloud.x).mean, p.mean, 1e-12);
  CHECK_CLOSE(gaussian_fit(cloud.x).covariance, p.covariance, 1e-12);
}

TEST_CASE("bad clouds are named") {
  Team team(1);
  const Matrix<double> x = normal(5, 2, 0, 1, 1);
  Matrix<double> broken = x;
  broken(3, 1) = std::nan("");
  CHECK_ERROR(energy_distance(x, normal(5, 3, 0, 1, 1), team), ShapeError, "dimensions 2 and 3");
  CHECK_ERROR(energy_distance(x, normal(1, 2, 0, 1, 1), team), ShapeError, "1 points");
  CHECK_ERROR(energy_distance(x, broken, team), ValueError, "point 3");
  CHECK_ERROR(mmd_squared(x, x, 0, team), ValueError, "bandwidth = 0");
  CHECK_ERROR(median_distance(Matrix<double>(4, 2), Matrix<double>(4, 2)), ValueError, "one place");
  CHECK(median_distance(x, x) > 0);
}
