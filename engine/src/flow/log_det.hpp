// SPDX-License-Identifier: MIT
// A check of the stochastic log-determinant against the exact one.
#pragma once

#include <algorithm>
#include <vector>

#include "brenier/base/team.hpp"
#include "kernels/operations.hpp"

namespace brenier {

/// Which of so many particles are looked at: 64, evenly spaced by number.
inline std::vector<Index> log_det_rows(Index particles) {
  constexpr Index kParticles = 64;
  std::vector<Index> rows(static_cast<std::size_t>(std::min(particles, kParticles)));
  for (std::size_t i = 0; i < rows.size(); ++i)
    rows[i] = static_cast<Index>(i) * particles / static_cast<Index>(rows.size());
  return rows;
}

/// Mean over particles of log det H by Lanczos (8 probes, 15 steps) minus the
/// exact one, and the standard error of that mean.
struct LogDetCheck {
  double error = 0, deviation = 0;
};

/// The check with the network and the particles of `problem`, those of log_det_rows(), at theta: Lanczos by `ops`, in T, the exact one by `exact`. Probes
/// are keyed like those of an iteration after the last one.
template <class T>
LogDetCheck check_log_det(const Operations<T>& ops, const Operations<double>& exact,
                          const InnerProblem<T>& problem, const std::vector<T>& theta, Team& team);

}  // namespace brenier
