// SPDX-License-Identifier: MIT
// All of Brenier's public interface.
#pragma once

#include "brenier/base/error.hpp"
#include "brenier/density.hpp"
#include "brenier/descent.hpp"
#include "brenier/device.hpp"
#include "brenier/entropic_transport.hpp"
#include "brenier/expression.hpp"
#include "brenier/fit.hpp"
#include "brenier/flow.hpp"
#include "brenier/flow_density.hpp"
#include "brenier/functional.hpp"
#include "brenier/gaussian_mixture.hpp"
#include "brenier/hutchpp.hpp"
#include "brenier/map.hpp"
#include "brenier/metrics.hpp"
#include "brenier/npy.hpp"
#include "brenier/oracles.hpp"
#include "brenier/potential.hpp"
#include "brenier/safetensors.hpp"
#include "brenier/version.hpp"
#include "brenier/wasserstein.hpp"
