// SPDX-License-Identifier: MIT
// The options of a training as rows.
#pragma once

#include "brenier/fit.hpp"
#include "kernels/base/keys.hpp"

namespace brenier {

/// Of the command `fit`, whose options they are.
const Keys<FitOptions>& fit_keys();

}  // namespace brenier
