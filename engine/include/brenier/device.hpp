// SPDX-License-Identifier: MIT
// Where a computation runs.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "brenier/export.h"

namespace BRENIER_API brenier {

template <class T>
struct Operations;
namespace cuda {
class ScopedDevice;
}

/// What this build and this machine offer.
struct BuildInfo {
  std::string version;                    // "0.1.0"
  std::string compiler;                   // of this library
  bool cuda = false;                      // compiled with the CUDA backend
  std::vector<std::string> cuda_devices;  // names, by number; empty where there are none
  std::string cuda_trouble;               // why there are none
  std::vector<std::string> cpu_variants;  // instruction sets that this processor runs, best first
  int threads = 1;                        // processors available to this process
};
BuildInfo build_info();

/// A backend by name:
///   auto          the best there is: the CPU, for now
///   cpu           its widest instruction set; cpu:avx2: that variant
///   ref           slow, for checking
///   cuda          the CUDA device that is current for the calling thread: number 0, unless the program has
///                 chosen another one
///   cuda:K        CUDA device K, from 0
/// NotAvailable where this build or this machine does not have it: says why, and what there is. ValueError
/// for another name.
template <class T>
const Operations<T>& backend(const std::string& device);

/// What a name stands for here: "cpu:avx512", "ref", "cuda:0". Errors as of backend().
std::string resolved_device(const std::string& device);
/// The same for people: with the name and the memory of a CUDA device.
std::string describe_device(const std::string& device);

/// For as long as it lives, the CUDA device of a name like "cuda:1" is current for this thread; afterwards it
/// is the one that was. Other names change nothing. A Flow does that itself; who calls the operations of a
/// backend does it.
class DeviceScope {
 public:
  /// NotAvailable, ValueError: a CUDA device that there is not.
  explicit DeviceScope(const std::string& device);
  ~DeviceScope();
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

 private:
  std::unique_ptr<cuda::ScopedDevice> scope_;
};

}  // namespace brenier
