// SPDX-License-Identifier: MIT
// Kernels beside the network: programs on clouds, pairs of particles.
#pragma once

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

/// A pair kernel on the device.
struct PairView {
  PairKernel::Form form;
  double quadratic, log_coefficient, constant;
  ProgramView program;
};

/// Interactions of a cloud y (n, d), all pairs, one thread for each i.
///   force (n, d) = or += factor / (n-1) sum_{j != i} grad W(y_i - y_j); energy (grid) = sum over the block's
///   i and all j != i of W(y_i - y_j). Either may be null. Pairs at distance 0 exert no force.
/// The y_j come through shared memory, kThreads at a time, where d <= kSharedDim; sums over one such block
/// are taken in T, longer ones in double.
///   workspace (rows + 2 d, grid * block): program rows, the difference, the partial force
template <class T>
struct PairArgs {
  PairView kernel;
  const T* y;
  int n, d;
  double factor;
  int accumulate;
  T* force;
  double* energy;
  double* force_sum;  // (d, grid * block)
  T* workspace;
  const Control* control;  // null outside an inner loop
};

struct PairShared {
  BlockScratch<double> scratch;
};

template <class T>
BRENIER_DEVICE T pair_value(const PairView& kernel, T r2, T r, const auto& row, bool energy) {
  if (kernel.form == PairKernel::Form::quadratic_log) {
    if (!energy) return T(0);
    T value = fma(static_cast<T>(kernel.quadratic), r2, static_cast<T>(kernel.constant));
    if (r2 > T(0) && kernel.log_coefficient != 0) value += static_cast<T>(kernel.log_coefficient) * log(r);
    return value;
  }
  const T value = row(kernel.program.value);
  return r2 > T(0) || isfinite(value) ? value : T(0);
}

template <class T>
BRENIER_KERNEL BRENIER_LAUNCH_BOUNDS(kThreads) void pair_kernel(PairArgs<T> args) {
  PairShared& shared = shared_storage<PairShared>();
  const Index stride = Index{grid_size()} * block_size();
  const Index thread = Index{block_index()} * block_size() + thread_index();
  const PairView& kernel = args.kernel;
  const bool program = kernel.form != PairKernel::Form::quadratic_log;
  const bool radial = kernel.form == PairKernel::Form::radial;
  const int n = args.control && args.control->stop ? 0 : args.n;
  const auto row = [&](int r) -> T& { return args.workspace[r * stride + thread]; };
  const int z = program ? kernel.program.rows : 0;
  const int part = z + args.d;
  double energy = 0;
  for (Index i = thread; i < n; i += stride) {
    const T* here = args.y + i * args.d;
    for (int c = 0; c < args.d; ++c) args.force_sum[c * stride + thread] = 0;
    for (Index begin = 0; begin < n; begin += kThreads) {
      const Index end = begin + kThreads < n ? begin + kThreads : n;
      for (int c = 0; c < args.d; ++c) row(part + c) = T(0);
      T energy_part = T(0);
      for (Index j = begin; j < end; ++j) {
        if (j == i) continue;
        T r2 = T(0);
        for (int c = 0; c < args.d; ++c) {
          const T difference = here[c] - args.y[j * args.d + c];
          row(z + c) = difference;
          r2 = fma(difference, difference, r2);
        }
        const T r = sqrt(r2);
        if (program) {
          run_program<T>(
              kernel.program, [&](int c) { return radial ? r : row(z + c); }, row);
        }
        energy_part += pair_value<T>(kernel, r2, r, row, args.energy != nullptr);
        if (!(r2 > T(0))) continue;
        for (int c = 0; c < args.d; ++c) {
          T slope;
          if (!program) {
            slope = fma(T(2), static_cast<T>(kernel.quadratic), static_cast<T>(kernel.log_coefficient) / r2) *
                    row(z + c);
          } else if (radial) {
            slope = row(kernel.program.gradient) / r * row(z + c);
          } else {
            slope = row(kernel.program.gradient + c);
          }
          row(part + c) += slope;
        }
      }
      for (int c = 0; c < args.d; ++c)
        args.force_sum[c * stride + thread] += static_cast<double>(row(part + c));
      energy += static_cast<double>(energy_part);
    }
    const double share = n > 1 ? args.factor / (n - 1) : 0.0;
    for (int c = 0; args.force && c < args.d; ++c) {
      const T force = static_cast<T>(share * args.force_sum[c * stride + thread]);
      T& out = args.force[i * args.d + c];
      out = args.accumulate ? out + force : force;
    }
  }
  const double total = block_reduce_sum(energy, shared.scratch);
  if (args.energy && thread_index() == 0) args.energy[block_index()] = total;
}

}  // namespace brenier::cuda
