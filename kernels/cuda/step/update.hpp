// SPDX-License-Identifier: MIT
// The second half of an inner iteration: sums of the blocks' gradients, Adam, the clamp, and the decision
// whether the loop goes on, in one kernel.
//
//   launch   kUpdateThreads threads for 32 parameters each: a warp sums its part of the blocks, in order
//            and in double, then warp 0 adds the warps, in order
//   state    parameters and moments exist twice. Every block reads the current set and writes the other
//            one; the block that comes last knows the norm of the whole gradient and makes the other set
//            the current one, or not: a gradient that is not finite leaves everything as it was
#pragma once

#include "kernels/cuda/network/tile_kernels.hpp"
#include "kernels/model/adam.hpp"

namespace brenier::cuda {

inline constexpr int kUpdateThreads = 256;
inline constexpr int kUpdateParameters = 32;  // of a block

inline int update_blocks(int packed) {
  return (packed + kUpdateParameters - 1) / kUpdateParameters;
}

template <class T>
struct UpdateArgs {
  const T* partial = nullptr;  // (blocks, packed)
  int blocks = 0, packed = 0;
  double n = 1;                // particles that the sums run over
  double* gradient = nullptr;  // (packed): their mean
  // Below: null where only the gradient is wanted.
  T *theta = nullptr, *m = nullptr, *v = nullptr;  // (2, packed)
  const T *lower = nullptr, *rate = nullptr;       // (packed)
  const AdamStep<T>* adam = nullptr;               // of iterations first_iteration, ...
  int first_iteration = 0;
  double tolerance = 0, gradient_scale = 0;
  double* norm2 = nullptr;     // (grid)
  unsigned* ticket = nullptr;  // 0
  Control* control = nullptr;
};

struct UpdateShared {
  Array<double, kUpdateThreads> part;
  BlockScratch<double> scratch;
  int last;
};

/// The end of an iteration, by one thread.
template <class T>
BRENIER_DEVICE void advance(const UpdateArgs<T>& args, double norm2) {
  Control& control = *args.control;
  control.gradient = sqrt(norm2);
  if (control.done == 0) control.first_gradient = control.gradient;
  if (!isfinite(norm2)) {
    control.finite = 0;
    control.stop = 1;
    return;
  }
  control.current = 1 - control.current;
  ++control.iteration;
  ++control.done;
  const double reference = args.gradient_scale > 0 ? args.gradient_scale : control.first_gradient;
  control.converged = args.tolerance > 0 && control.gradient <= args.tolerance * reference;
  control.stop = control.converged;
}

template <class T>
BRENIER_KERNEL BRENIER_LAUNCH_BOUNDS(kUpdateThreads) void update_kernel(UpdateArgs<T> args) {
  UpdateShared& shared = shared_storage<UpdateShared>();
  const int k = block_index() * kUpdateParameters + lane();
  const bool run = !(args.control && args.control->stop);
  double sum = 0;
  if (run && k < args.packed) {
    const int first = warp() * args.blocks / warp_count();
    const int last = (warp() + 1) * args.blocks / warp_count();
    for (int b = first; b < last; ++b) sum += static_cast<double>(args.partial[Index{b} * args.packed + k]);
  }
  shared.part[thread_index()] = sum;
  sync_block();
  double moving = 0;
  if (run && warp() == 0 && k < args.packed) {
    for (int w = 1; w < warp_count(); ++w) sum += shared.part[w * 32 + lane()];
    sum /= args.n;
    if (args.gradient) args.gradient[k] = sum;
    if (args.theta) {
      const int current = args.control->current;
      const Index from = Index{current} * args.packed + k;
      const Index to = Index{1 - current} * args.packed + k;
      T theta = args.theta[from], m = args.m[from], v = args.v[from];
      const T lower = args.lower[k], rate = args.rate[k];
      if (rate != T(0) && !held_by_bound(theta, lower, sum)) moving = sum;
      args.adam[args.control->iteration - args.first_iteration].update(theta, m, v, static_cast<T>(sum),
                                                                       lower, rate);
      args.theta[to] = theta;
      args.m[to] = m;
      args.v[to] = v;
    }
  }
  if (!args.theta || !run) return;  // for all blocks alike
  const double of_block = warp_sum(moving * moving);
  if (thread_index() == 0) args.norm2[block_index()] = of_block;
  if (!last_block(args.ticket, shared.last)) return;
  double norm2 = 0;
  for (int b = thread_index(); b < grid_size(); b += block_size()) norm2 += args.norm2[b];
  norm2 = block_reduce_sum(norm2, shared.scratch);
  if (thread_index() == 0) advance(args, norm2);
}

}  // namespace brenier::cuda
