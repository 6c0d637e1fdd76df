// SPDX-License-Identifier: MIT
// Points that a sequence of maps carries to given ones. For .cpp files only.
#pragma once

#include <span>
#include <vector>

#include "brenier/map.hpp"
#include "brenier/newton.hpp"

namespace brenier {

using Maps = std::span<const BrenierMap>;

inline bool is_extrapolated(const BrenierMap& map) {
  return map.base == MapBase::extrapolated;
}

/// A cloud at the end of whole steps, with the Jacobians of the whole way.
struct Carried {
  Matrix<double> x;              // (N, d)
  Matrix<double> jacobian;       // (N, d*d): dx_k/dx_0
  std::vector<char> admissible;  // N: no extrapolation folds space at this particle
};
Carried carry(Maps maps, Matrix<double> start, const Operations<double>& ops, Team& team);

/// Newton's options with a length, > 0, and what evaluates the maps.
struct OriginOptions {
  double tolerance = 1e-12;
  int iterations = 100;
  double scale = 1;
  const Operations<double>* ops = nullptr;
};

/// x (N, d) for the rows of y (N, d), map by map from the last to the first; all bases are current.
std::vector<InverseStatus> origins_by_map(Maps maps, MatrixView<const double> y, MatrixView<double> x,
                                          const OriginOptions& options, Team& team);

/// The same for maps with extrapolated bases, by Newton's method on x_0 from the particles `from`, which end
/// at `carried`: damped so that |T(x_0) - y| falls and no extrapolation folds space, at up to three particles
/// near y in turn.
std::vector<InverseStatus> origins_by_trajectory(Maps maps, const Matrix<double>& from,
                                                 const Carried& carried, MatrixView<const double> y,
                                                 MatrixView<double> x, const OriginOptions& options,
                                                 Team& team);

}  // namespace brenier
