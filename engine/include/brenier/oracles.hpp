// SPDX-License-Identifier: MIT
// Closed forms for judging flows: exact solutions of the equations, and exact iterates of the JKO scheme in
// both orders. The iterates separate the error of the network from the error of the time stepping.
//
// Order 1 is the JKO step. Order 2 is BDF2 along trajectories (Gallouët, Natale, Todeschi, "From geodesic
// extrapolation to a variational BDF2 scheme for Wasserstein gradient flows"): a JKO step of length (2/3) tau
// from x* = (4/3) x_n - (1/3) x_{n-1}; the first step is made of `startup_steps` JKO steps of
// tau/startup_steps. Where the extrapolation would not be a monotone map, the step is taken at order 1.
#pragma once

#include <span>
#include <vector>

#include "brenier/base/view.hpp"
#include "brenier/export.h"

namespace BRENIER_API brenier {

/// JKO steps that replace the first step of order 2, which has no predecessor.
inline constexpr int startup_steps = 8;

/// The Barenblatt solution of the porous medium equation d_t rho = Laplacian(rho^m), m > 1:
/// rho(x, t) = t^-alpha (C - k |x|^2 t^(-2 beta))_+^(1/(m-1)), of total mass `mass`
/// (Vazquez, "The Porous Medium Equation", section 17.5). The energy is F = int rho^m / (m-1).
class Barenblatt {
 public:
  /// ValueError: dim < 1, m <= 1, mass <= 0.
  Barenblatt(Index dim, double m, double mass = 1);

  Index dim() const { return dim_; }
  double m() const { return m_; }
  double mass() const { return mass_; }
  double C() const { return C_; }
  double k() const { return k_; }
  double alpha() const { return alpha_; }
  double beta() const { return alpha_ / static_cast<double>(dim_); }

  /// Each of the following: ValueError where t <= 0.
  double radius(double t) const;              // of the support
  double second_moment(double t) const;       // mean of |x|^2 over the normalised profile
  double standard_deviation(double t) const;  // of one coordinate
  double energy(double t) const;

  /// Natural logarithm of rho at x (dim values); -infinity on and outside the edge of the support.
  /// ShapeError: another number of coordinates.
  double log_density(std::span<const double> x, double t) const;
  double density(std::span<const double> x, double t) const;

 private:
  Index dim_;
  double m_, mass_, C_, k_, alpha_;
};

/// Gradient flow of int rho^m/(m-1) + int (stiffness/2)|x|^2 drho from a Barenblatt profile. The exact
/// solution and every JKO iterate are the first profile scaled by a number, counted from 1.
class BarenblattFlow {
 public:
  /// Starts from `profile` at time `start`. ValueError: start <= 0, stiffness < 0.
  BarenblattFlow(const Barenblatt& profile, double start, double stiffness = 0);

  /// Scale of the exact solution after the time `elapsed` >= 0.
  double exact(double elapsed) const;

  /// Scales of the iterates 0 .. steps. ValueError: tau <= 0, steps < 0, order other than 1 and 2.
  /// Order 1 solves ((1 + tau a) s - 1) s^(d(m-1)+1) = tau d(m-1) F/M2 per step, a the stiffness, F the
  /// internal energy and M2 the second moment of the profile before the step.
  std::vector<double> iterates(double tau, int steps, int order = 1) const;

  /// Energy, support radius and standard deviation of one coordinate of the profile scaled by `scale`.
  double energy(double scale) const;
  double radius(double scale) const { return scale * radius_; }
  double standard_deviation(double scale) const { return scale * deviation_; }

 private:
  double step(double scale, double tau) const;

  double power_;     // d(m-1): the internal energy goes as scale^-power
  double internal_;  // int rho^m/(m-1) at scale 1
  double moment_;    // int |x|^2 drho at scale 1
  double stiffness_;
  double radius_;
  double deviation_;
};

/// Minimiser of int rho^m/(m-1) + int (stiffness/2)|x|^2 drho among densities of mass `mass`:
/// rho = (C - k|x|^2)_+^(1/(m-1)). The paper's nonlinear Fokker-Planck problem, V = x^2 and m = 2 in d = 1,
/// has stiffness 2.
struct PorousSteadyState {
  Index dim = 0;
  double m = 0;
  double C = 0;
  double k = 0;
  double radius = 0;
  double energy = 0;  // the infimum

  double density(std::span<const double> x) const;
};

/// ValueError: dim < 1, m <= 1, stiffness <= 0, mass <= 0.
PorousSteadyState porous_steady_state(Index dim, double m, double stiffness, double mass = 1);

/// A Gaussian measure: mean (d values) and covariance (d, d).
struct GaussianState {
  std::vector<double> mean;
  Matrix<double> covariance;
};

/// Gradient flow of int V drho + diffusion * int rho log rho with V(x) = (x-b)^T A (x-b)/2, from a Gaussian.
/// A = 0 leaves entropy only, diffusion = 0 the potential only. A and the covariance need not commute.
class GaussianFlow {
 public:
  /// `stiffness` is A (d, d), symmetric; `centre` is b (d values).
  /// ShapeError: sizes. ValueError: A not symmetric, diffusion < 0, non-finite values.
  GaussianFlow(const Matrix<double>& stiffness, std::vector<double> centre, double diffusion = 1);

  Index dim() const { return static_cast<Index>(centre_.size()); }

  /// The solution at time t >= 0 (Ornstein-Uhlenbeck). The states must have symmetric positive definite
  /// covariances of the right size (ShapeError, ValueError), here and below.
  GaussianState exact(const GaussianState& initial, double t) const;

  /// The JKO iterates 0 .. steps. With B = I + tau A and Q = B^(-1/2) S B^(-1/2), one step takes the
  /// covariance S to B^(-1/2) X B^(-1/2), where X has the eigenvectors of Q and sqrt(X) = (sqrt(q) + sqrt(q +
  /// 4 tau diffusion))/2; the mean to B^-1 (mean + tau A b). ValueError: tau <= 0, steps < 0, order other
  /// than 1 and 2, I + tau A not positive definite. NumericalError: an iterate that is singular to rounding.
  std::vector<GaussianState> iterates(const GaussianState& initial, double tau, int steps,
                                      int order = 1) const;

  /// F of a Gaussian. ValueError: a covariance that is not positive definite.
  double energy(const GaussianState& state) const;

  /// Infimum of F over all probability densities; -infinity where A is not positive definite (0 where
  /// diffusion = 0 and A is positive semidefinite).
  double infimum() const;

 private:
  struct Step;
  Step step(const std::vector<double>& mean, const Matrix<double>& covariance, double tau) const;
  void check(const GaussianState& state) const;

  Matrix<double> stiffness_;
  std::vector<double> centre_;
  double diffusion_;
  Matrix<double> axes_;           // eigenvectors of A, in columns
  std::vector<double> spectrum_;  // eigenvalues of A
};

/// KL(p|q) + KL(q|p) of two Gaussians, the error measure of the Ornstein-Uhlenbeck benchmarks.
/// ShapeError: sizes. ValueError: covariances not positive definite.
double symmetric_kl(const GaussianState& p, const GaussianState& q);

/// Of a symmetric matrix. ShapeError: not square. ValueError: not symmetric, elements that are not finite.
double smallest_eigenvalue(const Matrix<double>& symmetric);

/// The 2-Wasserstein distance of two Gaussians: |m_p - m_q|^2 + tr(P + Q - 2 (Q^1/2 P Q^1/2)^1/2), its root
/// (Olkin and Pukelsheim, Linear Algebra Appl. 48, 1982). Errors as above.
double wasserstein_2(const GaussianState& p, const GaussianState& q);

/// Mean and covariance (1/N) of a cloud (N, d). ShapeError: no points.
GaussianState gaussian_fit(MatrixView<const double> x);

/// Gradient flow in d = 1 of (1/2) int int W(x-y) with W(r) = r^2/2 - log|r|, from the semicircle density of
/// support [-radius, radius]; it stays a semicircle. Its minimiser has radius sqrt(2).
class AggregationFlow {
 public:
  /// ValueError: radius <= 0.
  explicit AggregationFlow(double radius);

  /// Support radius of the exact solution after the time `elapsed` >= 0.
  double exact(double elapsed) const;

  /// Support radii of the JKO iterates 0 .. steps: (1 + tau) R'^2 - R R' - 2 tau = 0 per step of order 1.
  /// ValueError as for BarenblattFlow.
  std::vector<double> iterates(double tau, int steps, int order = 1) const;

  /// F of the semicircle of that radius. ValueError: radius <= 0.
  static double energy(double radius);

  /// F of a normal density. ValueError: variance <= 0.
  static double gaussian_energy(double variance);

  /// The minimum of F, 1/4 - (1/2)(log(sqrt(2)/2) - 1/4).
  static double infimum();

  /// The minimiser, sqrt((2 - x^2)_+)/pi.
  static double steady_density(double x);

 private:
  double radius_;
};

}  // namespace brenier
