// SPDX-License-Identifier: MIT
// Minimisation of a smooth function with bounds: projected L-BFGS with a diagonal metric (Nocedal, Math. Comp. 35,
// 1980; the projection of Bertsekas, SIAM J. Control Optim. 20, 1982). For .cpp files only.
#pragma once

#include <atomic>
#include <functional>
#include <limits>
#include <span>
#include <vector>

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

struct LbfgsOptions {
  int memory = 10;        // pairs kept, >= 1
  int evaluations = 100;  // most, >= 1
  /// Stops where `window` iterations together lower f by less than `tolerance` of (reference - f). An f above the
  /// reference does not stop it. NaN: the reference is the first value.
  double tolerance = 0;
  int window = 3;
  double reference = std::numeric_limits<double>::quiet_NaN();
  /// Deviation of values by rounding. Decreases below it stop the search as well, and so does a search along the
  /// gradient whose best decrease is a hundredth of it.
  double noise = 0;
  double negligible = 0;  // stops where a window lowers f by less, if f is at most this above the reference
  double gradient =
      0;  // stops where the gradient's 2-norm, without components that a bound holds, is at most this
  double first_step = 0.01;  // of the first search: no parameter moves further, in units of its metric's root
  const std::atomic<bool>* interrupt = nullptr;
};

struct LbfgsReport {
  enum class End { tolerance, gradient, evaluations, no_decrease, not_finite, interrupted };
  End end = End::evaluations;
  int evaluations = 0;
  int iterations = 0;         // accepted points
  int resets = 0;             // searches that began anew along the gradient
  double first = 0;           // values: at the start,
  double value = 0;           // and at the point returned, the lowest that was accepted
  double first_gradient = 0;  // norms as above
  double last_gradient = 0;   // at the last point, not always the one returned
};

/// From theta (n), which is within its bounds, to the lowest point that was accepted. not_finite: at the start, and
/// theta is as it was. Sums run in one order: the same numbers give the same bits.
template <class T>
LbfgsReport minimise(const BoundedProblem<T>& problem, const LbfgsOptions& options, std::vector<T>& theta);

extern template LbfgsReport minimise(const BoundedProblem<float>&, const LbfgsOptions&, std::vector<float>&);
extern template LbfgsReport minimise(const BoundedProblem<double>&, const LbfgsOptions&,
                                     std::vector<double>&);

}  // namespace brenier
