// SPDX-License-Identifier: MIT
// The cuda backend in builds without it: the same symbols, and a clear error.
#include "brenier/base/error.hpp"
#include "kernels/cuda_devices.hpp"
#include "kernels/operations.hpp"

namespace brenier::cuda {
namespace {

[[noreturn]] void not_compiled() {
  throw NotAvailable(
      "this build has no CUDA backend; configure with -DBRENIER_CUDA=ON where nvcc is installed, or use the "
      "device \"cpu\" or \"auto\"");
}

}  // namespace

bool compiled() {
  return false;
}

int devices() {
  return 0;
}

bool connects() {
  return false;
}

std::string trouble() {
  return "this build has no CUDA backend";
}

int current_device() {
  return 0;
}

DeviceInfo device_info(int) {
  not_compiled();
}

std::size_t memory_free() {
  not_compiled();
}

ScopedDevice::ScopedDevice(int k) {
  if (k >= 0) not_compiled();
}

ScopedDevice::~ScopedDevice() = default;

template <class T>
std::vector<const char*> variants() {
  return {};
}
template std::vector<const char*> variants<float>();
template std::vector<const char*> variants<double>();

template <class T>
const Operations<T>& operations(const char*) {
  not_compiled();
}
template <class T>
const Operations<T>& operations() {
  not_compiled();
}
template const Operations<float>& operations<float>();
template const Operations<double>& operations<double>();
template const Operations<float>& operations<float>(const char*);
template const Operations<double>& operations<double>(const char*);

template <class T>
std::size_t inner_loop_memory(const InnerProblem<T>&) {
  not_compiled();
}
template std::size_t inner_loop_memory<float>(const InnerProblem<float>&);
template std::size_t inner_loop_memory<double>(const InnerProblem<double>&);

template <class T>
std::size_t search_memory(const InnerProblem<T>&) {
  not_compiled();
}
template std::size_t search_memory<float>(const InnerProblem<float>&);
template std::size_t search_memory<double>(const InnerProblem<double>&);

}  // namespace brenier::cuda
