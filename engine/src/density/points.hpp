// SPDX-License-Identifier: MIT
// Points that a density is estimated from.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "brenier/base/error.hpp"
#include "brenier/base/view.hpp"
#include "kernels/base/show.hpp"

namespace brenier {

inline void check_points(MatrixView<const double> points) {
  if (points.rows < 1 || points.cols < 1)
    throw ShapeError("points is (" + std::to_string(points.rows) + ", " + std::to_string(points.cols) +
                     "); at least one point and one coordinate are needed");
  for (Index i = 0; i < points.rows; ++i)
    for (Index j = 0; j < points.cols; ++j)
      if (!std::isfinite(points(i, j)))
        throw ValueError("point " + std::to_string(i) + " has the coordinate " + show(points(i, j)) +
                         "; all coordinates must be finite");
}

inline std::vector<double> mean_of_points(MatrixView<const double> points) {
  std::vector<double> mean(static_cast<std::size_t>(points.cols), 0.0);
  for (Index i = 0; i < points.rows; ++i)
    for (Index j = 0; j < points.cols; ++j) mean[j] += points(i, j) / static_cast<double>(points.rows);
  return mean;
}

/// Sum of (x_i - mean) (x_i - mean)^T / divisor, (d, d).
inline Matrix<double> scatter_of_points(MatrixView<const double> points, const std::vector<double>& mean,
                                        double divisor) {
  Matrix<double> out(points.cols, points.cols);
  for (Index i = 0; i < points.rows; ++i)
    for (Index j = 0; j < points.cols; ++j)
      for (Index k = 0; k <= j; ++k) out(j, k) += (points(i, j) - mean[j]) * (points(i, k) - mean[k]);
  for (Index j = 0; j < points.cols; ++j)
    for (Index k = 0; k <= j; ++k) out(k, j) = out(j, k) /= divisor;
  return out;
}

}  // namespace brenier
