// SPDX-License-Identifier: MIT
// Operations on clouds, tile by tile: rows of a matrix into lanes and back, tiles dealt out to threads.
#pragma once

#include "brenier/base/team.hpp"
#include "kernels/base/arena.hpp"
#include "kernels/base/ranks.hpp"
#include "kernels/cpu/simd.hpp"

namespace brenier::cpu::BRENIER_ISA {

inline Index tiles_of(Index n) {
  return (n + kLanes - 1) / kLanes;
}

/// The part of [0, count) of a thread, among those of all processes.
inline std::pair<Index, Index> share_of_all(const Team& team, Index count, int rank) {
  return team.ranks() ? team.ranks()->share(count, rank, team.size()) : team.share(count, rank);
}

/// A barrier of all threads, after which every process has all of the parts. Throws on all of them at once.
template <int count>
void meet(Team& team, int rank, const RankPart (&parts)[count]) {
  team.barrier();
  Ranks* const ranks = team.ranks();
  if (!ranks) return;
  if (rank == 0) ranks->gather_between(parts, count);
  team.barrier();
  ranks->rethrow();
}

/// Whether tiles are shared out among processes: the parts of few cost more to bring together than to compute.
inline bool spread_tiles(const Team& team, Index tiles) {
  return team.ranks() && tiles >= 8;
}

/// Runs body(tile, first particle, particles) over the tiles of n particles, in parallel; make() builds what
/// one thread needs. `spread`: each process computes its share alone.
template <class Make, class Body>
void parallel_tiles(Index n, Team& team, const Make& make, const Body& body, bool spread = false) {
  team.run([&](int rank) {
    const Index tiles = tiles_of(n);
    const auto [first, last] = spread ? share_of_all(team, tiles, rank) : team.share(tiles, rank);
    if (first == last) return;
    Carver count(nullptr);
    make(count);
    const Arena memory(count.used());
    Carver carver(memory.data());
    auto worker = make(carver);
    for (Index tile = first; tile < last; ++tile) {
      const Index begin = tile * kLanes;
      body(worker, begin, static_cast<int>(n - begin < kLanes ? n - begin : kLanes));
    }
  });
}

/// Lanes <- rows of a matrix, columns [col, col + cols); lanes past `count` repeat the last row, or are 0.
template <class T>
void gather(MatrixView<const T> from, Index begin, int count, Index col, Index cols, T* to,
            bool zero_padding) {
  for (int i = 0; i < kLanes; ++i) {
    const T* row = from.row(begin + (i < count ? i : count - 1)) + col;
    for (Index c = 0; c < cols; ++c) to[c * kLanes + i] = zero_padding && i >= count ? T(0) : row[c];
  }
}

template <class T>
void scatter(const T* from, MatrixView<T> to, Index begin, int count, Index cols) {
  for (int i = 0; i < count; ++i) {
    for (Index c = 0; c < cols; ++c) to(begin + i, c) = from[c * kLanes + i];
  }
}

}  // namespace brenier::cpu::BRENIER_ISA
