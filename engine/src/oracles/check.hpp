// SPDX-License-Identifier: MIT
// Checks that the oracles share.
#pragma once

#include <cmath>
#include <string>

#include "brenier/base/error.hpp"
#include "kernels/base/show.hpp"

namespace brenier {

inline void check_positive(const char* name, double value) {
  if (!(value > 0) || !std::isfinite(value))
    throw ValueError(std::string(name) + " is " + show(value) + "; it must be positive and finite");
}

inline void check_time(double elapsed) {
  if (!(elapsed >= 0) || !std::isfinite(elapsed))
    throw ValueError("the elapsed time is " + show(elapsed) + "; it must be 0 or above");
}

inline void check_stepping(double tau, int steps, int order) {
  check_positive("tau", tau);
  if (steps < 0) throw ValueError("steps is " + std::to_string(steps) + "; it must be 0 or above");
  if (order != 1 && order != 2) throw ValueError("order is " + std::to_string(order) + "; it must be 1 or 2");
}

}  // namespace brenier
