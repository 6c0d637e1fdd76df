// SPDX-License-Identifier: MIT
// Particles in one place, where an interaction is singular. For .cpp files only.
#pragma once

#include <vector>

#include "brenier/base/team.hpp"
#include "engine/src/flow/cloud/cloud_view.hpp"
#include "kernels/operations.hpp"

namespace brenier {

/// Particles of a cloud (N, d) that lie, in precision T relative to `shift` (d), where another one does, if an interaction is
/// singular at 0: their pairs count 0 in F and exert no force, and as no map parts them, they never will. 0 without such an
/// interaction. A time N log N. `ops` evaluate the interaction at three points.
template <class T>
Index coincident(const Objective& objective, const CloudView& cloud, const std::vector<double>& shift,
                 const Operations<double>& ops, Team& team);

}  // namespace brenier
