// SPDX-License-Identifier: MIT
// What brenier::mpi adds to the settings of C.
#pragma once

#include <functional>
#include <memory>

#include "brenier/communicator.hpp"
#include "brenier/export.h"

struct brenier_settings;

namespace BRENIER_API brenier {

/// Flows of these settings are computed by what `make` returns. A status of brenier.h: what it throws is one.
int set_communicator(brenier_settings* settings, const std::function<std::shared_ptr<Communicator>()>& make);

}  // namespace brenier
