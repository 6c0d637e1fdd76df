// SPDX-License-Identifier: MIT
// BDF2 with variable steps: one of length omega times the one before it is a JKO step of (1 + omega)/(1 + 2
// omega) of its length from x* = x_n + e (x_n - x_{n-1}), e = omega^2/(1 + 2 omega). The extrapolation has
// the Jacobian E = (1 + e) I - e R^{-1} in x_n, with R = dx_n/dx_{n-1}. For d > 1 neither is symmetric. For
// equal steps: 2/3, e = 1/3.
#pragma once

#include <cmath>

#include "brenier/base/view.hpp"
#include "solvers/dense.hpp"

namespace brenier {

/// e for a ratio omega of step lengths.
inline double extrapolation(double ratio) {
  return ratio * ratio / (1 + 2 * ratio);
}
/// The length of the JKO problem, relative to the step's.
inline double problem_length(double ratio) {
  return (1 + ratio) / (1 + 2 * ratio);
}

/// E of one particle after another, (d, d); in dimension 1 a number.
class ExtrapolationJacobian {
 public:
  ExtrapolationJacobian(Index d, double ratio)
      : share_(extrapolation(ratio)), e_(d, d), work_(d, d), lu_(d) {}

  /// Of the particle with this R (d*d).
  void evaluate(const double* r) {
    const Index d = e_.rows();
    if (d == 1) {
      e_(0, 0) = 1 + share_ - share_ / r[0];
      return;
    }
    lu_.factor({r, d, d});
    lu_.inverse(e_);
    for (Index i = 0; i < d; ++i) {
      for (Index j = 0; j < d; ++j) e_(i, j) = (i == j ? 1 + share_ : 0.0) - share_ * e_(i, j);
    }
  }

  MatrixView<const double> value() const { return e_; }

  double determinant() {
    if (e_.rows() == 1) return e_(0, 0);
    lu_.factor(e_);
    return lu_.determinant();
  }

  /// Whether the extrapolation is monotone there: the symmetric part of E is positive definite.
  bool monotone() {
    for (Index i = 0; i < e_.rows(); ++i) {
      for (Index j = 0; j <= i; ++j) {
        work_(i, j) = 0.5 * (e_(i, j) + e_(j, i));
        if (!std::isfinite(work_(i, j))) return false;
      }
    }
    return dense::factor_in_place(work_.view());
  }

 private:
  double share_;
  Matrix<double> e_, work_;
  dense::Lu lu_;
};

}  // namespace brenier
