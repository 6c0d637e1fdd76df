// SPDX-License-Identifier: MIT
// One number on the device, made of sums: the value of an objective. Launches alone, so that it can be captured.
//
//   order    threads take elements in turn, blocks and their sums are added in order, all in double: the same
//            bits on every run. The number of blocks depends on the number of elements only
//   launch   kSumThreads threads; at most kSumBlocks blocks, of which the last adds up
//   stop     under the control of an inner loop that has stopped, nothing is added
#pragma once

#include <algorithm>

#include "kernels/cuda/step/control.hpp"
#include "kernels/cuda/transfer.hpp"
#include "kernels/device/device.hpp"

namespace brenier::cuda {

inline constexpr int kSumThreads = 256;
inline constexpr int kSumBlocks = 132;

struct SumArgs {
  int count = 0;  // elements
  double factor = 1;
  int first = 0;               // 1: what is in `value` does not count
  double* value = nullptr;     // value += factor * sum of the elements
  double* partial = nullptr;   // (grid)
  unsigned* ticket = nullptr;  // 0
  const Control* control = nullptr;
};

struct SumShared {
  BlockScratch<double> scratch;
  int last;
};

/// A thread of a launch that sums: which one, of how many. For elements that want a workspace.
struct SumThread {
  Index index, count;
};

/// `element` is a function of an element's number and of the thread that computes it.
template <class Element>
BRENIER_KERNEL BRENIER_LAUNCH_BOUNDS(kSumThreads, 1) void sum_kernel(BRENIER_ARGUMENT SumArgs args,
                                                                     BRENIER_ARGUMENT Element element) {
  SumShared& shared = shared_storage<SumShared>();
  const bool idle = args.control && args.control->stop;
  const SumThread thread{Index{block_index()} * block_size() + thread_index(),
                         Index{grid_size()} * block_size()};
  double sum = 0;
  for (Index i = thread.index; !idle && i < args.count; i += thread.count) sum += element(i, thread);
  sum = block_reduce_sum(sum, shared.scratch);
  if (thread_index() == 0) args.partial[block_index()] = sum;
  if (!last_block(args.ticket, shared.last)) return;
  double total = thread_index() < grid_size() ? args.partial[thread_index()] : 0.0;
  total = block_reduce_sum(total, shared.scratch);
  if (thread_index() == 0 && !idle) *args.value = (args.first ? 0.0 : *args.value) + args.factor * total;
}
static_assert(kSumBlocks <= kSumThreads, "the last block reads one sum a thread");

/// The number; what it is made of is added in the order of the calls.
class DeviceValue {
 public:
  /// At `value`, under `control`, which may be null.
  DeviceValue(DevicePointer<double> value, const Control* control, Stream& stream)
      : value_(value), control_(control), partial_(kSumBlocks), ticket_(1) {
    ticket_.fill_zero(stream);
  }

  /// A new value, from 0 on: of what is launched after this.
  void begin() { first_ = true; }

  /// value += factor * sum over i < count of element(i).
  template <class Element>
  void add(const char* name, double factor, Index count, const Element& element, Stream& stream) {
    SumArgs args{.count = as_int(count), .factor = factor, .first = first_};
    args.value = raw(value_);
    args.partial = raw(partial_);
    args.ticket = raw(ticket_);
    args.control = control_;
    launch(sum_kernel<Element>, {blocks(count), kSumThreads, sizeof(SumShared), stream, name}, args, element);
    first_ = false;
  }
  static int blocks(Index count) {
    return static_cast<int>(std::clamp<Index>((count + kSumThreads - 1) / kSumThreads, 1, kSumBlocks));
  }
  /// Of the launch for so many elements.
  static Index threads(Index count) { return Index{blocks(count)} * kSumThreads; }

 private:
  DevicePointer<double> value_;
  const Control* control_;
  DeviceBuffer<double> partial_;
  DeviceBuffer<unsigned> ticket_;
  bool first_ = true;
};

/// Elements of an array, those of a structure `stride` doubles apart.
struct Numbers {
  const double* at;
  int stride = 1;
  BRENIER_DEVICE double operator()(Index i, const SumThread&) const { return at[i * stride]; }
};

}  // namespace brenier::cuda
