// SPDX-License-Identifier: MIT
// Potentials that are not continuous, which no gradient says.
#pragma once

#include <string>

#include "brenier/base/view.hpp"
#include "brenier/functional.hpp"

namespace brenier::app {

/// Where the expression of a potential jumps between particles of x (N, d), in words for warnings; empty where nothing is
/// found. Segments between some particles are halved towards where V changes most: at a jump all of the change is left in the
/// end, of a function with a slope nothing but rounding. `time` is that of potentials that depend on it.
std::string jump_between(const Functional& functional, MatrixView<const double> x, double time);

}  // namespace brenier::app
