// SPDX-License-Identifier: MIT
// The density of a flow at any point (Alvarez-Melis, Schiff and Mroueh, Lemma 3.2 and Corollary 3.3):
//
//     log rho_k(y) = log rho_0(x_0) - log det (dx_k/dx_0),      x_0 the point that the flow carries to y.
//
// Maps of order 1 are inverted one after the other, last first. The bases of order 2, (4/3) x_n - (1/3)
// x_{n-1}, are no function of x_n alone: there x_0 is found for the whole trajectory at once, by Newton's
// method with the product of the Jacobians along it, from the particle that ends nearest to y.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "brenier/density.hpp"
#include "brenier/export.h"
#include "brenier/expression.hpp"
#include "brenier/map.hpp"
#include "brenier/newton.hpp"

namespace BRENIER_API brenier {

struct FlowDensityOptions {
  double tolerance = 1e-12;  // of each inversion, relative to |y| plus the deviation of the particles
  int iterations = 100;      // Newton steps of each inversion, >= 1
  Index particles = 1024;    // of rho_0, from which order 2 starts; the given ones are thinned to that many
  int threads = 0;           // 0: all processors
  std::string device = "auto";  // where maps are evaluated, in double precision; see backend()
};

/// rho_k for every step k of a flow, to evaluate and to sample. Not thread-safe: it has its own threads, and
/// keeps the particles that it has carried.
class FlowDensity {
 public:
  using Function = std::function<double(std::span<const double>)>;

  /// The maps of Flow::maps(), in the order they apply, whole steps of one dimension. ShapeError: dimensions.
  /// ValueError: the last map does not close a step; options.
  FlowDensity(std::vector<BrenierMap> maps, Density initial, FlowDensityOptions options = {});

  /// rho_0 known otherwise: `log_density` of a point, natural logarithm, -inf outside the support (or an
  /// empty function: then only pull() and push() are there), and `particles` (N, d) of it. sample() needs a
  /// Density.
  FlowDensity(std::vector<BrenierMap> maps, Function log_density, Matrix<double> particles,
              FlowDensityOptions options = {});

  ~FlowDensity();
  FlowDensity(FlowDensity&&) noexcept;
  FlowDensity& operator=(FlowDensity&&) noexcept;

  int dim() const;
  int steps() const;

  /// Points that the flow carries to others.
  struct Origins {
    Matrix<double> x;                   // (N, d): x_0; the row is NaN where there is none
    std::vector<InverseStatus> status;  // N
    double worst_round_trip = 0;  // largest |y - T(x_0)|, T the flow, over the points that have converged
    Index count(InverseStatus which) const;
  };
  struct LogDensities {
    std::vector<double> values;  // N, natural logarithms; -inf where there is no origin or rho_0 vanishes
    std::vector<InverseStatus> status;
    double worst_round_trip = 0;
    Index count(InverseStatus which) const;
  };

  /// Stands for the last step.
  static constexpr int last = -1;

  /// Where the rows of y (N, d) come from. A point is `outside` where some map does not reach it, or its
  /// coordinates are infinite; `unconverged` where one is NaN, or Newton's method ended elsewhere, which of a point far
  /// from all particles may also mean that extrapolated steps fold space there. ShapeError: y.cols is not
  /// dim(). ValueError: no such step.
  Origins pull(MatrixView<const double> y, int step = last) const;

  /// log rho_k at the rows of y (N, d), NaN only where a coordinate is. Errors as for pull(); ValueError: rho_0 is not known.
  LogDensities log_density(MatrixView<const double> y, int step = last) const;

  /// The rows of x (N, d) carried to a step. ShapeError: x.cols is not dim(). ValueError: no such step; x has
  /// no rows, or some that are not finite.
  Matrix<double> push(MatrixView<const double> x, int step = last) const;

  /// n particles of rho_0, carried to the step with their log-densities. ValueError: no such step; rho_0 is
  /// no Density; n and `how` as for Density::sample.
  Cloud sample(Index n, Sampling how = Sampling::random, std::uint64_t seed = 0, int step = last) const;

  /// The mean of a function under rho_k, which counts as mass 1, over n independent particles.
  struct Mean {
    double value = 0;
    double standard_error = 0;  // sample deviation / sqrt(n)
  };
  /// ValueError: as for sample(); n < 2. ShapeError: an expression of another dimension.
  Mean expectation(const Function& f, Index n, std::uint64_t seed = 0, int step = last) const;
  Mean expectation(const Expression& potential, Index n, std::uint64_t seed = 0, int step = last) const;

 private:
  struct BRENIER_HIDDEN State;
  std::unique_ptr<State> state_;
};

}  // namespace brenier
