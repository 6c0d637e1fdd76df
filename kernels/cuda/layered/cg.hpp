// SPDX-License-Identifier: MIT
// Stages of a JKO step with a stochastic log-determinant on a chunk of the layered form: what
// kernels/cuda/step/step_cg.hpp does for a tile.
#pragma once

#include "kernels/cuda/layered/solves.hpp"
#include "kernels/cuda/step/step_cg.hpp"

namespace brenier::cuda::layered {

/// Probe k where a solve begins.
struct GatherProbe {
  int k;
  template <class T>
  BRENIER_DEVICE void operator()(const Chunk<T>& chunk, const LayeredArgs<T>& args) const {
    chunk.for_each(chunk.net().dim, [&](int c, int p) {
      chunk.at(chunk.plan().vectors + c, p) = probe_of(args.step, args.begin + p, k, c);
    });
    chunk.for_each(k == 0 ? 1 : 0, [&](int, int p) {
      LogDetState& state = state_of<LogDetState>(chunk, p);
      state.solve.report = {};
      state.log_det = 0;
    });
  }
};
template <class T>
struct AdvanceRecorded {
  ConjugateGradients<T> cg;
  LogDetArgs log_det;
  BRENIER_DEVICE void operator()(const Chunk<T>& chunk, const LayeredArgs<T>& args) const {
    for_warps(args, [&](int p) { advance_recorded(cg, log_det, chunk, chunk.plan(), chunk.net().dim, p); });
  }
};
/// Solution k into its q rows; after the last one the particle's report and the weight of its solutions.
template <class T>
struct FinishRecorded {
  ConjugateGradients<T> cg;
  LogDetArgs log_det;
  int k;
  BRENIER_DEVICE void operator()(const Chunk<T>& chunk, const LayeredArgs<T>& args) const {
    const int d = chunk.net().dim;
    chunk.for_each(d, [&](int c, int p) {
      chunk.at(chunk.plan().q + (log_det.probes + k) * d + c, p) = chunk.at(chunk.plan().vectors + d + c, p);
    });
    chunk.for_each(1, [&](int, int p) {
      finish_recorded(cg, log_det, chunk, p);
      if (k + 1 < log_det.probes) return;
      if (args.begin + p < args.step.tile.n)
        log_det.reports[args.begin + p].add(state_of<LogDetState>(chunk, p).solve.report);
      weigh_solutions(chunk, args.step, log_det, args.begin, p);
    });
  }
};
struct SeedPairs {
  LogDetArgs log_det;
  template <class T>
  BRENIER_DEVICE void operator()(const Chunk<T>& chunk, const LayeredArgs<T>& args) const {
    chunk.for_each(log_det.probes * chunk.net().dim, [&](int e, int p) {
      seed_pairs(chunk, chunk.plan(), args.step, log_det, args.begin, e, p);
    });
  }
};

}  // namespace brenier::cuda::layered
