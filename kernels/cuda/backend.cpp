// SPDX-License-Identifier: MIT
// What the cuda backend offers. Compiled as CUDA into the library, and by the host compiler for the emulated
// device.
#include <string>

#include "brenier/base/error.hpp"
#include "kernels/cuda/network/variants.hpp"
#include "kernels/device/device.hpp"
#include "kernels/device/ranks.hpp"

namespace brenier::cuda {

bool compiled() {
  return true;
}

int devices() {
  return device::device_count();
}

bool connects() {
  return device::DeviceRanks::available();
}

template <>
std::vector<const char*> variants<float>() {
  return {"tf32x3", "cublas"};
}
template <>
std::vector<const char*> variants<double>() {
  return {"fma", "cublas"};
}

namespace {

/// The products that `variant` names: `Own`, whose name comes first, or those of cuBLAS.
template <class T, class Own>
const Operations<T>& choose(const std::string& variant, const char* precision) {
  const std::string own = variants<T>().front();
  if (variant == own) return table<T, Own>();
  if (variant == "cublas") return table<T, Cublas>();
  throw NotAvailable("there are no products \"" + variant + "\" in " + precision + "; choose " + own +
                     " or cublas");
}

}  // namespace

template <>
const Operations<float>& operations<float>(const char* variant) {
  return choose<float, Tf32x3>(variant, "float");
}
template <>
const Operations<double>& operations<double>(const char* variant) {
  return choose<double, Fma>(variant, "double");
}

template <class T>
const Operations<T>& operations() {
  return operations<T>(variants<T>().front());
}
template const Operations<float>& operations<float>();
template const Operations<double>& operations<double>();

}  // namespace brenier::cuda
