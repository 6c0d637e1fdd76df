// SPDX-License-Identifier: MIT
// A decision of L-BFGS after each evaluation of an inner problem, on the device: the machine of
// kernels/model/lbfgs.hpp with a block in the place of the host's loops.
//
//   launch   one block of kSearchThreads threads, a thread has the elements k = thread + m block; between sums no
//            thread sees what another has written, so that sums alone have barriers
//   sums     in double, in an order that depends on the number of parameters alone
//   state    every thread has its own copy while the block decides, all the same; the first one writes it back
//   stop     as Adam's: Control::stop ends the work of all launches that are queued behind
//
// Predicted, never measured: 26 passes for 10 pairs, 36 where other parameters are free than before, of 0.6 to 0.8
// us with 2361 parameters: latency of L2, of ten shuffles, two barriers and 16 warps' sums. 16 to 29 us an
// evaluation. What would come first if that is seen: all scalar products of pairs and gradient in one pass, the
// recursion on their matrix.
#pragma once

#include "kernels/cuda/step/control.hpp"
#include "kernels/device/device.hpp"
#include "kernels/model/lbfgs.hpp"

namespace brenier::cuda {

using namespace brenier::device;

inline constexpr int kSearchThreads = 512;

inline constexpr int kSearchSums = 4;  // at once

struct SearchShared {
  Array<double, kSearchSums * kMaxWarps> parts;
  BlockScratch<double> scratch;
};

/// The elements of a block: see LbfgsMachine.
struct BlockArrays {
  Index n;
  SearchShared& shared;

  template <class F>
  BRENIER_DEVICE void each(const F& f) const {
    for (Index k = thread_index(); k < n; k += block_size()) f(k);
  }
  /// As block_reduce_sum, all sums between the same two barriers.
  template <int kSums, class F>
  BRENIER_DEVICE LbfgsSums<kSums> sums(const F& f) const {
    static_assert(kSums <= kSearchSums);
    LbfgsSums<kSums> sums{};
    for (Index k = thread_index(); k < n; k += block_size()) {
      const LbfgsSums<kSums> here = f(k);
      BRENIER_UNROLL
      for (int j = 0; j < kSums; ++j) sums.of[j] += here.of[j];
    }
    BRENIER_UNROLL
    for (int j = 0; j < kSums; ++j) sums.of[j] = warp_sum(sums.of[j]);
    sync_block();  // an earlier use of scratch is over
    for (int j = 0; j < kSums && lane() == 0; ++j) shared.parts[j * kMaxWarps + warp()] = sums.of[j];
    sync_block();
    BRENIER_UNROLL
    for (int j = 0; j < kSums; ++j) {
      sums.of[j] = shared.parts[j * kMaxWarps];
      for (int w = 1; w < warp_count(); ++w) sums.of[j] += shared.parts[j * kMaxWarps + w];
    }
    return sums;
  }
  template <class F>
  BRENIER_DEVICE double largest(const F& f) const {
    double found = 0;
    for (Index k = thread_index(); k < n; k += block_size()) {
      const double here = f(k);
      found = here > found ? here : found;
    }
    return block_reduce_max(found, shared.scratch);
  }
};

template <class T>
struct SearchArgs {
  LbfgsOptions options;  // but for the interruption, which is the host's
  LbfgsVectors<T> vectors;
  const double* value = nullptr;  // of the objective at vectors.trial
  LbfgsState* state = nullptr;
  Control* control = nullptr;
};

template <class T>
BRENIER_KERNEL BRENIER_LAUNCH_BOUNDS(kSearchThreads) void search_kernel(BRENIER_ARGUMENT SearchArgs<T> args) {
  SearchShared& shared = shared_storage<SearchShared>();
  if (args.control->stop) return;  // all threads alike
  LbfgsState state = *args.state;
  const double value = *args.value;
  const BlockArrays space{args.vectors.n, shared};
  const bool more = LbfgsMachine<T, BlockArrays>(args.options, args.vectors, space, state).take(value, false);
  sync_block();  // all threads have read what the first one writes
  if (thread_index() != 0) return;
  *args.state = state;
  args.control->stop = more ? 0 : 1;
}

/// For float and double, in kernels/cuda/step/search.cpp.
template <class T>
void launch_search(const SearchArgs<T>& args, Stream& stream);

}  // namespace brenier::cuda
