// SPDX-License-Identifier: MIT
// Gauss quadrature from a symmetric tridiagonal matrix: its eigenvalues are the nodes, the squared first
// components of its eigenvectors the weights (Golub and Welsch, Math. Comp. 23, 1969).
#pragma once

#include <cmath>
#include <limits>

#include "brenier/base/portable.hpp"

namespace brenier {

/// Eigenvalues of the symmetric tridiagonal (n, n) matrix with this diagonal (n) and off_diagonal (n, the
/// last element is work space), by the implicit QL method (Dubrulle, Martin and Wilkinson, Numer. Math. 12,
/// 1968). On return `diagonal` holds the eigenvalues, in no order, `first` (n) the first components of the
/// unit eigenvectors, and off_diagonal nothing. False where an entry is not finite, or an eigenvalue takes
/// more than 60 iterations, which is not known to happen. Entries must be small enough to be squared.
BRENIER_HOST_DEVICE inline bool tridiagonal_eigen(int n, double* diagonal, double* off_diagonal,
                                                  double* first) {
  constexpr double kUnit = std::numeric_limits<double>::epsilon();
  constexpr double kLargest = std::numeric_limits<double>::max();
  for (int i = 0; i < n; ++i) {
    first[i] = i == 0 ? 1.0 : 0.0;
    if (i + 1 == n) off_diagonal[i] = 0;
    if (!(std::abs(diagonal[i]) <= kLargest && std::abs(off_diagonal[i]) <= kLargest)) return false;
  }
  for (int top = 0; top < n; ++top) {
    for (int iteration = 0;; ++iteration) {
      // The block that starts at `top` ends where an off-diagonal element is negligible.
      int end = top;
      while (end + 1 < n &&
             std::abs(off_diagonal[end]) > kUnit * (std::abs(diagonal[end]) + std::abs(diagonal[end + 1]))) {
        ++end;
      }
      if (end == top) break;
      if (iteration == 60) return false;
      // Wilkinson's shift: the eigenvalue of the leading 2 x 2 block that is nearer to diagonal[top].
      const double half = (diagonal[top + 1] - diagonal[top]) / (2 * off_diagonal[top]);
      const double root = std::sqrt(half * half + 1);
      double g = diagonal[end] - diagonal[top] + off_diagonal[top] / (half + (half < 0 ? -root : root));
      double sine = 1, cosine = 1, shifted = 0;
      int i = end - 1;
      for (; i >= top; --i) {  // chases the bulge upwards by plane rotations
        const double f = sine * off_diagonal[i];
        const double b = cosine * off_diagonal[i];
        const double length = std::sqrt(f * f + g * g);
        off_diagonal[i + 1] = length;
        if (length == 0) break;  // the matrix splits here
        sine = f / length;
        cosine = g / length;
        g = diagonal[i + 1] - shifted;
        const double r = (diagonal[i] - g) * sine + 2 * cosine * b;
        shifted = sine * r;
        diagonal[i + 1] = g + shifted;
        g = cosine * r - b;
        const double next = first[i + 1];
        first[i + 1] = sine * first[i] + cosine * next;
        first[i] = cosine * first[i] - sine * next;
      }
      if (i >= top) {
        diagonal[i + 1] -= shifted;
      } else {
        diagonal[top] -= shifted;
        off_diagonal[top] = g;
      }
      off_diagonal[end] = 0;
    }
  }
  return true;
}

/// e_1^T log(T) e_1 for a symmetric tridiagonal T as above; both arrays are overwritten, `first` (n) is work
/// space. NaN where T is not positive definite or not finite.
BRENIER_HOST_DEVICE inline double tridiagonal_log(int n, double* diagonal, double* off_diagonal,
                                                  double* first) {
  if (!tridiagonal_eigen(n, diagonal, off_diagonal, first)) return std::numeric_limits<double>::quiet_NaN();
  double sum = 0;
  for (int i = 0; i < n; ++i) {
    if (!(diagonal[i] > 0)) return std::numeric_limits<double>::quiet_NaN();
    sum += first[i] * first[i] * std::log(diagonal[i]);
  }
  return sum;
}

/// Row j of the Lanczos matrix that conjugate gradients build on the way, from what step j did: its length
/// and the ratio |r_{j+1}|^2 / |r_j|^2 (Saad, Iterative Methods for Sparse Linear Systems, 2nd ed., section
/// 6.7.3). `carry` is 0 before step 0 and belongs to the rows that follow.
BRENIER_HOST_DEVICE inline void cg_lanczos_row(double length, double ratio, double& carry, double& diagonal,
                                               double& off_diagonal) {
  diagonal = 1 / length + carry;
  off_diagonal = std::sqrt(ratio) / length;
  carry = ratio / length;
}

/// Mean and sample variance of values that come one by one (Welford 1962). Zero memory is a start.
struct RunningMean {
  double count, mean, squares;  // squares: sum of (value - mean)^2

  BRENIER_HOST_DEVICE void add(double value) {
    count += 1;
    const double step = value - mean;
    mean += step / count;
    squares += step * (value - mean);
  }
  /// NaN below two values.
  BRENIER_HOST_DEVICE double variance() const {
    return count > 1 ? squares / (count - 1) : std::numeric_limits<double>::quiet_NaN();
  }
};

namespace host {
/// tridiagonal_log() compiled once, with the flags of the whole library: for sources that have an
/// instruction set of their own.
double tridiagonal_log(int n, double* diagonal, double* off_diagonal, double* first);
}  // namespace host

}  // namespace brenier
