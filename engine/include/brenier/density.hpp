// SPDX-License-Identifier: MIT
// Initial densities: their logarithms and their clouds of particles.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "brenier/base/philox.hpp"
#include "brenier/base/view.hpp"
#include "brenier/export.h"

namespace BRENIER_API brenier {

/// How a cloud is drawn from a density.
enum class Sampling {
  /// Independent particles. Particle i depends on the seed, the stream and i only, not on N.
  random,
  /// Low discrepancy. In d = 1 the quantiles of (i + 1/2)/N, ascending; seed and stream have no effect there.
  /// In d > 1 the Sobol' sequence with a random digital shift for up to 21 uniforms per particle (Joe and
  /// Kuo, SIAM J. Sci. Comput. 30, 2008), best where N is a power of 2; a Latin hypercube above (McKay,
  /// Beckman and Conover, Technometrics 21, 1979). Each uniform coordinate then goes through a quantile
  /// function.
  stratified,
  /// Gaussian only: the stratified normals, made linear-affinely to have exactly the mean and the covariance
  /// (1/N convention) of the density. Needs N > d.
  whitened,
};

/// Particles with the logarithm of their density.
struct Cloud {
  Matrix<double> x;                 // (N, d)
  std::vector<double> log_density;  // N values, natural logarithm; empty where it is not known
};

/// A Barenblatt profile at a time; see class Barenblatt in brenier/oracles.hpp.
struct BarenblattOptions {
  Index dim = 1;
  double m = 2;
  double time = 0;  // to be set, positive
  double mass = 1;
};

/// A density on R^d that can be evaluated and sampled. A value: copies are cheap and share constant data.
class Density {
 public:
  /// N(mean, covariance): d values and (d, d). ShapeError: sizes. ValueError: a covariance that is not
  /// symmetric positive definite, non-finite values.
  static Density gaussian(const std::vector<double>& mean, const Matrix<double>& covariance);

  /// N(mean * ones, variance * I) in R^dim. ValueError: dim < 1, variance <= 0.
  static Density gaussian(Index dim, double mean, double variance);

  /// Uniform on the closed box [lower, upper] (d values each). ShapeError: sizes. ValueError: lower >= upper.
  static Density uniform(const std::vector<double>& lower, const std::vector<double>& upper);

  /// Sum of weights[k] * parts[k]; the weights are positive and are divided by their sum, the parts have one
  /// dimension and mass 1. ShapeError: sizes or dimensions. ValueError: weights, masses.
  static Density mixture(const std::vector<double>& weights, const std::vector<Density>& parts);

  /// A centred Barenblatt profile, of mass options.mass. Samples are exact in every dimension:
  /// |x|^2/radius^2 ~ Beta(d/2, m/(m-1)). ValueError: dim < 1, m <= 1, time <= 0, mass <= 0.
  static Density barenblatt(const BarenblattOptions& options);

  Index dim() const;
  double mass() const;

  /// Natural logarithm of the density at x (d values), with the mass where it is not 1. -infinity outside the
  /// support and where x is not finite; never NaN. ShapeError: x.size() != dim().
  double log_density(std::span<const double> x) const;

  /// The same for the rows of x (N, d). ShapeError: x.cols != dim().
  std::vector<double> log_density(MatrixView<const double> x) const;

  /// Draws n particles, whatever the mass. ValueError: n < 1; whitened where the density is not Gaussian or
  /// n <= d. NumericalError: whitened where the drawn cloud has no full covariance.
  Cloud sample(Index n, Sampling how = Sampling::random, std::uint64_t seed = 0,
               RandomStream stream = RandomStream::cloud) const;

  struct BRENIER_HIDDEN Impl;

 private:
  explicit Density(std::shared_ptr<const Impl> impl);
  std::shared_ptr<const Impl> impl_;
};

}  // namespace brenier
