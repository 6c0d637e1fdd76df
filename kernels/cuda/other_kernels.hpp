// SPDX-License-Identifier: MIT
// Kernels beside the network: programs on clouds, sums over blocks, Adam.
#pragma once

#include "kernels/adam.hpp"
#include "kernels/cuda/tile_kernels.hpp"

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
    run_program<T>(
        program, [&](int c) { return from[c]; }, row);
    if (value) value[i] = row(program.value);
    for (int c = 0; gradient && c < program.input_size; ++c) {
      gradient[i * program.input_size + c] = row(program.gradient + c);
    }
  }
}

struct PairShared {
  BlockScratch<double> scratch;
};

/// gradient (parameters) = sum of the partial gradients in the order of the blocks, divided by n.
/// norm2 (grid): sums of squares of the components that are free to move.
template <class T>
struct ReduceArgs {
  const T* partial;
  int blocks, parameters;
  double n;
  double* gradient;
  double* norm2;
  const T *theta, *lower, *active;  // null: no norm
};

template <class T>
BRENIER_KERNEL BRENIER_LAUNCH_BOUNDS(kThreads) void reduce_kernel(ReduceArgs<T> args) {
  PairShared& shared = shared_storage<PairShared>();
  const int k = block_index() * block_size() + thread_index();
  double moving = 0;
  if (k < args.parameters) {
    double sum = 0;
    for (int b = 0; b < args.blocks; ++b)
      sum += static_cast<double>(args.partial[Index{b} * args.parameters + k]);
    sum /= args.n;
    args.gradient[k] = sum;
    if (args.theta && args.active[k] != T(0) && !(args.theta[k] <= args.lower[k] && sum > 0)) moving = sum;
  }
  const double norm2 = block_reduce_sum(moving * moving, shared.scratch);
  if (args.norm2 && thread_index() == 0) args.norm2[block_index()] = norm2;
}

/// Adam and the clamp, on every parameter; nothing where the gradient is not finite.
template <class T>
struct AdamArgs {
  T *theta, *m, *v;
  const double* gradient;
  const double* norm2;
  int norm_blocks, parameters;
  const T *lower, *active;
  AdamOptions options;
  int iterations;  // of the schedule
  double tolerance, gradient_scale;
  Control* control;
};

template <class T>
BRENIER_DEVICE double gradient_norm(const AdamArgs<T>& args) {
  double sum = 0;
  for (int b = 0; b < args.norm_blocks; ++b) sum += args.norm2[b];
  return sqrt(sum);
}

template <class T>
BRENIER_KERNEL BRENIER_LAUNCH_BOUNDS(kThreads) void adam_kernel(AdamArgs<T> args) {
  const int k = block_index() * block_size() + thread_index();
  if (args.control->stop || k >= args.parameters || !isfinite(gradient_norm(args))) return;
  const AdamStep<T> adam(args.options, args.control->iteration, args.iterations);
  adam.update(args.theta[k], args.m[k], args.v[k], static_cast<T>(args.gradient[k]), args.lower[k],
              args.active[k]);
}

/// Ends an iteration: counts it and decides whether the loop goes on. One thread.
template <class T>
BRENIER_KERNEL void advance_kernel(AdamArgs<T> args) {
  Control& control = *args.control;
  if (thread_index() != 0 || control.stop) return;
  control.gradient = gradient_norm(args);
  if (control.done == 0) control.first_gradient = control.gradient;
  if (!isfinite(control.gradient)) {
    control.finite = 0;
    control.stop = 1;
    return;
  }
  ++control.iteration;
  ++control.done;
  const double reference = args.gradient_scale > 0 ? args.gradient_scale : control.first_gradient;
  control.converged = args.tolerance > 0 && control.gradient <= args.tolerance * reference;
  control.stop = control.converged;
}

}  // namespace brenier::cuda
