// SPDX-License-Identifier: MIT
// A check of the stochastic log-determinant against the exact one.
#pragma once

#include <vector>

#include "brenier/base/team.hpp"
#include "kernels/operations.hpp"

namespace brenier {

/// Mean over 64 particles, evenly spaced by number, of log det H by Lanczos (8 probes, 15 steps) minus the
/// exact one, and the standard error of that mean.
struct LogDetCheck {
  double error = 0, deviation = 0;
};

/// The check with the network of `problem` at theta: Lanczos by `ops`, in T, the exact one by `exact`. Probes
/// are keyed like those of an iteration after the last one.
template <class T>
LogDetCheck check_log_det(const Operations<T>& ops, const Operations<double>& exact,
                          const InnerProblem<T>& problem, const std::vector<T>& theta, Team& team);

}  // namespace brenier
