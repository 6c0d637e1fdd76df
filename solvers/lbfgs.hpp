// SPDX-License-Identifier: MIT
// Minimisation of a smooth function with bounds by the machine of kernels/model/lbfgs.hpp. For .cpp files only.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "kernels/model/lbfgs.hpp"

namespace brenier {

/// f over theta (n) with theta_k >= lower_k. T is the type that f sees its argument in.
template <class T>
struct BoundedProblem {
  /// Value and gradient (n, overwritten) at theta. Neither has to be finite; such points are not taken.
  std::function<double(const T* theta, double* gradient)> evaluate;
  std::span<const T> lower;  // (n); -inf: no bound
  /// (n), >= 0: the first inverse Hessian up to a factor, the square of the length that a parameter is expected
  /// to move on. 0: it stays where it is.
  std::span<const double> metric;
};

/// From theta (n), which is within its bounds, to the lowest point that was accepted. not_finite: at the start, and
/// theta is as it was. Sums run in one order: the same numbers give the same bits.
template <class T>
LbfgsReport minimise(const BoundedProblem<T>& problem, const LbfgsOptions& options, std::vector<T>& theta);

extern template LbfgsReport minimise(const BoundedProblem<float>&, const LbfgsOptions&, std::vector<float>&);
extern template LbfgsReport minimise(const BoundedProblem<double>&, const LbfgsOptions&,
                                     std::vector<double>&);

}  // namespace brenier
