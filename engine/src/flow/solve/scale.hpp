// SPDX-License-Identifier: MIT
// Where a cloud is, and how large. For .cpp files only.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "brenier/base/view.hpp"

namespace brenier {

inline double square(double x) {
  return x * x;
}

/// Standard deviation of a coordinate.
inline double deviation(const Matrix<double>& x, Index c) {
  double mean = 0, squares = 0;
  const double share = 1 / static_cast<double>(x.rows());
  for (Index i = 0; i < x.rows(); ++i) mean += share * x(i, c);
  for (Index i = 0; i < x.rows(); ++i) squares += share * (x(i, c) - mean) * (x(i, c) - mean);
  return std::sqrt(squares);
}

/// Mean and root mean square deviation over particles and components. A cloud in one place, to the rounding of its
/// coordinates, has no size of its own: `scale` is then the distance of that place from the origin, or 1.
inline void location_and_scale(const Matrix<double>& x, std::vector<double>& mean, double& scale) {
  const Index n = x.rows(), d = x.cols();
  mean.assign(static_cast<std::size_t>(d), 0.0);
  double largest = 0;
  for (Index i = 0; i < n; ++i) {
    for (Index c = 0; c < d; ++c) {
      mean[c] += x(i, c);
      largest = std::max(largest, std::abs(x(i, c)));
    }
  }
  for (double& m : mean) m /= static_cast<double>(n);
  // Relative to the largest coordinate: no square of a small or large number leaves the range of doubles.
  double sum = 0;
  for (Index i = 0; largest > 0 && i < n; ++i) {
    for (Index c = 0; c < d; ++c) {
      const double off = (x(i, c) - mean[c]) / largest;
      sum += off * off;
    }
  }
  scale = largest * std::sqrt(sum / static_cast<double>(n * d));
  if (!(scale > 16 * std::numeric_limits<double>::epsilon() * largest)) scale = largest > 0 ? largest : 1;
}

/// What rounding to a type (its `epsilon`) may move all of a cloud by that lies at `mean` and is as large as `scale`: V there is that
/// of the rounded place. Of particles that differ by many roundings it averages out.
inline double rounding_of_place(const std::vector<double>& mean, double scale, double epsilon) {
  double one = 0;
  for (const double m : mean) one = std::max(one, epsilon * std::abs(m));
  return one > scale ? one : one * (one / scale);
}

}  // namespace brenier
