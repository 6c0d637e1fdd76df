// SPDX-License-Identifier: MIT
// Lengths of steps: the estimate of a step's error from velocities along trajectories, and what follows from
// it. For .cpp files only.
#pragma once

#include "brenier/flow.hpp"

namespace brenier {

/// Clouds (N, d) at three times; lengths of the two steps between them.
struct ThreeTimes {
  MatrixView<const double> x0, x1, x2;
  double first = 0, second = 0;
  double rounding = 0;  // of the clouds' places, which is no acceleration

  /// |d^2 x/dt^2| by divided differences, root mean square over particles and components, relative to the
  /// deviation of x1.
  double acceleration() const;
};

/// tau^2/2 times the acceleration: what the first order misses in a step.
inline double order_difference(double tau, double acceleration) {
  return 0.5 * tau * tau * acceleration;
}

/// The step length that is expected to meet the tolerance, from one that had this error; at most twice as
/// long: the second order is stable for ratios below 1 + sqrt(2) (Grigorieff, Numer. Math. 42, 1983).
double next_length(double tau, double error, double tolerance);

/// `tau`, shortened so that the flow ends at end_time without a much shorter last step.
double fitted_length(double tau, double time, double end_time);

}  // namespace brenier
