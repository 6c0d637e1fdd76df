// SPDX-License-Identifier: MIT
// The kinds of densities behind brenier::Density.
#pragma once

#include <limits>
#include <memory>
#include <vector>

#include "brenier/density.hpp"
#include "brenier/oracles.hpp"
#include "engine/src/density/quantiles.hpp"
#include "solvers/dense.hpp"

namespace brenier {

inline constexpr double infinity = std::numeric_limits<double>::infinity();

/// A density as a map of the unit cube: a point u of [0,1]^uniforms() that is uniform becomes a sample.
struct Density::Impl {
  virtual ~Impl() = default;
  virtual Index dim() const = 0;
  virtual double mass() const { return 1; }
  virtual double log_density(const double* x) const = 0;  // x finite

  /// Coordinates of the unit cube that one sample needs.
  virtual Index uniforms() const = 0;
  virtual void transport(const double* u, double* x) const = 0;

  // Of the law with mass 1, d = 1 only.
  virtual double tail(double x, bool upper) const = 0;
  virtual double quantile(double p, bool upper) const = 0;
};

struct GaussianImpl final : Density::Impl {
  GaussianImpl(const std::vector<double>& mean, const dense::Cholesky& factor);
  Index dim() const override { return factor.dim(); }
  double log_density(const double* x) const override;
  Index uniforms() const override { return factor.dim(); }
  void transport(const double* u, double* x) const override;
  double tail(double x, bool upper) const override;
  double quantile(double p, bool upper) const override;

  std::vector<double> mean;
  dense::Cholesky factor;  // of the covariance
  double log_norm = 0;
};

struct UniformImpl final : Density::Impl {
  UniformImpl(const std::vector<double>& lower, const std::vector<double>& upper);
  Index dim() const override { return static_cast<Index>(lower.size()); }
  double log_density(const double* x) const override;
  Index uniforms() const override { return dim(); }
  void transport(const double* u, double* x) const override;
  double tail(double x, bool upper) const override;
  double quantile(double p, bool upper) const override;

  std::vector<double> lower;
  std::vector<double> upper;
  double log_value = 0;
};

struct MixtureImpl final : Density::Impl {
  MixtureImpl(const std::vector<double>& weights,
              const std::vector<std::shared_ptr<const Density::Impl>>& parts);
  Index dim() const override { return parts.front()->dim(); }
  double log_density(const double* x) const override;
  Index uniforms() const override;
  void transport(const double* u, double* x) const override;
  double tail(double x, bool upper) const override;
  double quantile(double p, bool upper) const override;

  std::vector<double> weights;  // sum 1
  std::vector<std::shared_ptr<const Density::Impl>> parts;
};

struct KernelImpl final : Density::Impl {
  KernelImpl(MatrixView<const double> points, const dense::Cholesky& factor);
  Index dim() const override { return factor.dim(); }
  double log_density(const double* x) const override;
  Index uniforms() const override { return 1 + dim(); }
  void transport(const double* u, double* x) const override;
  double tail(double x, bool upper) const override;
  double quantile(double p, bool upper) const override;

  Matrix<double> points;  // (n, d); in d = 1 ascending
  std::vector<double> centre;
  dense::Cholesky factor;   // of the kernel's covariance
  Matrix<double> lower;     // that factor L
  Matrix<double> standard;  // (d, n): L^{-1}(x_i - centre), where the kernel is a standard normal
  double log_norm = 0;      // of one kernel, divided by n
};

struct BarenblattImpl final : Density::Impl {
  BarenblattImpl(const Barenblatt& profile, double time);
  Index dim() const override { return profile.dim(); }
  double mass() const override { return profile.mass(); }
  double log_density(const double* x) const override;
  Index uniforms() const override { return dim() == 1 ? 1 : dim() + 1; }
  void transport(const double* u, double* x) const override;
  double tail(double x, bool upper) const override;
  double quantile(double p, bool upper) const override;

  /// Distance from the centre of the sample whose |x|^2/radius^2 has the distribution function p.
  double distance(double p) const;

  Barenblatt profile;
  double time;
  double radius;
  BetaLaw law;  // of |x|^2/radius^2
};

/// N points of the unit cube of that dimension, row by row; see Sampling::stratified. With 1 dimension the
/// midpoints (i + 1/2)/N.
Matrix<double> stratified_cube(Index n, Index dimension, std::uint64_t seed, RandomStream stream);

/// Independent uniforms; row i depends on seed, stream and i only.
void random_cube_point(std::uint64_t seed, RandomStream stream, Index i, std::span<double> u);

}  // namespace brenier
