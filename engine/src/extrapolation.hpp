// SPDX-License-Identifier: MIT
// BDF2 with variable steps: one of length omega times the one before it is a JKO step of (1 + omega)/(1 + 2
// omega) of its length from x* = x_n + e (x_n - x_{n-1}), e = omega^2/(1 + 2 omega). The extrapolation has
// the Jacobian E = (1 + e) I - e R^{-1} in x_n, with R = dx_n/dx_{n-1}. For d > 1 neither is symmetric. For
// equal steps: 2/3, e = 1/3.
#pragma once

#include <cmath>

#include "kernels/runtime/view.hpp"
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

/// E of one particle from its R.
inline Matrix<double> extrapolation_jacobian(const double* r, Index d, double ratio) {
  const double e = extrapolation(ratio);
  Matrix<double> out = dense::inverse({r, d, d});
  for (Index i = 0; i < d; ++i) {
    for (Index j = 0; j < d; ++j) out(i, j) = (i == j ? 1 + e : 0.0) - e * out(i, j);
  }
  return out;
}

/// Whether the extrapolation is monotone at a particle: the symmetric part of E is positive definite.
inline bool monotone(const Matrix<double>& e) {
  Matrix<double> symmetric(e.rows(), e.rows());
  for (Index i = 0; i < e.rows(); ++i) {
    for (Index j = 0; j < e.rows(); ++j) {
      if (!std::isfinite(e(i, j))) return false;
      symmetric(i, j) = 0.5 * (e(i, j) + e(j, i));
    }
  }
  return dense::Cholesky::of(symmetric).has_value();
}

}  // namespace brenier
