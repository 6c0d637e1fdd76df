// SPDX-License-Identifier: MIT
// How far two clouds, or a cloud and a density, are from each other. Statistics come with their standard
// error.
#pragma once

#include <span>

#include "brenier/base/team.hpp"
#include "brenier/base/view.hpp"
#include "brenier/export.h"

namespace BRENIER_API brenier {

/// An estimate from a sample, and its standard error.
struct Estimate {
  double value = 0;
  double error = 0;
};

/// KL(p | q) from the log-densities of both at independent samples of p. Infinite where q is 0 at one of
/// them. ShapeError: lengths, fewer than 2 samples. ValueError: a NaN, or p = 0 at a sample of p.
Estimate kl_divergence(std::span<const double> log_p, std::span<const double> log_q);

/// The energy distance 2 E|X - Y| - E|X - X'| - E|Y - Y'| of clouds x (n, d) and y (m, d), unbiased: it may
/// come out below 0 (Szekely and Rizzo, J. Stat. Plan. Inference 143, 2013; without their square root). The
/// standard error is that of a U-statistic to first order; between equal distributions it is too small, and
/// of the order 1/n. O((n + m)^2 d). ShapeError: dimensions, fewer than 2 points. ValueError: points that are
/// not finite.
Estimate energy_distance(MatrixView<const double> x, MatrixView<const double> y, Team& team);

/// The squared maximum mean discrepancy with the kernel exp(-|x - y|^2 / (2 bandwidth^2)), unbiased (Gretton
/// et al., JMLR 13, 2012, eq. 3). Errors and cost as above; ValueError also where bandwidth <= 0.
Estimate mmd_squared(MatrixView<const double> x, MatrixView<const double> y, double bandwidth, Team& team);

/// The maximum mean discrepancy of the two empirical measures themselves (Gretton et al., eq. 5), not
/// squared: never below 0, and of the order n^-1/2 between clouds of one law. Errors and cost as above.
double mmd_empirical(MatrixView<const double> x, MatrixView<const double> y, double bandwidth, Team& team);

/// The median of the distances between points of both clouds together, a customary bandwidth: over all pairs,
/// or over those of 2000 points, evenly spaced by number. ShapeError: dimensions, no points. ValueError: all in one place.
double median_distance(MatrixView<const double> x, MatrixView<const double> y);

}  // namespace brenier
