// SPDX-License-Identifier: MIT
// One iteration of a JKO step whose log-determinant is stochastic (LogDetOptions): conjugate gradients for
// the probes of a tile's particles, then the reverse sweep with probes and solutions as pairs.
//
//   computes   what step_kernel does with Hutchinson's estimator in place of a factor of H, as the reference:
//              kernels/ref/step/objective.cpp
//   layout     two plans of the same rows. `pairs` (the plan of the step) has P probes and behind them P
//              solutions in the q rows; `single` has one tangent, which the first of them directs: what
//              products with H need. Residual and solution of the running solve lie in the `vectors` rows,
//              what a particle carries (LogDetState and three arrays of `recorded` doubles) in the doubles of
//              the tile
//   launch     as tile kernels; a kernel of its own, so that that of the exact step keeps its registers
#pragma once

#include "kernels/cuda/network/solve_kernels.hpp"
#include "kernels/cuda/step/step_kernel.hpp"

namespace brenier::cuda {

/// Of the stochastic log-determinant.
struct LogDetArgs {
  int probes = 1;  // P
  CgOptions options{};
  int recorded = 0;             // steps of a solve that the quadrature may have; 0: no weight depends on it
  CgReport* reports = nullptr;  // of blocks, or of particles where these are not dealt out to blocks
};

template <class T>
struct StepCgArgs {
  StepArgs<T> step;
  LogDetArgs log_det;
  TileLayout single;  // of tiles
};

/// The rows of `pairs` as one tangent along the first q rows.
template <class Plan>
Plan single_plan(Plan pairs) {
  pairs.directions = Directions::single;
  pairs.count = 1;
  pairs.tangents = 1;
  return pairs;
}

/// The solve that runs, and what its particle's earlier ones have left; behind it diagonal, off-diagonal and
/// work space of the Lanczos matrix, `recorded` doubles each.
struct LogDetState {
  SolveState solve;
  double carry;    // of cg_lanczos_row()
  double log_det;  // sum over probes; then what the solutions are multiplied with
};

/// What a task needs beyond that of an exact step.
inline void add_log_det(TileTask& task, const LogDetArgs& args) {
  task.directions = Directions::pairs;
  task.count = args.probes;
  task.vectors = 2;
  task.state_doubles = kStateDoubles<LogDetState> + 3 * args.recorded;
}

/// Component c of probe k at a place of the batch; 0 for padding.
template <class T>
BRENIER_DEVICE T probe_of(const StepArgs<T>& args, int place, int k, int c) {
  if (place >= args.tile.n) return T(0);
  const RademacherProbes signs(args.seed, args.step, static_cast<std::uint32_t>(args.control->iteration),
                               args.tile.net.dim);
  return signs.negative(static_cast<std::uint64_t>(place), k, c) ? T(-1) : T(1);
}

/// After the product of a step; by the particle's warp.
template <class T, class Owner>
BRENIER_DEVICE void advance_recorded(const ConjugateGradients<T>& cg, const LogDetArgs& args,
                                     const Owner& owner, const PlanShape& plan, int d, int p) {
  cg.advance(owner, plan, d, p, [&](int step, double length, double ratio) {
    if (step >= args.recorded || lane() != 0) return;
    LogDetState& state = state_of<LogDetState>(owner, p);
    double* matrix = owner.state(p) + kStateDoubles<LogDetState>;
    if (step == 0) state.carry = 0;
    cg_lanczos_row(length, ratio, state.carry, matrix[step], matrix[args.recorded + step]);
  });
}

/// After the last step of a solve: its report and its quadrature; one thread.
template <class T, class Owner>
BRENIER_DEVICE void finish_recorded(const ConjugateGradients<T>& cg, const LogDetArgs& args,
                                    const Owner& owner, int p) {
  cg.finish(owner, p);
  LogDetState& state = state_of<LogDetState>(owner, p);
  if (args.recorded == 0 || state.solve.steps == 0) return;
  double* matrix = owner.state(p) + kStateDoubles<LogDetState>;
  state.log_det += state.solve.norm2 * tridiagonal_log(state.solve.steps, matrix, matrix + args.recorded,
                                                       matrix + 2 * args.recorded);
}

/// The sum of the quadratures becomes -w(xi)/P; one thread a particle.
template <class T, class Owner>
BRENIER_DEVICE void weigh_solutions(const Owner& owner, const StepArgs<T>& step, const LogDetArgs& args,
                                    int begin, int p) {
  double& value = state_of<LogDetState>(owner, p).log_det;
  value = internal_weight(owner, step, begin + p, p, value / args.probes) / args.probes;
}

/// The q rows of the reverse sweep, row `e` of probes and solutions.
template <class T, class Owner>
BRENIER_DEVICE void seed_pairs(const Owner& owner, const PlanShape& pairs, const StepArgs<T>& step,
                               const LogDetArgs& args, int begin, int e, int p) {
  const int d = owner.net().dim;
  owner.at(pairs.q + e, p) = probe_of(step, begin + p, e / d, e % d);
  T& solution = owner.at(pairs.q + args.probes * d + e, p);
  solution = static_cast<T>(state_of<LogDetState>(owner, p).log_det) * solution;
}

/// Solutions of all probes of a tile in the q rows, after the adjoint; ends with a barrier.
template <class TileType, class T>
BRENIER_DEVICE void solve_probes(TileType& tile, const StepCgArgs<T>& args, int particles, int begin) {
  const TileLayout& plan = args.single;
  const LogDetArgs& log_det = args.log_det;
  const int d = args.step.tile.net.dim;
  const int p = thread_index();
  const ConjugateGradients<T> cg{log_det.options};
  for (int k = 0; k < log_det.probes; ++k) {
    tile.for_each(d,
                  [&](int c, int q) { tile.at(plan.vectors + c, q) = probe_of(args.step, begin + q, k, c); });
    sync_block();
    for_particles(particles, [&](int q) { cg.start(tile, plan, d, q); });
    for (int j = 0; j < log_det.options.iterations && any_active<SolveState>(tile, particles); ++j) {
      tile.tangents();
      tile.hessian_vector();
      for_particles(particles, [&](int q) { advance_recorded(cg, log_det, tile, plan, d, q); });
    }
    tile.for_each(d, [&](int c, int q) {
      tile.at(plan.q + (log_det.probes + k) * d + c, q) = tile.at(plan.vectors + d + c, q);
    });
    if (p < particles) finish_recorded(cg, log_det, tile, p);
    sync_block();
  }
}

template <class Form>
BRENIER_KERNEL BRENIER_LAUNCH_BOUNDS(kTileThreads, Form::kResident) void step_cg_kernel(
    BRENIER_ARGUMENT StepCgArgs<typename Form::Type> args) {
  using T = typename Form::Type;
  constexpr int kParticles = Form::kParticles;
  const StepArgs<T>& step = args.step;
  const LogDetArgs& log_det = args.log_det;
  const TileLayout& pairs = step.tile.plan;
  const int d = step.tile.net.dim;
  const int p = thread_index();
  const TileMemory<Form> memory(step.tile, step.control->current);
  auto tile = make_tile<Form>(step.tile, memory);
  typename Form::TileType single(step.tile.net, args.single, memory.theta, memory.rows, memory.doubles);
  const int n = step.control->stop ? 0 : step.tile.n;
  const int block = step.tile.first + block_index();
  for (int begin = block * kParticles; begin < n; begin += step.tile.blocks * kParticles) {
    gather(single, args.single.q, static_cast<const T*>(nullptr), n, begin, 0, 0, d, true);
    if (p < kParticles) {
      LogDetState& state = state_of<LogDetState>(single, p);
      state.solve.report = {};
      state.log_det = 0;
    }
    gather_batch(single, step, begin);
    single.forward();
    single.adjoint();
    single.displace();
    if (pairs.interacting) {
      tile_forces<T, kParticles>(step.pairs, step.image, n, begin, memory.scratch,
                                 [&](int q, int c, T force) { single.at(pairs.v + c, q) = force; });
    }
    sync_block();
    solve_probes(single, args, kParticles, begin);
    // The last warp has the first-order seeds to itself, as in step_kernel.
    if (warp() + 1 == warp_count() && lane() < kParticles) first_order_seeds(single, step, begin, lane());
    if (p < kParticles) weigh_solutions(single, step, log_det, begin, p);
    sync_block();
    tile.for_each(log_det.probes * d,
                  [&](int e, int q) { seed_pairs(tile, pairs, step, log_det, begin, e, q); });
    if (p == 0) {
      for (int q = 0; q < kParticles && begin + q < n; ++q) {
        log_det.reports[block].add(state_of<LogDetState>(single, q).solve.report);
      }
    }
    sync_block();
    tile.tangents();
    tile.second_order();
    tile.reverse();
    tile.accumulate(memory.sums);
  }
  memory.flush(step.tile);
}

}  // namespace brenier::cuda
