// SPDX-License-Identifier: MIT
// How far a parameter is expected to move in a search.
#pragma once

#include <cmath>

#include "brenier/base/portable.hpp"

namespace brenier {

/// The square of that length, see BoundedProblem (solvers/lbfgs.hpp), of a parameter with this start, bound and rate. One with
/// a bound moves by its own size; 0.01 lets those at the bound leave it. 0: it stays.
BRENIER_HOST_DEVICE inline double squared_length(double start, double lower, double rate) {
  if (rate == 0) return 0;
  const double size = std::isfinite(lower) ? std::abs(start) + 0.01 * rate : rate;
  return size * size;
}

}  // namespace brenier
