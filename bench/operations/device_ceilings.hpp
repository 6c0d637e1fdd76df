// SPDX-License-Identifier: MIT
// What the current GPU can do at best, measured in the same run as a benchmark, and what a launch costs.
// Defined where kernels can run: in builds with the CUDA backend, and on the emulated device for its checks.
#pragma once

#include <string>

#include "kernels/operations.hpp"

namespace brenier::bench {

/// The device and its limits, in words: "NVIDIA H100 (compute 9.0, 132 multiprocessors)". NotAvailable where
/// there is none.
std::string device_name();

/// Operations a second of independent fused multiply-adds (two operations each) in registers.
template <class T>
double device_peak_flops(double seconds = 0.05);

/// Bytes a second, read and written, of a kernel that copies `bytes` (16 a thread, four in flight) and of the
/// runtime's own copy. Take buffers well above the second-level cache.
struct CopyRates {
  double kernel = 0, runtime = 0;
};
CopyRates device_copy_rates(std::size_t bytes = std::size_t{1} << 30, double seconds = 0.1);

/// Seconds on the device, medians. Kernels of a chain have `multiprocessors` blocks of 128 threads.
struct LaunchCosts {
  double two_nodes = 0;    // a graph of 2 empty kernels, replayed without pause
  double three_nodes = 0;  // of 3
  double node = 0;         // an empty kernel within a graph of 200 of them
  double reduction =
      0;              // the same with a kernel that adds 132 partial gradients out of the second-level cache
  Index reduced = 0;  // their length, in floats
  double host_graph = 0;   // seconds of the host for the launch of a graph of 2 nodes
  double host_kernel = 0;  // and of a kernel
};
LaunchCosts device_launch_costs(double seconds = 0.2);

/// Sums by the library's kernels, and by CUB (NaN in builds without CUDA): seconds on the device of one within a graph of 200,
/// medians. What CUB sums lies as it likes it best.
struct SumCosts {
  Index count = 0;                  // doubles, into one number
  double own_sum = 0, cub_sum = 0;  // sum_kernel, DeviceReduce::Sum
  Index rows = 0, columns = 0;      // floats: partial gradients of blocks, into the gradient
  double own_columns = 0,
         cub_columns = 0;  // update_kernel, DeviceSegmentedReduce::Sum over the transposed matrix
};
SumCosts device_sum_costs(double seconds = 0.2);

/// Runs every kernel of this file on small inputs and compares with the host; NumericalError where one is
/// wrong.
void check_device_kernels();

}  // namespace brenier::bench
