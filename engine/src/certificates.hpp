// SPDX-License-Identifier: MIT
// What can be checked about a map beside how well it solves its problem. For .cpp files only.
#pragma once

#include "brenier/map.hpp"

namespace brenier {

struct MapCertificates {
  double min_eigenvalue = 0;  // smallest eigenvalue of H
  double round_trip = 0;      // largest |grad u*(grad u(x)) - x|; infinite where an inverse does not converge
};

/// At points of the cloud x (N, d) of the map's bases, evenly spaced by number: eigenvalues at up to 1024,
/// fewer where N d^3 would be more than 2^26 (64 at d = 100); round trips at up to 256, from grad u(x) alone.
MapCertificates certify(const BrenierMap& map, const Matrix<double>& x, Team& team);

}  // namespace brenier
