// SPDX-License-Identifier: MIT
// The Jacobian E = (4/3) I - (1/3) R^{-1} of the extrapolation x* = (4/3) x_n - (1/3) x_{n-1} in x_n, with R
// = dx_n/dx_{n-1}. For d > 1 neither is symmetric. For .cpp files only.
#pragma once

#include <Eigen/Dense>

#include "kernels/runtime/view.hpp"

namespace brenier {

using RowMajor = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using View = Eigen::Map<RowMajor>;
using ConstView = Eigen::Map<const RowMajor>;

/// E of one particle from its R.
inline RowMajor extrapolation_jacobian(const double* r, Index d) {
  return RowMajor::Identity(d, d) * (4.0 / 3) - ConstView(r, d, d).inverse() / 3;
}

/// Whether the extrapolation is monotone at a particle: the symmetric part of E is positive definite.
inline bool monotone(const RowMajor& e) {
  const RowMajor symmetric = 0.5 * (e + e.transpose());
  return e.allFinite() && Eigen::LLT<RowMajor>(symmetric).info() == Eigen::Success;
}

}  // namespace brenier
