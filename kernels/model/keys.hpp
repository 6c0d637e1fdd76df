// SPDX-License-Identifier: MIT
// The options of networks and terms as rows.
#pragma once

#include "brenier/model/icnn.hpp"
#include "brenier/model/objective.hpp"
#include "kernels/base/keys.hpp"

namespace brenier {

/// An activation by its text, with the parameter that it may have.
Choice choice(Activation& sigma);

/// [network], but for what the flow adds.
const Keys<Architecture>& architecture_keys();

/// Of [[functional]] with term = "sinkhorn".
const Keys<SinkhornOptions>& sinkhorn_keys();

}  // namespace brenier
