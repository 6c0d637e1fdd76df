// SPDX-License-Identifier: MIT
// What the cuda backend offers. Compiled as CUDA into the library, and by the host compiler for the emulated
// device.
#include <string>

#include "brenier/base/error.hpp"
#include "kernels/cuda/network/variants.hpp"
#include "kernels/device/device.hpp"

namespace brenier::cuda {

bool compiled() {
  return true;
}

int devices() {
  return device::device_count();
}

template <>
std::vector<const char*> variants<float>() {
  return {"tf32x3", "cublas"};
}
template <>
std::vector<const char*> variants<double>() {
  return {"fma", "cublas"};
}

template <>
const Operations<float>& operations<float>(const char* variant) {
  if (variant == std::string("tf32x3")) return table<float, Tf32x3>();
  if (variant == std::string("cublas")) return table<float, Cublas>();
  throw NotAvailable("there are no products \"" + std::string(variant) +
                     "\" in float; choose tf32x3 or cublas");
}
template <>
const Operations<double>& operations<double>(const char* variant) {
  if (variant == std::string("fma")) return table<double, Fma>();
  if (variant == std::string("cublas")) return table<double, Cublas>();
  throw NotAvailable("there are no products \"" + std::string(variant) +
                     "\" in double; choose fma or cublas");
}

template <class T>
const Operations<T>& operations() {
  return operations<T>(variants<T>().front());
}
template const Operations<float>& operations<float>();
template const Operations<double>& operations<double>();

}  // namespace brenier::cuda
