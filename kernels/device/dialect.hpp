// SPDX-License-Identifier: MIT
// The words that kernels are written in, as CUDA or on the emulated device.
#pragma once

#include "brenier/base/portable.hpp"

#if BRENIER_CUDA
#include "kernels/device/cuda.hpp"
#else
#include "kernels/device/emulated.hpp"
#endif
