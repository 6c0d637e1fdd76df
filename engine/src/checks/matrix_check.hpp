// SPDX-License-Identifier: MIT
// Checks of small dense matrices that callers give.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "brenier/base/error.hpp"
#include "brenier/base/view.hpp"
#include "kernels/base/show.hpp"
#include "solvers/dense.hpp"

namespace brenier {

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
  const dense::SymmetricEigen spectrum = dense::symmetric_eigen(a, false);
  const double smallest = *std::min_element(spectrum.values.begin(), spectrum.values.end());
  const double largest = *std::max_element(spectrum.values.begin(), spectrum.values.end());
  const double d = static_cast<double>(a.rows());
  if (!spectrum.converged || !(smallest > d * 2.3e-16 * largest))
    throw ValueError(std::string(name) + " is not positive definite: its smallest eigenvalue is " +
                     show(smallest) + " (largest " + show(largest) +
                     "); add a positive number to its diagonal");
}

}  // namespace brenier
