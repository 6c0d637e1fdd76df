// SPDX-License-Identifier: MIT
// Small dense matrices between Brenier and Eigen, and checks of them. For .cpp files only.
#pragma once

#include <Eigen/Dense>
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "engine/src/show.hpp"
#include "kernels/runtime/error.hpp"
#include "kernels/runtime/view.hpp"

namespace brenier {

inline Eigen::MatrixXd to_eigen(const Matrix<double>& from) {
  using RowMajor = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  return Eigen::Map<const RowMajor>(from.data(), from.rows(), from.cols());
}

inline Eigen::VectorXd to_eigen(const std::vector<double>& from) {
  return Eigen::Map<const Eigen::VectorXd>(from.data(), static_cast<Index>(from.size()));
}

inline Matrix<double> from_eigen(const Eigen::MatrixXd& from) {
  Matrix<double> to(from.rows(), from.cols());
  for (Index i = 0; i < from.rows(); ++i)
    for (Index j = 0; j < from.cols(); ++j) to(i, j) = from(i, j);
  return to;
}

inline void check_finite(const char* name, const std::vector<double>& values) {
  for (std::size_t i = 0; i < values.size(); ++i)
    if (!std::isfinite(values[i]))
      throw ValueError(std::string(name) + " has the value " + show(values[i]) + " at position " +
                       std::to_string(i) + "; it must be finite");
}

/// A square matrix is symmetric up to rounding of its largest element.
inline void check_symmetric(const char* name, const Matrix<double>& a) {
  check_finite(name, a.elements());
  double largest = 0;
  for (const double element : a.elements()) largest = std::max(largest, std::abs(element));
  for (Index i = 0; i < a.rows(); ++i)
    for (Index j = 0; j < i; ++j)
      if (std::abs(a(i, j) - a(j, i)) > 1e-12 * largest)
        throw ValueError(std::string(name) + " is not symmetric: " + show(a(i, j)) + " at (" +
                         std::to_string(i) + ", " + std::to_string(j) + ") against " + show(a(j, i)));
}

/// A square matrix is symmetric and positive definite, and not singular to working precision.
inline void check_positive_definite(const char* name, const Matrix<double>& a) {
  check_symmetric(name, a);
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(to_eigen(a), Eigen::EigenvaluesOnly);
  const double smallest = solver.eigenvalues().minCoeff();
  const double largest = solver.eigenvalues().maxCoeff();
  const double d = static_cast<double>(a.rows());
  if (solver.info() != Eigen::Success || !(smallest > d * 2.3e-16 * largest))
    throw ValueError(std::string(name) + " is not positive definite: its smallest eigenvalue is " +
                     show(smallest) + " (largest " + show(largest) +
                     "); add a positive number to its diagonal");
}

}  // namespace brenier
