// SPDX-License-Identifier: MIT
// What is known in closed form about a configured flow: the solution of the PDE, and the exact iterates of
// the time stepping, which tell the error of the network from the error of tau.
#pragma once

#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "engine/src/config/config.hpp"

namespace brenier::app {

/// A number that nobody knows, or that nothing computed.
inline constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();

/// F and the spread of one density. Quiet NaN where not known.
struct Known {
  double functional = kUnknown;
  double deviation = kUnknown;  // square root of trace(covariance) / d
};

/// Closed forms of one flow; everything may be unknown.
class Reference {
 public:
  virtual ~Reference() = default;

  /// Which closed form this is, for reports.
  virtual std::string name() const = 0;
  /// The PDE's solution `elapsed` after the start.
  virtual Known exact(double elapsed) const = 0;
  /// Iterate `step` of the scheme, 0 .. steps.
  virtual Known scheme(int step) const = 0;
  /// Quantiles (i + 1/2)/n of the solution in d = 1; empty where not known.
  virtual std::vector<double> exact_quantiles(double elapsed, Index n) const = 0;
  virtual std::vector<double> scheme_quantiles(int step, Index n) const = 0;
  /// The solution's density at the points x in d = 1, with its mass; empty where not known.
  virtual std::vector<double> exact_density(double elapsed, const std::vector<double>& x) const = 0;
};

/// The closed form of a configuration: the porous medium from a Barenblatt profile (with an isotropic
/// quadratic potential or none), Gaussians under quadratic potentials and entropy, a density of [exact], or
/// nullptr, also where the closed form cannot be computed (a tau that overflows).
std::unique_ptr<Reference> find_reference(const Config& config);

/// A lower bound of F over all densities of the cloud's mass: [exact] functional, or the infimum of a
/// Gaussian or porous medium problem from whatever cloud; -infinity where not known.
double known_infimum(const Config& config);

}  // namespace brenier::app
