// SPDX-License-Identifier: MIT
// The cuda backend, float, products on tensor cores: compiled as CUDA into the library, and by the host
// compiler for the emulated device.
#include "kernels/cuda/backend.hpp"

namespace brenier::cuda {

template const Operations<float>& table<float, Tf32x3>();

}  // namespace brenier::cuda
