// SPDX-License-Identifier: MIT
// The CUDA devices of this machine, for code that does not include the dialect. Defined in devices.cpp, and
// in none.cpp for builds without the cuda backend.
#pragma once

#include <cstddef>
#include <string>

#include "kernels/model/step.hpp"

namespace brenier::cuda {

struct DeviceInfo {
  std::string name;        // "NVIDIA H100 80GB HBM3"
  int compute = 0;         // capability, 10 * major + minor
  std::size_t memory = 0;  // bytes, all together
};

/// The least compute capability that the kernels are compiled for (CMakeLists.txt: sm_80).
inline constexpr int kLeastCompute = 80;

/// Why devices() is 0, in the words of CUDA; empty where it is not.
std::string trouble();
/// The device that is current for this host thread; 0 in a thread that has chosen none.
int current_device();
/// Device k. Leaves the device alone: makes no context on it. NotAvailable where there is none.
DeviceInfo device_info(int k);
/// Bytes that are free on the current device.
std::size_t memory_free();

/// Makes device k current for this host thread for as long as it lives, and what was current before
/// afterwards. A negative k changes nothing. NotAvailable where there is no device k.
class ScopedDevice {
 public:
  explicit ScopedDevice(int k);
  ~ScopedDevice();
  ScopedDevice(const ScopedDevice&) = delete;
  ScopedDevice& operator=(const ScopedDevice&) = delete;

 private:
  [[maybe_unused]] int before_ = -1;  // not in a build without CUDA
};

/// Bytes of device memory that inner_loop() takes for `problem` on the current device. Takes none itself.
template <class T>
std::size_t inner_loop_memory(const InnerProblem<T>& problem);
/// The same for search().
template <class T>
std::size_t search_memory(const InnerProblem<T>& problem);

}  // namespace brenier::cuda
