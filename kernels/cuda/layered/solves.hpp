// SPDX-License-Identifier: MIT
// Stages of solve_hessian() and log_det_lanczos() on a chunk of the layered form: what
// kernels/cuda/network/solve_kernels.hpp does for a particle, one warp for each particle of the chunk.
#pragma once

#include "kernels/cuda/layered/kernels.hpp"
#include "kernels/cuda/network/solve_kernels.hpp"

namespace brenier::cuda::layered {

/// f(p) for all particles of the chunk, one warp for each.
template <class T, class F>
BRENIER_DEVICE void for_warps(const LayeredArgs<T>& args, const F& f) {
  const int warps = grid_size() * warp_count();
  for (int p = block_index() * warp_count() + warp(); p < args.particles; p += warps) f(p);
}

/// Vectors k of p and, where there are guesses, of z; in the first call the states are fresh.
template <class T, class State>
struct GatherVectors {
  SolveArgs<T> solve;
  int k;
  BRENIER_DEVICE void operator()(const Chunk<T>& chunk, const LayeredArgs<T>& args) const {
    const int d = chunk.net().dim;
    const int stride = solve.count * d;
    gather(chunk, chunk.plan().vectors, solve.p, solve.tile.n, args.begin, stride, k * d, d, true);
    if (solve.z) {
      gather(chunk, chunk.plan().vectors + d, static_cast<const T*>(solve.z), solve.tile.n, args.begin,
             stride, k * d, d, true);
    }
    chunk.for_each(k == 0 ? 1 : 0, [&](int, int p) {
      State& state = state_of<State>(chunk, p);
      if constexpr (std::is_same_v<State, SolveState>) {
        state.report = {};
      } else {
        state.mean = {};
      }
    });
  }
};

template <class T>
struct Guess {
  ConjugateGradients<T> cg;
  BRENIER_DEVICE void operator()(const Chunk<T>& chunk, const LayeredArgs<T>& args) const {
    for_warps(args, [&](int p) { cg.guess(chunk, chunk.plan(), chunk.net().dim, p); });
  }
};
template <class T>
struct StartSolve {
  ConjugateGradients<T> cg;
  BRENIER_DEVICE void operator()(const Chunk<T>& chunk, const LayeredArgs<T>& args) const {
    for_warps(args, [&](int p) { cg.start(chunk, chunk.plan(), chunk.net().dim, p); });
  }
};
template <class T>
struct AdvanceSolve {
  ConjugateGradients<T> cg;
  BRENIER_DEVICE void operator()(const Chunk<T>& chunk, const LayeredArgs<T>& args) const {
    for_warps(args, [&](int p) { cg.advance(chunk, chunk.plan(), chunk.net().dim, p); });
  }
};
template <class T>
struct FinishSolve {
  ConjugateGradients<T> cg;
  SolveArgs<T> solve;
  int k;
  BRENIER_DEVICE void operator()(const Chunk<T>& chunk, const LayeredArgs<T>& args) const {
    const int d = chunk.net().dim;
    chunk.for_each(d, [&](int c, int p) {
      if (args.begin + p >= solve.tile.n) return;
      solve.z[Index{args.begin + p} * solve.count * d + k * d + c] =
          chunk.at(chunk.plan().vectors + d + c, p);
    });
    chunk.for_each(1, [&](int, int p) {
      cg.finish(chunk, p);
      if (args.begin + p < solve.tile.n)
        solve.reports[args.begin + p] = state_of<SolveState>(chunk, p).report;
    });
  }
};

template <class T>
struct StartLanczos {
  Lanczos<T> lanczos;
  BRENIER_DEVICE void operator()(const Chunk<T>& chunk, const LayeredArgs<T>& args) const {
    for_warps(args, [&](int p) { lanczos.start(chunk, chunk.plan(), chunk.net().dim, p); });
  }
};
template <class T>
struct AdvanceLanczos {
  Lanczos<T> lanczos;
  int j;
  BRENIER_DEVICE void operator()(const Chunk<T>& chunk, const LayeredArgs<T>& args) const {
    for_warps(args, [&](int p) { lanczos.advance(chunk, chunk.plan(), chunk.net().dim, p, j); });
  }
};
template <class T>
struct FinishLanczos {
  Lanczos<T> lanczos;
  SolveArgs<T> solve;
  BRENIER_DEVICE void operator()(const Chunk<T>& chunk, const LayeredArgs<T>& args) const {
    chunk.for_each(1, [&](int, int p) {
      lanczos.finish(chunk, p);
      if (args.begin + p >= solve.tile.n) return;
      const RunningMean& mean = state_of<LanczosState>(chunk, p).mean;
      solve.estimate[args.begin + p] = mean.mean;
      solve.variance[args.begin + p] = mean.variance();
    });
  }
};

}  // namespace brenier::cuda::layered
