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

}  // namespace brenier
