// SPDX-License-Identifier: MIT
// Distances between clouds.
#pragma once

#include <span>
#include <vector>

namespace brenier {

/// The 2-Wasserstein distance on the line between the cloud x and the one with the given quantiles: points of
/// equal weight, as many as in x, ascending. Exact: the optimal map on the line is monotone (Villani, Topics
/// in Optimal Transportation, theorem 2.18). x need not be sorted. ShapeError where the sizes differ or are
/// 0.
double wasserstein_1d(std::vector<double> x, std::span<const double> quantiles);

}  // namespace brenier
