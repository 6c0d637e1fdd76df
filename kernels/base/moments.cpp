// SPDX-License-Identifier: MIT
#include "kernels/base/moments.hpp"

#include <cmath>

namespace brenier {

Moments moments(MatrixView<const double> x) {
  Moments out;
  out.mean.assign(x.cols, 0.0);
  for (Index i = 0; i < x.rows; ++i) {
    for (Index c = 0; c < x.cols; ++c) out.mean[c] += x(i, c);
  }
  for (double& m : out.mean) m /= static_cast<double>(x.rows);
  double sum = 0;
  for (Index i = 0; i < x.rows; ++i) {
    for (Index c = 0; c < x.cols; ++c) sum += (x(i, c) - out.mean[c]) * (x(i, c) - out.mean[c]);
  }
  out.deviation = std::sqrt(sum / static_cast<double>(x.rows * x.cols));
  return out;
}

Matrix<double> covariance(MatrixView<const double> x, const std::vector<double>& mean, double unit) {
  const Index d = x.cols;
  Matrix<double> out(d, d);
  std::vector<double> off(static_cast<std::size_t>(d));
  for (Index i = 0; i < x.rows; ++i) {
    for (Index a = 0; a < d; ++a) {
      off[static_cast<std::size_t>(a)] = (x(i, a) - mean[static_cast<std::size_t>(a)]) / unit;
      for (Index b = 0; b <= a; ++b)
        out(a, b) += off[static_cast<std::size_t>(a)] * off[static_cast<std::size_t>(b)];
    }
  }
  for (Index a = 0; a < d; ++a) {
    for (Index b = 0; b <= a; ++b) out(b, a) = out(a, b) /= static_cast<double>(x.rows);
  }
  return out;
}

}  // namespace brenier
