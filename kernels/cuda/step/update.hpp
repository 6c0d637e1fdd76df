// SPDX-License-Identifier: MIT
// The second half of an inner iteration: sums of the blocks' gradients, Adam, the clamp, and the decision
// whether the loop goes on, in one kernel.
//
//   launch   kUpdateThreads threads for 32 parameters each: a warp sums its part of the blocks, in order
//            and in double, then warp 0 adds the warps, in order
//   latency  the kernel is short: what warp 0 needs of the parameters is on its way while the sums are formed,
//            and kUpdateAhead of their terms are at a time
//   state    parameters and moments exist twice. Every block reads the current set and writes the other
//            one; the block that comes last knows the norm of the whole gradient and makes the other set
//            the current one, or not: a gradient that is not finite leaves everything as it was
#pragma once

#include "kernels/cuda/step/control.hpp"
#include "kernels/device/device.hpp"
#include "kernels/model/adam.hpp"

namespace brenier::cuda {

using namespace brenier::device;

inline constexpr int kUpdateThreads = 256;
inline constexpr int kUpdateParameters = 32;  // of a block
inline constexpr int kUpdateAhead = 16;       // terms of a sum that are read before the first is added

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
  LoopProgress& progress = control.progress;
  if (progress.take(sqrt(norm2), args.tolerance, args.gradient_scale)) {
    control.current = 1 - control.current;
    ++control.iteration;
  }
  control.stop = progress.converged || !progress.finite;
}

/// One parameter with its moments, and its constants; of both sets: which one is current is on its way too.
template <class T>
struct Parameter {
  T theta[2], m[2], v[2], lower, rate;

  BRENIER_DEVICE void read(const UpdateArgs<T>& args, int k) {
    BRENIER_UNROLL
    for (int set = 0; set < 2; ++set) {
      const Index at = Index{set} * args.packed + k;
      theta[set] = args.theta[at];
      m[set] = args.m[at];
      v[set] = args.v[at];
    }
    lower = args.lower[k];
    rate = args.rate[k];
  }
  /// Writes the set that is not current; the part of the gradient that moves the parameter.
  BRENIER_DEVICE double update(const UpdateArgs<T>& args, const AdamStep<T>& adam, int current, int k,
                               double gradient) const {
    const Index to = Index{1 - current} * args.packed + k;
    T next = current ? theta[1] : theta[0], m1 = current ? m[1] : m[0], v1 = current ? v[1] : v[0];
    const double moving = moving_part(next, lower, rate, gradient);
    adam.update(next, m1, v1, static_cast<T>(gradient), lower, rate);
    args.theta[to] = next;
    args.m[to] = m1;
    args.v[to] = v1;
    return moving;
  }
};

/// The parts of parameter k of blocks first .. first + kUpdateAhead, 0 from `last` on: all on their way before
/// the first is waited for. What is not wanted is read from a place that exists.
template <class T>
struct PartsAhead {
  T part[kUpdateAhead];

  BRENIER_DEVICE PartsAhead(const UpdateArgs<T>& args, int first, int last, int k) {
    const T* from = args.partial + (k < args.packed ? k : 0);
    BRENIER_UNROLL
    for (int j = 0; j < kUpdateAhead; ++j) {
      const int b = first + j < args.blocks ? first + j : args.blocks - 1;
      const T read = from[Index{b} * args.packed];
      part[j] = first + j < last ? read : T(0);
    }
  }
  BRENIER_DEVICE double add_to(double sum) const {
    BRENIER_UNROLL
    for (int j = 0; j < kUpdateAhead; ++j) sum += static_cast<double>(part[j]);
    return sum;
  }
};

template <class T>
BRENIER_KERNEL BRENIER_LAUNCH_BOUNDS(kUpdateThreads) void update_kernel(BRENIER_ARGUMENT UpdateArgs<T> args) {
  UpdateShared& shared = shared_storage<UpdateShared>();
  constexpr int kWarps = kUpdateThreads / kWarpSize;
  const int k = block_index() * kUpdateParameters + lane();
  const int first = warp() * args.blocks / kWarps;
  const int last = (warp() + 1) * args.blocks / kWarps;
  // None of these reads waits for another: a loop that has stopped reads in vain.
  const bool mine = k < args.packed && warp() == 0;
  Parameter<T> before{};
  if (mine && args.theta) before.read(args, k);
  const Control control = args.control ? *args.control : Control{};
  const PartsAhead<T> ahead(args, first, last, k);
  const bool run = !control.stop;
  AdamStep<T> adam;
  if (mine && args.theta && run) adam = args.adam[control.iteration - args.first_iteration];
  double sum = ahead.add_to(0);
  for (int b = first + kUpdateAhead; b < last; b += kUpdateAhead) {
    sum = PartsAhead<T>(args, b, last, k).add_to(sum);
  }
  shared.part[thread_index()] = sum;
  sync_block();
  double moving = 0;
  if (mine && run) {
    for (int w = 1; w < kWarps; ++w) sum += shared.part[w * 32 + lane()];
    sum /= args.n;
    if (args.gradient) args.gradient[k] = sum;
    if (args.theta) moving = before.update(args, adam, control.current, k, sum);
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
