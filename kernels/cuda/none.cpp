// SPDX-License-Identifier: MIT
// The cuda backend in builds without it: the same symbols, and a clear error.
#include "kernels/ops.hpp"
#include "kernels/runtime/error.hpp"

namespace brenier::cuda {

bool compiled() {
  return false;
}

int devices() {
  return 0;
}

template <class T>
std::vector<const char*> variants() {
  return {};
}

template <class T>
const Operations<T>& operations(const char*) {
  throw NotAvailable(
      "this build has no CUDA backend; configure with -DBRENIER_CUDA=ON where nvcc is installed, or use the "
      "device "
      "\"cpu\" or \"auto\"");
}

template <class T>
const Operations<T>& operations() {
  return operations<T>("");
}

template std::vector<const char*> variants<float>();
template std::vector<const char*> variants<double>();
template const Operations<float>& operations<float>();
template const Operations<double>& operations<double>();
template const Operations<float>& operations<float>(const char*);
template const Operations<double>& operations<double>(const char*);

}  // namespace brenier::cuda
