// SPDX-License-Identifier: MIT
// Networks whose maps have an affine one in them: where steps start from. For .cpp files only.
#pragma once

#include <cstdint>
#include <vector>

#include "brenier/map.hpp"
#include "brenier/model/icnn.hpp"
#include "engine/src/flow/solve/affine.hpp"

namespace brenier {

/// The mean Hessian (d, d) of a map on a cloud, from some of its particles; by `ops`, or, `there` being the map on the device
/// where x lies, there.
Matrix<double> mean_hessian(const BrenierMap& map, const ResidentMap* there, const CloudView& x,
                            std::uint64_t seed, const Operations<double>& ops, Team& team);

/// Multiplies the part of the potential that bends, within the weights' floor.
void scale_bends(const Icnn& net, double factor, std::vector<double>& theta);

/// `first`, the network near the identity, with an affine map in the place of the identity. Coordinates are
/// normalised by `scale`, the centre of the map is their origin.
std::vector<double> with_affine(const Icnn& net, std::vector<double> first, const AffineMap& map,
                                double scale);

/// The network `theta`, whose map is T, with an affine map after it: A T where A is a multiple of the identity, and
/// otherwise, as A T is no gradient, the map with the mean Jacobian of A T in its symmetric part that bends as T does.
/// `hessian` is the mean Jacobian of T and `mean` its mean; `origin` that of normalised coordinates.
std::vector<double> followed_by(const Icnn& net, std::vector<double> theta, const AffineMap& map,
                                const Matrix<double>& hessian, const std::vector<double>& mean,
                                const std::vector<double>& origin, double scale);

}  // namespace brenier
