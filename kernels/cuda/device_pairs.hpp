// SPDX-License-Identifier: MIT
#pragma once

#include "kernels/cuda/host.hpp"
#include "kernels/cuda/other_kernels.hpp"

namespace brenier::cuda {

/// Threads for one element each, at most so many that their work arrays stay small.
inline int grid_for(Index n) {
  return as_int(std::clamp<Index>((n + kThreads - 1) / kThreads, 1, 1024));
}

/// A pair kernel with its work arrays, for clouds of n particles.
template <class T>
struct DevicePairs {
  DeviceProgram program;
  DeviceBuffer<T> workspace;
  DeviceBuffer<double> force_sum, energy;
  PairArgs<T> args{};
  int grid;

  DevicePairs(const PairKernel& kernel, int n, int d, Stream& stream)
      : program(kernel.program, stream), grid(grid_for(n)) {
    const Index threads = Index{grid} * kThreads;
    workspace = DeviceBuffer<T>(threads * (program.view.rows + 2 * d));
    force_sum = DeviceBuffer<double>(threads * d);
    energy = DeviceBuffer<double>(grid);
    args.kernel = {kernel.form, kernel.quadratic, kernel.log_coefficient, kernel.constant, program.view};
    args.n = n;
    args.d = d;
    args.force_sum = raw(force_sum);
    args.workspace = raw(workspace);
  }
  void launch_on(Stream& stream) {
    launch(pair_kernel<T>, {grid, kThreads, sizeof(PairShared), stream, "pairs"}, args);
  }
};

}  // namespace brenier::cuda
