// SPDX-License-Identifier: MIT
// Where a cloud is, and how large.
#pragma once

#include <vector>

#include "brenier/base/view.hpp"

namespace brenier {

struct Moments {
  std::vector<double> mean;  // (d)
  double deviation = 0;      // root mean square over points and components; times sqrt(d): over points
};

/// Of the rows of x (N, d), N and d >= 1, in two passes.
Moments moments(MatrixView<const double> x);

/// Of the rows of x about `mean`, over `unit` squared: (d, d), symmetric.
Matrix<double> covariance(MatrixView<const double> x, const std::vector<double>& mean, double unit = 1);

/// A deviation to divide by: 1 where all points are in one place, or there is one only.
inline double usable_scale(double deviation) {
  return deviation > 1e-100 ? deviation : 1.0;
}

}  // namespace brenier
