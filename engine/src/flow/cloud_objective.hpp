// SPDX-License-Identifier: MIT
// F and its gradient on a cloud, in double precision. For .cpp files only.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/src/flow/cloud/cloud_view.hpp"
#include "kernels/operations.hpp"

namespace brenier {

/// For a few thousand points at most, and one evaluation after another: operations themselves, or, where these are of
/// another device, those of the CPU. A call there has to bring its points and its program, a tenth of a millisecond
/// and more, which here they do not take.
template <class T>
const Operations<T>& for_few_points(const Operations<T>& ops) {
  return ops.host ? ops : cpu::operations<T>();
}

/// Evaluates an objective, and keeps what its divergences know of their references and last plans. Not
/// thread-safe. The objective must outlive it.
class CloudObjective {
 public:
  /// `seed` of the particles that stand for others where there is a pair limit.
  CloudObjective(const Objective& objective, const Operations<double>& ops, std::uint64_t seed = 0)
      : objective_(objective), ops_(ops), seed_(seed), states_(objective.divergence.size()) {}

  /// After the objective has changed.
  void reset() { states_.assign(objective_.divergence.size(), {}); }

  /// F; x (N, d), log_density (N) where there are internal terms. Interactions and divergences of more than
  /// `pair_limit` particles are taken over that many, one of each run of particles; 0 takes all. Does not
  /// depend on earlier calls.
  ObjectiveValue value(const Matrix<double>& x, const std::vector<double>& log_density, Index pair_limit,
                       Team& team);

  /// The same wherever the cloud lies: on a device that is the one of the operations.
  ObjectiveValue value(const CloudView& cloud, Index pair_limit, Team& team);

  /// The gradient of the first variation of all terms but the internal ones, (N, d): N times dF/dx_i; and
  /// their value, or null, up to a constant. Divergences start from the plans of the call before; returns what
  /// became of their solves.
  SinkhornReport force(MatrixView<const double> x, MatrixView<double> force, Team& team,
                       double* value = nullptr);

  /// Internal energies at log-densities log rho(x_i) (N).
  struct Internal {
    double value = 0;               // E[f(rho)/rho], weights included
    double pressure = 0;            // E[f'(rho) - f(rho)/rho]: minus dF/dt where all log-densities fall by t
    std::vector<double> surrogate;  // (N): f'(rho) - f(rho)/rho
    /// (N): rho f''(rho). Times the score, the gradient of log rho, that of the first variation.
    std::vector<double> per_score;
  };
  Internal internal(const std::vector<double>& log_density, Team& team) const;

 private:
  void add_pairs(const Matrix<double>& x, ObjectiveValue& out, Team& team);

  const Objective& objective_;
  const Operations<double>& ops_;
  std::uint64_t seed_;
  std::vector<DivergenceState> states_;
};

}  // namespace brenier
