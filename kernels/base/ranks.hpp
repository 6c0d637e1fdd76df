// SPDX-License-Identifier: MIT
// Processes that work on one problem, as kernels see them: shares of blocks, parts of arrays brought to all, and sums over
// blocks in their order. Nothing here is inline: sources for one instruction set include it.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <utility>

#include "brenier/base/team.hpp"
#include "brenier/base/view.hpp"
#include "brenier/communicator.hpp"

namespace brenier {

/// An array whose items are filled by the processes that own their blocks. Blocks are dealt out contiguously; a block is
/// a run of groups, a group of `per` items.
struct RankPart {
  void* data;
  std::size_t bytes, stride;  // of an item, and from one to the next
  Index items, per, groups, blocks;

  /// Rows of a contiguous array, a block each.
  static RankPart rows(void* data, std::size_t bytes, Index count);
  /// Items in tiles of `per`, a block each; the last one may be short.
  static RankPart tiles(void* data, std::size_t bytes, std::size_t stride, Index items, Index per);
  /// Tiles of `bytes`, dealt out in chunks of them.
  static RankPart chunks(void* data, std::size_t bytes, Index tiles, Index chunks);
};

class BRENIER_HIDDEN Ranks {
 public:
  explicit Ranks(Communicator& communicator);
  ~Ranks();
  Ranks(const Ranks&) = delete;
  Ranks& operator=(const Ranks&) = delete;

  int rank() const;
  int size() const;

  /// The part of [0, count) of this process, and of one of its threads.
  std::pair<Index, Index> share(Index count) const;
  std::pair<Index, Index> share(Index count, int thread, int threads) const;

  // One thread of each process makes these calls, all in the same order. RankError: another process has failed.

  /// Whether all are well, and whether some were interrupted: see below.
  void agree();
  /// agree(), and whether one of them at least says so.
  bool any(bool said);
  /// What this process has met, told to the others, whose next call throws. Returns where all have failed, each with an
  /// error of its own; otherwise RankError, here as on the others.
  void fail(const char* message);
  /// Within a catch block: tells the others what was caught, as fail() does, but for a RankError, which they have too.
  void tell();
  /// The same of what has no Ranks, or not yet; null: there are no others.
  static void tell(Communicator* communicator);
  void gather(const RankPart* parts, int count);
  /// out (length + 1) = sum over blocks of partial (blocks, length) and of extra (blocks), in the order of the blocks. Each
  /// process has filled the rows of its share; work and memory for all but these are shared out by columns.
  void sum_blocks(const double* partial, const double* extra, Index blocks, Index length, double* out);
  /// What a backend keeps with the group, made and dropped by all alike; null at first.
  std::shared_ptr<void>& kept();
  Communicator& communicator();
  /// Whether all have the same number.
  bool same(std::uint64_t number);

  /// For threads between barriers: keeps what gather() or sum_blocks() throws; rethrow() is for all of them.
  void gather_between(const RankPart* parts, int count) noexcept;
  void sum_blocks_between(const double* partial, const double* extra, Index blocks, Index length,
                          double* out) noexcept;
  void rethrow() const;

  /// Set on one process alone, by a signal for example; with the next call all of them see it in the second one.
  void listen(const std::atomic<bool>* asked);
  const std::atomic<bool>& interrupted() const;
  void forget_interrupt();

 private:
  struct State;
  State* state_;
};

}  // namespace brenier
