// SPDX-License-Identifier: MIT
// Reductions of a warp and of a block, written in the device dialect. Their order is fixed by the lane
// numbers, so the same values give the same bits, in every lane.
#pragma once

#include "kernels/device/dialect.hpp"

namespace brenier::device {
inline namespace BRENIER_DIALECT {

inline constexpr int kWarpSize = 32;
inline constexpr int kMaxWarps = 32;  // of a block

BRENIER_DEVICE inline int lane() {
  return thread_index() % kWarpSize;
}
BRENIER_DEVICE inline int warp() {
  return thread_index() / kWarpSize;
}
BRENIER_DEVICE inline int warp_count() {
  return block_size() / kWarpSize;
}

BRENIER_DEVICE inline bool any(bool predicate, Where where = Where::current()) {
  return ballot(predicate, where) != 0;
}
BRENIER_DEVICE inline bool all(bool predicate, Where where = Where::current()) {
  return ballot(predicate, where) == 0xFFFFFFFFu;
}

/// Sum over the warp, in every lane: a butterfly, so lane i and lane i^k add the same two numbers.
template <class T>
BRENIER_DEVICE T warp_sum(T value, Where where = Where::current()) {
  for (int mask = kWarpSize / 2; mask > 0; mask /= 2) value += shuffle_xor(value, mask, where);
  return value;
}

/// Largest value of the warp, in every lane.
template <class T>
BRENIER_DEVICE T warp_max(T value, Where where = Where::current()) {
  for (int mask = kWarpSize / 2; mask > 0; mask /= 2) {
    const T other = shuffle_xor(value, mask, where);
    value = other > value ? other : value;
  }
  return value;
}

/// Shared memory of a block reduction; a member of the kernel's SharedStorage. May be used again at once.
template <class T>
using BlockScratch = Array<T, kMaxWarps>;

/// Sum over the block, in every thread: warps by warp_sum, then their sums in the order of the warps.
/// Two barriers.
template <class T>
BRENIER_DEVICE T block_reduce_sum(T value, BlockScratch<T>& scratch, Where where = Where::current()) {
  const T of_warp = warp_sum(value, where);
  sync_block(where);  // an earlier use of scratch is over
  if (lane() == 0) scratch[warp()] = of_warp;
  sync_block(where);
  T total = scratch[0];
  for (int w = 1; w < warp_count(); ++w) total += scratch[w];
  return total;
}

/// Largest value of the block, in every thread. Two barriers.
template <class T>
BRENIER_DEVICE T block_reduce_max(T value, BlockScratch<T>& scratch, Where where = Where::current()) {
  const T of_warp = warp_max(value, where);
  sync_block(where);
  if (lane() == 0) scratch[warp()] = of_warp;
  sync_block(where);
  T largest = scratch[0];
  for (int w = 1; w < warp_count(); ++w) largest = scratch[w] > largest ? scratch[w] : largest;
  return largest;
}

/// True in every thread of the block that comes here last of the launch; it sees what the others wrote
/// before. `ticket` is device memory that starts as 0 and is 0 again afterwards; `scratch` lies in shared
/// memory. Two barriers.
BRENIER_DEVICE inline bool last_block(unsigned* ticket, int& scratch, Where where = Where::current()) {
  sync_block(where);  // this block has written
  if (thread_index() == 0) {
    scratch = detail::arrive(ticket) + 1 == static_cast<unsigned>(grid_size());
    if (scratch) *ticket = 0;
  }
  sync_block(where);
  return scratch != 0;
}

}  // namespace BRENIER_DIALECT
}  // namespace brenier::device
