// SPDX-License-Identifier: MIT
// A fixed team of threads that runs one function at a time, with barriers inside it.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <utility>

#include "brenier/base/view.hpp"
#include "brenier/export.h"

namespace BRENIER_API brenier {

class BRENIER_HIDDEN Ranks;

/// Threads that sleep between calls of run(). Not copyable; run() must not be called from two threads at once
/// or from inside itself. Results of the library never depend on the number of threads: work is split by
/// problem size, and only dealt out by rank. A process that fork() has made has none of these threads: a team starts its own
/// there with the first run(). The threads take none of the process's signals, and compute without floating-point traps,
/// rounding to nearest.
class Team {
 public:
  /// `threads` >= 1, the calling thread included; 0 takes what the machine offers to this process.
  explicit Team(int threads = 0);
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int size() const { return size_; }

  /// Processors that the system lets this process use; at least 1.
  static int available();

  /// Calls body(rank) on every thread, rank in [0, size()), and waits for all. An exception in a body is
  /// thrown again here once all have ended; a body that waits at a barrier must not throw on one rank alone.
  void run(const std::function<void(int)>& body);

  /// Inside run(): waits until every rank has arrived.
  void barrier();

  /// The part of [0, count) that `rank` works on: contiguous and as even as possible.
  std::pair<Index, Index> share(Index count, int rank) const {
    return {count * rank / size_, count * (rank + 1) / size_};
  }

  /// Calls body(i) for i in [0, count), each thread with its share.
  template <class Body>
  void for_each(Index count, const Body& body) {
    run([&](int rank) {
      const auto [begin, end] = share(count, rank);
      for (Index i = begin; i < end; ++i) body(i);
    });
  }

  /// Other processes that make the same calls with teams of their own while this is not null: operations of the cpu
  /// backend that are given such a team then share their work out. Belongs to the caller, as Flow does.
  Ranks* ranks() const { return ranks_; }
  void set_ranks(Ranks* ranks) { ranks_ = ranks; }

 private:
  struct BRENIER_HIDDEN Workers;
  int size_;
  Ranks* ranks_ = nullptr;
  std::atomic<int> arrived_{0};
  std::atomic<unsigned> generation_{0};
  std::unique_ptr<Workers> workers_;
};

}  // namespace brenier
