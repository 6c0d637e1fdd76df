// SPDX-License-Identifier: MIT
// Sums over pairs of particles for tests: plain loops in long double, and bounds for what rounding can do.
#pragma once

#include <vector>

#include "brenier/base/view.hpp"
#include "brenier/model/objective.hpp"

namespace brenier::test {

struct PairSums {
  Matrix<double> force;  // (n, d): sum of weight/(n-1) sum_{j != i} grad W(y_i - y_j)
  Matrix<double> bound;  // (n, d): the same of absolute values
  double energy = 0;     // sum of weight/(2 n (n-1)) sum_{i != j} W(y_i - y_j)
  double energy_bound = 0;
};

/// Of a cloud y (n, d). Programs are evaluated by the reference, in double; their W must change on the scale
/// of 1.
PairSums exact_pair_sums(const std::vector<InteractionTerm>& terms, const Matrix<double>& y);

}  // namespace brenier::test
