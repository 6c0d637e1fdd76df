// SPDX-License-Identifier: MIT
// Eigenvalues and quadratures of tridiagonal matrices against closed forms and dense solvers.
#include <doctest/doctest.h>

#include "kernels/model/tridiagonal.hpp"
#include "tests/support/near.hpp"
#include "tests/support/spectrum.hpp"

using namespace brenier;
using namespace brenier::test;

TEST_CASE("tridiagonal eigenvalues: closed forms, splits, grading, what is not finite") {
  for (const int n : {1, 2, 3, 15, 64}) {  // 2 on the diagonal, -1 beside it
    CAPTURE(n);
    std::vector<double> diagonal(n, 2.0), off_diagonal(n, -1.0), first(n);
    REQUIRE(tridiagonal_eigen(n, diagonal.data(), off_diagonal.data(), first.data()));
    std::vector<std::pair<double, double>> pairs;
    for (int k = 0; k < n; ++k) pairs.emplace_back(diagonal[k], first[k] * first[k]);
    std::sort(pairs.begin(), pairs.end());
    for (int k = 0; k < n; ++k) {
      const double angle = (k + 1) * std::acos(-1.0) / (n + 1);
      CHECK_REL(pairs[k].first, 2 - 2 * std::cos(angle), tol<double>(n * n));  // cancels near 0
      CHECK_REL(pairs[k].second, 2.0 / (n + 1) * std::sin(angle) * std::sin(angle), tol<double>(8 * n * n));
    }
    // The determinant is n + 1 and e_1^T T^{-1} e_1 = n/(n + 1).
    double product = 1, inverse = 0;
    for (const auto& [value, weight] : pairs) {
      product *= value;
      inverse += weight / value;
    }
    CHECK_REL(product, n + 1.0, tol<double>(8 * n * n));
    CHECK_REL(inverse, n / (n + 1.0), tol<double>(8 * n * n));
  }
  std::vector<double> diagonal = {3, 1e-8, 5, 2e6, 7}, off_diagonal = {0, 1e-12, 0, 1.5, 99}, first(5);
  Eigen::MatrixXd t = Eigen::MatrixXd::Zero(5, 5);
  for (int i = 0; i < 5; ++i) t(i, i) = diagonal[i];
  for (int i = 0; i < 4; ++i) t(i, i + 1) = t(i + 1, i) = off_diagonal[i];
  REQUIRE(tridiagonal_eigen(5, diagonal.data(), off_diagonal.data(), first.data()));
  std::sort(diagonal.begin(), diagonal.end());
  const Eigen::VectorXd expected = Spectrum(t).values;
  for (int i = 0; i < 5; ++i) CHECK(std::abs(diagonal[i] - expected(i)) <= tol<double>(8) * 2e6);

  std::vector<double> one = {4}, none = {7}, work(1);
  CHECK_REL(tridiagonal_log(1, one.data(), none.data(), work.data()), std::log(4.0), tol<double>(1));
  one[0] = -1;
  CHECK(std::isnan(tridiagonal_log(1, one.data(), none.data(), work.data())));
  for (const double bad : {std::nan(""), std::numeric_limits<double>::infinity()}) {
    std::vector<double> a = {1, 2, bad}, b = {0.5, 0.5, 0}, f(3);
    CHECK(std::isnan(tridiagonal_log(3, a.data(), b.data(), f.data())));
    a = {1, 2, 3}, b = {0.5, bad, 0};
    CHECK(std::isnan(tridiagonal_log(3, a.data(), b.data(), f.data())));
  }
}
