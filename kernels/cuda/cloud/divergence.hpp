// SPDX-License-Identifier: MIT
// Divergences on the device: the operation, and the forces of a term in an inner loop. Defined for float and
// double in kernels/cuda/cloud/divergence.cpp.
#pragma once

#include <memory>
#include <vector>

#include "kernels/cuda/cloud/cloud_forces.hpp"
#include "kernels/cuda/step/control.hpp"
#include "kernels/operations.hpp"

namespace brenier::cuda {

/// See Operations. Potentials are not taken over from a `state`, and not left there: every call starts from
/// nothing.
template <class T>
SinkhornReport divergence(const DivergenceTerm& term, const WeightedCloud<T>& cloud, double* value,
                          MatrixView<T> force, DivergenceState* state, Team& team);

/// A term of an inner loop. Its first launch must be outside of a capture: it runs the schedule of epsilons,
/// which the host steers. Later ones are warm starts, which may be captured; one that comes out badly is
/// counted in the report, and goes on from where it is in the next iteration.
template <class T>
class DivergenceForce : public CloudForce<T> {
 public:
  /// Of all solves so far; waits.
  virtual SinkhornReport report(Stream& stream) = 0;
};

/// For images of n particles relative to `shift`; `control` is that of the inner loop. The value leaves out
/// what depends on the reference alone.
template <class T>
std::unique_ptr<DivergenceForce<T>> divergence_force(const DivergenceTerm& term,
                                                     const std::vector<double>& shift, int n,
                                                     const Control* control, Stream& stream);

}  // namespace brenier::cuda
