// SPDX-License-Identifier: MIT
// Kernels over tiles of 32 particles: evaluate, Hessian-vector products, jet gradients, and one iteration of
// a JKO step.
//
//   launch   kTileThreads threads a block; blocks take tiles in turn (tile = block, block + grid, ...), so
//   that the
//            number of blocks, which fixes the order of all sums, is the host's choice
//   memory   rows of a tile in shared memory behind an empty SharedStorage, or in the block's part of `slab`
//   sums     each block adds its tiles to its own part of `partial`; reduce_kernel adds the blocks in order
#pragma once

#include "kernels/cuda/program.hpp"
#include "kernels/cuda/tile.hpp"
#include "kernels/objective.hpp"
#include "kernels/runtime/device.hpp"

namespace brenier::cuda {

inline constexpr int kTileThreads = 128;
inline constexpr int kTileLanes = 32;

/// What all tile kernels need. Clouds are (n, d) without gaps; outputs that are not wanted are null.
template <class T>
struct TileArgs {
  const NetView* net;
  const TilePlan* plan;
  const T* theta;
  const T* x;
  int n;
  T* slab;  // (grid, rows, kRow); null: shared memory
  T *potential, *displacement, *hessian, *product;
  double* log_det;
  const T *a, *v, *q, *p, *metric;
  T* partial;  // (grid, parameters)
};

template <class T>
BRENIER_DEVICE T* tile_rows(const TileArgs<T>& args) {
  const Index elements = Index{args.plan->rows} * kRow;
  return args.slab ? args.slab + block_index() * elements : shared_array<T>(0, elements);
}

/// rows <- columns first .. first + count of the particles of a tile; padding repeats the last one, or is 0.
template <class T>
BRENIER_DEVICE void gather(const Tile<T>& tile, int row, const T* from, int n, int begin, int stride,
                           int first, int count, bool zero_padding) {
  const int particle = begin + lane();
  const int source = particle < n ? particle : n - 1;
  Tile<T>::for_rows(count, [&](int c) {
    const bool padding = zero_padding && particle >= n;
    tile.at(row + c) = padding || !from ? T(0) : from[Index{source} * stride + first + c];
  });
}

template <class T>
BRENIER_DEVICE void scatter(const Tile<T>& tile, int row, T* to, int n, int begin, int count) {
  const int particle = begin + lane();
  Tile<T>::for_rows(count, [&](int c) {
    if (particle < n) to[Index{particle} * count + c] = tile.at(row + c);
  });
}

template <class T>
BRENIER_KERNEL BRENIER_LAUNCH_BOUNDS(kTileThreads) void evaluate_kernel(TileArgs<T> args) {
  const TilePlan& plan = *args.plan;
  const int d = args.net->dim;
  Tile<T> tile(*args.net, plan, args.theta, tile_rows(args));
  for (int begin = block_index() * kTileLanes; begin < args.n; begin += grid_size() * kTileLanes) {
    const int particle = begin + lane();
    gather(tile, plan.x, args.x, args.n, begin, d, 0, d, false);
    sync_block();
    tile.forward();
    tile.adjoint();
    if (args.displacement) scatter(tile, plan.displacement, args.displacement, args.n, begin, d);
    if (args.potential && warp() == 0 && particle < args.n) args.potential[particle] = tile.potential();
    if (plan.directions == Directions::unit) {
      tile.tangents();
      tile.hessian();
      for (int k = warp(); args.hessian && k < d * d; k += warp_count()) {
        if (particle < args.n) {
          args.hessian[Index{particle} * d * d + k] = tile.at(plan.hessian + triangle_index(k / d, k % d));
        }
      }
      double log_det = 0;
      tile.factorise(&log_det, false);
      if (args.log_det && warp() == 0 && particle < args.n) args.log_det[particle] = log_det;
    }
    sync_block();
  }
}

template <class T>
BRENIER_KERNEL BRENIER_LAUNCH_BOUNDS(kTileThreads) void hessian_vector_kernel(TileArgs<T> args) {
  const TilePlan& plan = *args.plan;
  const int d = args.net->dim;
  Tile<T> tile(*args.net, plan, args.theta, tile_rows(args));
  for (int begin = block_index() * kTileLanes; begin < args.n; begin += grid_size() * kTileLanes) {
    gather(tile, plan.x, args.x, args.n, begin, d, 0, d, false);
    gather(tile, plan.q, args.q, args.n, begin, d, 0, d, false);
    sync_block();
    tile.forward();
    tile.adjoint();
    tile.tangents();
    tile.hessian_vector();
    scatter(tile, plan.y, args.product, args.n, begin, d);
    sync_block();
  }
}

template <class T>
BRENIER_DEVICE void clear_partial(const TileArgs<T>& args, T*& partial) {
  partial = args.partial + Index{block_index()} * args.net->parameters;
  for (int k = thread_index(); k < args.net->parameters; k += block_size()) partial[k] = T(0);
}

template <class T>
BRENIER_KERNEL BRENIER_LAUNCH_BOUNDS(kTileThreads) void jet_kernel(TileArgs<T> args) {
  const TilePlan& plan = *args.plan;
  const int d = args.net->dim;
  Tile<T> tile(*args.net, plan, args.theta, tile_rows(args));
  T* partial;
  clear_partial(args, partial);
  for (int begin = block_index() * kTileLanes; begin < args.n; begin += grid_size() * kTileLanes) {
    gather(tile, plan.x, args.x, args.n, begin, d, 0, d, false);
    gather(tile, plan.seed_a, args.a, args.n, begin, 1, 0, 1, true);
    gather(tile, plan.v, args.v, args.n, begin, d, 0, d, true);
    for (int k = 0; k < plan.count; ++k) {
      gather(tile, plan.q + k * d, args.q, args.n, begin, plan.count * d, k * d, d, true);
      if (plan.directions != Directions::pairs) continue;
      gather(tile, plan.q + (plan.count + k) * d, args.p, args.n, begin, plan.count * d, k * d, d, true);
    }
    for (int b = 0; args.metric && b < d; ++b) {  // column b of the upper triangle is column b of the matrix
      gather(tile, plan.metric + triangle_index(0, b), args.metric, args.n, begin, d * d, b * d, b + 1, true);
    }
    sync_block();
    tile.forward();
    tile.adjoint();
    tile.tangents();
    tile.second_order();
    tile.reverse();
    tile.accumulate(partial);
  }
}

/// State of an inner loop that lives on the device.
struct Control {
  int iteration;  // of the step, the next to be done
  int done;       // in this call
  int stop;       // 1: later kernels of the loop do nothing
  int finite, converged;
  double first_gradient, gradient;
};

/// One internal energy.
struct InternalView {
  InternalTerm::Form form;
  double weight, exponent;
  ProgramView surrogate;
};

/// One JKO step; see InnerProblem.
template <class T>
struct StepArgs {
  TileArgs<T> tile;  // x: the cloud, n: particles of the batch
  int cloud;         // particles of the cloud
  int minibatch;     // 0 or n
  std::uint64_t seed;
  std::uint32_t step;
  const double* log_density;  // (cloud) or null
  const T* shift;             // (d)
  T scale, inertia;           // S, S^2/tau
  int has_potential;
  ProgramView potential;
  const InternalView* internal;
  int internal_terms;
  T* image;        // (n, d)
  const T* force;  // (n, d): weighted forces of the interactions, or null
  const Control* control;
};

/// The particle of the cloud that a place of the batch holds; padding repeats the last place.
template <class T>
BRENIER_DEVICE int particle_of(const StepArgs<T>& args, int place) {
  const int b = place < args.tile.n ? place : args.tile.n - 1;
  if (args.minibatch == 0) return b;
  return static_cast<int>(Random(args.seed, RandomStream::minibatch)
                              .below(static_cast<std::uint32_t>(args.cloud), args.step,
                                     static_cast<std::uint32_t>(args.control->iteration),
                                     static_cast<std::uint64_t>(b)));
}

/// Rows x (normalised) and y (images relative to m), after forward and adjoint. Ends with a barrier.
template <class T>
BRENIER_DEVICE void map_batch(Tile<T>& tile, const StepArgs<T>& args, int begin) {
  const TilePlan& plan = *args.tile.plan;
  const int d = args.tile.net->dim;
  const T* source = args.tile.x + Index{particle_of(args, begin + lane())} * d;
  Tile<T>::for_rows(d, [&](int c) { tile.at(plan.x + c) = source[c] / args.scale; });
  sync_block();
  tile.forward();
  tile.adjoint();
  Tile<T>::for_rows(
      d, [&](int c) { tile.at(plan.y + c) = source[c] + args.scale * tile.at(plan.displacement + c); });
  sync_block();
}

/// Images of the batch, where particles interact.
template <class T>
BRENIER_KERNEL BRENIER_LAUNCH_BOUNDS(kTileThreads) void image_kernel(StepArgs<T> args) {
  Tile<T> tile(*args.tile.net, *args.tile.plan, args.tile.theta, tile_rows(args.tile));
  const int n = args.control->stop ? 0 : args.tile.n;
  for (int begin = block_index() * kTileLanes; begin < n; begin += grid_size() * kTileLanes) {
    map_batch(tile, args, begin);
    scatter(tile, args.tile.plan->y, args.image, n, begin, args.tile.net->dim);
    sync_block();
  }
}

/// metric = -w(xi) H^{-1}, on warp 0.
template <class T>
BRENIER_DEVICE void weigh_metric(Tile<T>& tile, const StepArgs<T>& args, int place, double log_det) {
  const TilePlan& plan = *args.tile.plan;
  const double log_xi = args.log_density[particle_of(args, place)] - log_det;
  T weight = T(0);
  for (int k = 0; k < args.internal_terms; ++k) {
    const InternalView& term = args.internal[k];
    T w = T(1);
    if (term.form == InternalTerm::Form::power) w = static_cast<T>(exp((term.exponent - 1) * log_xi));
    if (term.form == InternalTerm::Form::general) {
      const T xi = static_cast<T>(exp(log_xi));
      if (xi == T(0)) continue;  // f' - f/t may be 0/0 there; no mass, no weight
      run_program<T>(
          term.surrogate, [&](int) { return xi; }, [&](int r) -> T& { return tile.at(plan.program + r); });
      w = tile.at(plan.program + term.surrogate.value);
    }
    weight += static_cast<T>(term.weight) * w;
  }
  for (int k = 0; k < triangle(args.tile.net->dim); ++k) {
    T& entry = tile.at(plan.metric + k);
    entry = place < args.tile.n ? -weight * entry : T(0);
  }
}

/// The gradient of the objective of one iteration.
template <class T>
BRENIER_KERNEL BRENIER_LAUNCH_BOUNDS(kTileThreads) void step_kernel(StepArgs<T> args) {
  const TilePlan& plan = *args.tile.plan;
  const int d = args.tile.net->dim;
  Tile<T> tile(*args.tile.net, plan, args.tile.theta, tile_rows(args.tile));
  T* partial;
  clear_partial(args.tile, partial);
  const int n = args.control->stop ? 0 : args.tile.n;
  for (int begin = block_index() * kTileLanes; begin < n; begin += grid_size() * kTileLanes) {
    const int place = begin + lane();
    map_batch(tile, args, begin);
    if (plan.directions == Directions::unit) {
      tile.tangents();
      tile.hessian();
      double log_det = 0;
      tile.factorise(&log_det, true);
      if (warp() == 0) weigh_metric(tile, args, place, log_det);
      sync_block();
    }
    if (warp() == 0) {
      tile.at(plan.seed_a) = T(0);
      if (args.has_potential) {
        run_program<T>(
            args.potential, [&](int i) { return tile.at(plan.y + i) + args.shift[i]; },
            [&](int r) -> T& { return tile.at(plan.program + r); });
      }
      for (int c = 0; c < d; ++c) {
        T v = args.inertia * tile.at(plan.displacement + c);
        if (args.has_potential) v = fma(args.scale, tile.at(plan.program + args.potential.gradient + c), v);
        if (args.force && place < n) v = fma(args.scale, args.force[Index{place} * d + c], v);
        tile.at(plan.v + c) = place < n ? v : T(0);
      }
    }
    sync_block();
    tile.second_order();
    tile.reverse();
    tile.accumulate(partial);
  }
}

}  // namespace brenier::cuda
