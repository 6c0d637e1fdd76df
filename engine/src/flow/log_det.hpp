// SPDX-License-Identifier: MIT
// How the log-determinant of an inner problem is formed, and a check of one way against the other.
#pragma once

#include <cstdint>

#include "brenier/flow.hpp"

namespace brenier {

/// From this dimension on `automatic` takes CG. With hidden = {100, 20} and all 10 steps an iteration then
/// costs less than half of an exact one (level near d = 10; a third at d = 32, a tenth at d = 64), which pays
/// for the noise; near the identity three steps are enough and it is a third.
inline constexpr int kStochasticDim = 24;

/// What the inner loop is asked for in dimension `dim`.
LogDetOptions log_det_options(const LogDetChoice& choice, int dim);

/// Mean over 64 particles, evenly spaced by number, of log det H by Lanczos (8 probes, 15 steps) minus the
/// exact one, and the standard error of that mean.
struct LogDetCheck {
  double error = 0, deviation = 0;
};

/// The check with the network of `problem` at theta: Lanczos by `ops`, in T, the exact one in double. Probes
/// are keyed like those of an iteration after the last one.
template <class T>
LogDetCheck check_log_det(const Operations<T>& ops, const InnerProblem<T>& problem,
                          const std::vector<T>& theta, Team& team);

}  // namespace brenier
