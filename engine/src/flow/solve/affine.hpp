// SPDX-License-Identifier: MIT
// The best affine map of a cloud for a JKO step, found on the particles without a network: it starts the step, and
// what it would still gain after the step tells that the step is not solved. For .cpp files only.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/src/flow/cloud/cloud_view.hpp"
#include "engine/src/flow/cloud_objective.hpp"

namespace brenier {

/// Of clouds on a device; above it a map has more numbers than particles have.
constexpr Index kResidentDim = 64;

/// y = m + A (x - m) + t, A symmetric and positive definite.
struct AffineMap {
  std::vector<double> centre, shift;  // m, t (d)
  Matrix<double> matrix;              // A (d, d)
  double narrowest =
      1;  // least deviation along an axis over the size of the cloud, where all of A was asked for
  double decrease = 0;  // F before minus (F + transport) after, on the particles it was found on
};

struct AffineOptions {
  bool full = false;       // false: A is a multiple of the identity
  bool stretches = true;   // false: A is the identity
  double least = 0;        // lower bound of the eigenvalues of A
  Index particles = 1024;  // most that the search looks at; fewer where there are pairs
  int evaluations = 25;
  /// The identity is good enough where a Newton step from it, whose curvatures are estimates, would move no axis by more than
  /// this, in its deviations and without translation; only with `full`.
  double negligible = 0;
  std::uint64_t seed = 0;  // of the particles that stand for all
};

/// Particles that best_affine() looks at, where `wanted` would be well: fewer where there are pairs or plans.
Index affine_particles(const Objective& objective, Index wanted);

/// Lowest F + 1/(2 tau) E |y - from|^2 of maps that move particles from x (N, d), with log-densities where there are
/// internal terms. `from` (N, d) are the points that transport is measured from; it may be x. The objective must
/// outlive the call. `ops` evaluate it, on a few points and many times.
AffineMap best_affine(const Objective& objective, const CloudView& x, const CloudView& from, double tau,
                      const AffineOptions& options, const Operations<double>& ops, Team& team);

}  // namespace brenier
