// SPDX-License-Identifier: MIT
// Entropic optimal transport between two clouds, as a number.
#pragma once

#include <vector>

#include "brenier/base/team.hpp"
#include "brenier/base/view.hpp"
#include "brenier/export.h"
#include "brenier/options.hpp"

namespace BRENIER_API brenier {

/// A value, and how well it was solved for.
struct EntropicTransport {
  double value = 0;  // in the unit of the cost
  SinkhornReport report;
};

/// min <P, C> + epsilon KL(P | a x b) over plans between x (n, d) and y (m, d) with the cost
/// C = 1/2 |x - y|^2; with options.debiased the Sinkhorn divergence, which is 0 between equal clouds (Feydy
/// et al., AISTATS 2019). Weights a (n) and b (m) are above 0 and sum to 1; empty: equal ones. In double
/// precision, O(n m d) a step. The value is a lower bound of the minimum, short of it by a term of second
/// order in report.marginal_error. ShapeError: dimensions that differ, no points, numbers of weights.
/// ValueError: points that are not finite or whose cost overflows, weights, options outside their range.
EntropicTransport entropic_transport(MatrixView<const double> x, MatrixView<const double> y,
                                     const SinkhornOptions& options, Team& team,
                                     const std::vector<double>& a = {}, const std::vector<double>& b = {});

}  // namespace brenier
