// SPDX-License-Identifier: MIT
// Gaussian mixtures fitted to points: a density for data that came without one.
#pragma once

#include <cstdint>
#include <vector>

#include "brenier/base/view.hpp"
#include "brenier/density.hpp"
#include "brenier/export.h"

namespace BRENIER_API brenier {

struct GaussianMixtureOptions {
  int components = 1;
  int starts = 5;  // of which the most likely end is kept
  int iterations = 1000;
  double tolerance = 1e-10;      // of the mean log-likelihood, between two iterations
  double regularisation = 1e-6;  // added to the diagonal of each covariance, as a share of the mean variance
  std::uint64_t seed = 0;        // of the starts
};

/// sum_k weights[k] N(means row k, covariances[k]).
struct GaussianMixture {
  std::vector<double> weights;              // K, sum 1, descending
  Matrix<double> means;                     // (K, d)
  std::vector<Matrix<double>> covariances;  // K of (d, d)
  double log_likelihood = 0;                // mean over the points, natural logarithm
  int iterations = 0;
  bool converged = false;

  Density density() const;
};

/// Expectation maximisation (A. Dempster, N. Laird and D. Rubin, J. R. Stat. Soc. B 39, 1977) with full
/// covariances from k-means++ starts (D. Arthur and S. Vassilvitskii, SODA 2007). A function of the points, in
/// their order, and the options: the same on every machine up to rounding. points (N, d). ShapeError: no points.
/// ValueError: values that are not finite, options, fewer different points than components, points that are all
/// the same.
GaussianMixture fit_gaussian_mixture(MatrixView<const double> points, const GaussianMixtureOptions& options);

}  // namespace brenier
