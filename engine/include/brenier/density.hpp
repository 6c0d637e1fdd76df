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

/// Rules for the bandwidth of a kernel density estimate of N points in R^d. Each multiplies the sample standard
/// deviation (1/(N - 1) convention), and so the covariance by its square.
enum class BandwidthRule {
  scott,      ///< N^(-1/(d + 4)): D. W. Scott, Multivariate Density Estimation (1992)
  silverman,  ///< (N (d + 2)/4)^(-1/(d + 4)): B. W. Silverman, Density Estimation (1986)
};

/// The factor of a rule. ValueError: n < 1, dim < 1.
double bandwidth_factor(BandwidthRule rule, Index n, Index dim);

/// Covariance of the kernel by a rule, (d, d): the sample covariance of points (N, d) times the squared factor.
/// ShapeError: no points. ValueError: values that are not finite, points that do not span R^d, so that the
/// covariance is singular.
Matrix<double> kernel_covariance(MatrixView<const double> points, BandwidthRule rule);

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

  /// Kernel density estimate: the mean of the Gaussians N(x_i, covariance) around points x_i (N, d). Evaluation
  /// takes all N points. ShapeError: no points, sizes. ValueError: values that are not finite, a covariance that
  /// is not symmetric positive definite.
  static Density kde(MatrixView<const double> points, const Matrix<double>& covariance);

  /// With kernel_covariance(points, rule).
  static Density kde(MatrixView<const double> points, BandwidthRule rule = BandwidthRule::scott);

  /// With the covariance bandwidth^2 I: bandwidth is in the units of x. ValueError: bandwidth <= 0.
  static Density kde(MatrixView<const double> points, double bandwidth);

  Index dim() const;
  double mass() const;

  /// Natural logarithm of the density at x (d values), with the mass where it is not 1. -infinity outside the
  /// support and where x is infinite; NaN where a coordinate is NaN, and nowhere else. ShapeError: x.size() != dim().
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
