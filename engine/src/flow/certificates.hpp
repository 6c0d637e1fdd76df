// SPDX-License-Identifier: MIT
// What can be checked about a map beside how well it solves its problem. For .cpp files only.
#pragma once

#include "brenier/map.hpp"
#include "engine/src/flow/cloud/cloud_view.hpp"

namespace brenier {

struct MapCertificates {
  double min_eigenvalue = 0;  // smallest eigenvalue of H
  double round_trip =
      0;  // largest |grad u*(grad u(x)) - x|; infinite where an inverse does not converge, NaN without one
};

/// At points of the cloud x (N, d) of the map's bases, evenly spaced by number: eigenvalues at up to 1024
/// or 2^22 / d^3 of them, round trips from grad u(x) alone at up to 256 or 2^18 / d^2, and at least 16 each.
/// `ops` evaluate the map, at a few points and some ten times.
/// `there`: the map on the device of x, or null.
MapCertificates certify(const BrenierMap& map, const ResidentMap* there, const CloudView& x,
                        const Operations<double>& ops, Team& team);

}  // namespace brenier
