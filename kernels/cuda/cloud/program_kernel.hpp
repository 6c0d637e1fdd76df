// SPDX-License-Identifier: MIT
// Programs on clouds.
#pragma once

#include "kernels/cuda/cloud/program.hpp"

namespace brenier::cuda {

inline constexpr int kThreads = 128;

/// Values (n) and gradients (n, input_size) of a program; workspace (rows, grid * block). One thread a
/// particle.
template <class T>
BRENIER_KERNEL BRENIER_LAUNCH_BOUNDS(kThreads) void program_kernel(ProgramView program, const T* x, int n,
                                                                   T* value, T* gradient, T* workspace) {
  const Index stride = Index{grid_size()} * block_size();
  const Index thread = Index{block_index()} * block_size() + thread_index();
  const auto row = [&](int r) -> T& { return workspace[r * stride + thread]; };
  for (Index i = thread; i < n; i += stride) {
    const T* from = x + i * program.input_size;
    run_program<T>(program, {from}, workspace + thread, stride);
    if (value) value[i] = row(program.value);
    for (int c = 0; gradient && c < program.input_size; ++c) {
      gradient[i * program.input_size + c] = row(program.gradient + c * program.gradient_stride);
    }
  }
}

}  // namespace brenier::cuda
