// SPDX-License-Identifier: MIT
// Particles in one place, where an interaction is singular. For .cpp files only.
#pragma once

#include <vector>

#include "brenier/base/team.hpp"
#include "kernels/model/step.hpp"

namespace brenier {

/// Particles of x (N, d) that lie, in precision T relative to `shift` (d), where another one does, if an interaction is
/// singular at 0: their pairs count 0 in F and exert no force, and as no map parts them, they never will. 0 without such an
/// interaction. A time N log N.
template <class T>
Index coincident(const Objective& objective, const Matrix<double>& x, const std::vector<double>& shift,
                 Team& team);

}  // namespace brenier
