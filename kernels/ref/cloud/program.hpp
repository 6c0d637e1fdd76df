// SPDX-License-Identifier: MIT
// The reference interpreter of programs: one particle, plain loops. The other backends are tested against it.
#pragma once

#include "brenier/model/program.hpp"

namespace brenier::ref {

/// Runs `program` at one argument.
///
/// input: program.input_size elements. workspace: program.workspace() elements, all overwritten.
/// value (1 element) and gradient (program.input_size elements) may be null where they are not wanted.
///
/// Conventions, for every backend: min(a, b) = b < a ? b : a and max(a, b) = a < b ? b : a (a NaN in `a`
/// stays), sign(0) = 0, and a ^ b for a < 0 is real where b is a whole number and NaN elsewhere.
template <class T>
void evaluate(const Program& program, const T* input, T* workspace, T* value, T* gradient);

}  // namespace brenier::ref
