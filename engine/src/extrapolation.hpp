// SPDX-License-Identifier: MIT
// BDF2 with variable steps: one of length omega times the one before it is a JKO step of (1 + omega)/(1 + 2
// omega) of its length from x* = x_n + e (x_n - x_{n-1}), e = omega^2/(1 + 2 omega). The extrapolation has
// the Jacobian E = (1 + e) I - e R^{-1} in x_n, with R = dx_n/dx_{n-1}. For d > 1 neither is symmetric. For
// equal steps: 2/3, e = 1/3. For .cpp files only.
#pragma once

#include <Eigen/Dense>

#include "kernels/runtime/view.hpp"

namespace brenier {

using RowMajor = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using View = Eigen::Map<RowMajor>;
using ConstView = Eigen::Map<const RowMajor>;

/// e for a ratio omega of step lengths.
inline double extrapolation(double ratio) {
  return ratio * ratio / (1 + 2 * ratio);
}
/// The length of the JKO problem, relative to the step's.
inline double problem_length(double ratio) {
  return (1 + ratio) / (1 + 2 * ratio);
}

/// E of one particle from its R.
inline RowMajor extrapolation_jacobian(const double* r, Index d, double ratio) {
  const double e = extrapolation(ratio);
  return RowMajor::Identity(d, d) * (1 + e) - e * ConstView(r, d, d).inverse();
}

/// Whether the extrapolation is monotone at a particle: the symmetric part of E is positive definite.
inline bool monotone(const RowMajor& e) {
  const RowMajor symmetric = 0.5 * (e + e.transpose());
  return e.allFinite() && Eigen::LLT<RowMajor>(symmetric).info() == Eigen::Success;
}

}  // namespace brenier
