// SPDX-License-Identifier: MIT
// The options of a flow as rows.
#pragma once

#include "brenier/flow.hpp"
#include "kernels/base/keys.hpp"

namespace brenier {

/// Above all tables of a configuration.
const Keys<FlowOptions>& run_keys();
/// [flow]; its kinds are "number" and "auto", by what tau is.
const Keys<FlowOptions>& flow_keys();
/// [network], beside architecture_keys().
const Keys<FlowOptions>& network_keys();
/// [inner].
const Keys<FlowOptions>& inner_keys();

}  // namespace brenier
