// SPDX-License-Identifier: MIT
// All maps of a flow in one file: they share a network.
#pragma once

#include <filesystem>
#include <vector>

#include "brenier/map.hpp"
#include "brenier/safetensors.hpp"

namespace brenier {

/// Adds them: metadata of their network, tensors "maps.theta" (K, P) and "maps.steps" (K, 6). Nothing where there are
/// none. ShapeError: maps of different networks.
void add_maps(const std::vector<BrenierMap>& maps, TensorFile& file);
/// What add_maps() has added, in the order of a flow. IoError, with `name` in front.
std::vector<BrenierMap> maps_in(const TensorFile& file, const std::filesystem::path& name);

}  // namespace brenier
