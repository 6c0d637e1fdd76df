// SPDX-License-Identifier: MIT
// The 2-Wasserstein distance between clouds, where it can be computed exactly.
#pragma once

#include <span>
#include <vector>

#include "brenier/base/view.hpp"
#include "brenier/export.h"

namespace BRENIER_API brenier {

/// On the line, between clouds of equal weights. Exact: the optimal map is monotone (Villani, Topics in
/// Optimal Transportation, theorem 2.18). Neither needs to be sorted, sizes may differ; O(n log n).
/// ShapeError: no points. ValueError: a point that is not finite.
double wasserstein_1d(std::vector<double> x, std::span<const double> y);

/// In any dimension, between clouds x and y (n, d) of as many points of equal weight: the optimal plan is an
/// assignment, found by shortest augmenting paths (Jonker and Volgenant, Computing 38, 1987). n^2 doubles of
/// memory, a time of up to n^3: seconds at n = 2000. ShapeError: shapes, no points. ValueError: a point that
/// is not finite; more than `kMostAssigned` points.
double wasserstein_assignment(MatrixView<const double> x, MatrixView<const double> y);
inline constexpr Index kMostAssigned = 10000;

/// The same between clouds x (n, d) and y (m, d) of any sizes, each of equal weights, so that a point may be split between
/// several: the optimal plan of the transport problem, by shortest augmenting paths. n m doubles and 8-byte integers of
/// memory; for about as many points of each as long as an assignment takes, for few of one much less. ShapeError: shapes,
/// no points. ValueError: as above.
double wasserstein_transport(MatrixView<const double> x, MatrixView<const double> y);

/// The assignment itself: column[i] of the smallest sum of cost(i, column[i]), for a square matrix of finite
/// numbers.
std::vector<Index> assign(const Matrix<double>& cost);

}  // namespace brenier
