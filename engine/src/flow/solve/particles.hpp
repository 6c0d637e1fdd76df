// SPDX-License-Identifier: MIT
// A JKO step on the particles themselves, where F has no internal energy: no network, no map, no density. For .cpp
// files only.
#pragma once

#include <atomic>

#include "engine/src/flow/cloud_objective.hpp"

namespace brenier {

struct ParticleOptions {
  int evaluations = 200;
  double tolerance = 1e-6;                // of the decrease, see LbfgsOptions
  const Matrix<double>* start = nullptr;  // images to start from; null: the particles themselves
  const std::atomic<bool>* interrupt = nullptr;
};

struct ParticleStep {
  Matrix<double> y;     // (N, d)
  double decrease = 0;  // of F + 1/(2 tau) E |y - x|^2
  int evaluations = 0;
  bool interrupted = false;
  bool converged = false;  // before the evaluations were spent
  SinkhornReport sinkhorn;
};

/// The minimum over the images y of the particles x (N, d), by L-BFGS. `decrease` is from the start. `ops` evaluate F.
ParticleStep solve_on_particles(const Objective& objective, const Matrix<double>& x, double tau,
                                const ParticleOptions& options, const Operations<double>& ops, Team& team);

}  // namespace brenier
