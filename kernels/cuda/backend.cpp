// SPDX-License-Identifier: MIT
// The cuda backend: compiled as CUDA into the library, and by the host compiler for the emulated device.
#include "kernels/cuda/backend.hpp"

namespace brenier::cuda {

bool compiled() {
  return true;
}

int devices() {
  return device_count();
}

template const Operations<float>& operations<float>();
template const Operations<double>& operations<double>();

}  // namespace brenier::cuda
