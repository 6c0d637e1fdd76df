// SPDX-License-Identifier: MIT
// The cuda backend, products by cuBLAS whatever the size of the network: compiled as CUDA into the library,
// and by the host compiler for the emulated device.
#include "kernels/cuda/backend.hpp"

namespace brenier::cuda {

template const Operations<float>& table<float, Cublas>();
template const Operations<double>& table<double, Cublas>();

}  // namespace brenier::cuda
