// SPDX-License-Identifier: MIT
// The devices of the cuda backend: compiled as CUDA into the library, and by the host compiler for the
// emulated device.
#include "kernels/cuda_devices.hpp"
#include "kernels/device/device.hpp"
#include "kernels/operations.hpp"

namespace brenier::cuda {

std::string trouble() {
  return device::device_trouble();
}

int current_device() {
  return device::current_device();
}

DeviceInfo device_info(int k) {
  const device::DeviceProperties p = device::properties_of(k);
  return {p.name, 10 * p.compute_major + p.compute_minor, p.memory_total};
}

std::size_t memory_free() {
  return device::properties().memory_free;
}

ScopedDevice::ScopedDevice(int k) {
  if (k < 0) return;
  const int before = device::current_device();
  device::use_device(k);
  before_ = before;
}

ScopedDevice::~ScopedDevice() {
  if (before_ < 0) return;
  try {
    device::use_device(before_);
  } catch (const Error&) {
    // A destructor cannot report it. A device that was current a moment ago is refused only where the driver
    // has failed, and the next call says so.
  }
}

namespace {

/// A problem whose parameters nobody knows: what is made under a MemoryProbe must not be kept.
template <class T>
InnerProblem<T> by_itself(InnerProblem<T> problem) {
  problem.known = nullptr;
  return problem;
}

}  // namespace

template <class T>
std::size_t inner_loop_memory(const InnerProblem<T>& of) {
  const InnerProblem<T> problem = by_itself(of);
  const std::vector<T> zeros(static_cast<std::size_t>(problem.net->parameters()), T(0));
  InnerState<T> state{zeros, zeros, zeros, 0};
  Team alone(1);
  const device::MemoryProbe probe;
  operations<T>().inner_loop(problem, state, 0, alone);
  return probe.peak();
}

template <class T>
std::size_t search_memory(const InnerProblem<T>& of) {
  const InnerProblem<T> problem = by_itself(of);
  const auto parameters = static_cast<std::size_t>(problem.net->parameters());
  std::vector<T> theta(parameters, T(0));
  const std::vector<double> metric(parameters, 1.0);
  SinkhornReport transports;
  Team alone(1);
  const device::MemoryProbe probe;
  operations<T>().search(problem, {theta, metric}, {.evaluations = 1}, theta, transports, alone);
  return probe.peak();
}

template std::size_t inner_loop_memory<float>(const InnerProblem<float>&);
template std::size_t inner_loop_memory<double>(const InnerProblem<double>&);
template std::size_t search_memory<float>(const InnerProblem<float>&);
template std::size_t search_memory<double>(const InnerProblem<double>&);

}  // namespace brenier::cuda
