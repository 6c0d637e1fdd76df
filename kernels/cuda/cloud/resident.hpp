// SPDX-License-Identifier: MIT
// Clouds that stay on the device. Defined in kernels/cuda/cloud/resident.cpp.
#pragma once

#include <memory>

#include "kernels/cuda/network/parameters.hpp"
#include "kernels/device/device.hpp"
#include "kernels/resident_cloud.hpp"

namespace brenier::cuda {

using namespace brenier::device;

/// MapOutputs on the device.
template <class T>
struct DeviceMapOutputs {
  T* potential = nullptr;
  T* displacement = nullptr;
  T* hessian = nullptr;
  double* log_det = nullptr;
};

/// How maps are evaluated at particles x (n, d) on the device.
using DeviceMap = void (*)(const Icnn& net, const NetParameters<double>& theta, const double* x, int n,
                           const DeviceMapOutputs<double>& out, Stream& stream);

std::shared_ptr<const ResidentCloud> resident_cloud(MatrixView<const double> x, const double* log_density,
                                                    DeviceMap map);

/// From a host program's arrays: see Operations::gather.
std::shared_ptr<const ResidentCloud> gathered_cloud(const DeviceCloud& from, DeviceMap map);

}  // namespace brenier::cuda
