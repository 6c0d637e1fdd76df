// SPDX-License-Identifier: MIT
// The cuda backend, double: compiled as CUDA into the library, and by the host compiler for the emulated
// device.
#include "kernels/cuda/backend.hpp"

namespace brenier::cuda {

template const Operations<double>& table<double, Fma>();

}  // namespace brenier::cuda
