// SPDX-License-Identifier: MIT
// The gradient of one iteration of a JKO step as a kernel over tiles of particles, with the images of all
// particles before it where a term asks for them. Launch and memory: kernels/cuda/network/tile_memory.hpp.
#pragma once

#include "brenier/model/objective.hpp"
#include "kernels/cuda/cloud/program.hpp"
#include "kernels/cuda/network/gather.hpp"
#include "kernels/cuda/step/control.hpp"
#include "kernels/model/number_math.hpp"
#include "kernels/model/surrogate.hpp"

namespace brenier::cuda {

/// One internal energy.
struct InternalView {
  InternalTerm::Form form;
  double weight, exponent;
  ProgramView program;  // of a general one: of the surrogate's weight; for values, of f
};

/// Where the maps of a step with values are kept: those of a block together, and so those of a process.
struct KeptOrder {
  int tile = 0;    // particles of a tile; 0: in the order of the batch
  int rounds = 0;  // tiles of a block, at most

  BRENIER_DEVICE Index place(int i, int blocks) const {
    if (tile == 0) return i;
    const int t = i / tile;
    return (Index{t % blocks} * rounds + t / blocks) * tile + i % tile;
  }
};

/// One JKO step; see InnerProblem.
template <class T>
struct StepArgs {
  TileArgs<T> tile;   // x: the cloud, n: particles of the batch
  int cloud = 0;      // particles of the cloud
  int minibatch = 0;  // 0 or n
  std::uint64_t seed = 0;
  std::uint32_t step = 0;
  const double* log_density = nullptr;  // (cloud) or null
  const T* shift = nullptr;             // (d)
  T scale = 1, inertia = 0;             // S, S^2/tau
  int has_potential = 0;
  ProgramView potential{};
  const InternalView* internal = nullptr;
  int internal_terms = 0;
  T* image = nullptr;        // (n, d), where somebody needs the images of all particles
  const T* force = nullptr;  // (n, d): weighted forces of the interactions, where tiles do not compute them
  const T* external = nullptr;  // (n, d): weighted forces of terms with launches of their own, or null
  PairTerms<T> pairs{};
  KeptOrder kept{};
  const Control* control = nullptr;
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

/// Normalised coordinates of the batch; ends with a barrier.
template <class TileType, class T>
BRENIER_DEVICE void gather_batch(const TileType& tile, const StepArgs<T>& args, int begin) {
  const int d = tile.net().dim;
  tile.for_each(d + 1, [&](int c, int p) {
    const T x = c < d ? args.tile.x[Index{particle_of(args, begin + p)} * d + c] / args.scale : T(1);
    tile.at(tile.plan().x + c, p) = x;
  });
  sync_block();
}

/// Component c of the image of particle p, relative to m.
template <class TileType, class T>
BRENIER_DEVICE T image_of(const TileType& tile, const StepArgs<T>& args, int begin, int c, int p) {
  const T x = args.tile.x[Index{particle_of(args, begin + p)} * tile.net().dim + c];
  return x + args.scale * tile.at(tile.plan().displacement + c, p);
}

/// Images of the batch, where somebody needs those of all particles.
template <class Form>
BRENIER_KERNEL BRENIER_LAUNCH_BOUNDS(kTileThreads, Form::kResident) void image_kernel(
    BRENIER_ARGUMENT StepArgs<typename Form::Type> args) {
  const int d = args.tile.net.dim;
  const TileMemory<Form> memory(args.tile, args.control->current);
  auto tile = make_tile<Form>(args.tile, memory);
  const int n = args.control->stop ? 0 : args.tile.n;
  for (int begin = block_index() * Form::kParticles; begin < n; begin += grid_size() * Form::kParticles) {
    gather_batch(tile, args, begin);
    tile.forward();
    tile.adjoint();
    tile.displace();
    sync_block();
    tile.for_each(d, [&](int c, int p) {
      if (begin + p < n) args.image[Index{begin + p} * d + c] = image_of(tile, args, begin, c, p);
    });
    sync_block();
  }
}

/// -w(xi) of the particle at `place`: what H^{-1} is weighted with. In double: a density may be beyond the
/// range of float. `kPrograms`: whether some energy may be a program.
template <bool kPrograms = true, class TileType, class T>
BRENIER_DEVICE double internal_weight(const TileType& tile, const StepArgs<T>& args, int place, int p,
                                      double log_det) {
  if (place >= args.tile.n) return 0.0;
  const double log_xi = args.log_density[particle_of(args, place)] - log_det;
  double weight = 0;
  for (int k = 0; k < args.internal_terms; ++k) {
    const InternalView& term = args.internal[k];
    double w = surrogate_weight(term.form, term.exponent, log_xi, NumberMath());
    if (kPrograms && surrogate_is_program(term.form, w)) {
      const double xi = w;
      run_program<double>(term.program, {&xi}, &tile.surrogate(0, p), tile.surrogate_distance());
      w = tile.surrogate(term.program.value, p);
    }
    weight += term.weight * w;
  }
  return -weight;
}

/// The v rows of particle p: gradient of the inertia, the potential, the interactions, whose forces lie
/// there, and of terms with launches of their own.
template <class TileType, class T>
BRENIER_DEVICE void first_order_seeds(const TileType& tile, const StepArgs<T>& args, int begin, int p) {
  const PlanShape& plan = tile.plan();
  const int d = tile.net().dim;
  const bool padding = begin + p >= args.tile.n;
  if (args.has_potential) {
    for (int c = 0; c < d; ++c) tile.at(plan.y + c, p) = image_of(tile, args, begin, c, p) + args.shift[c];
    run_program<T>(args.potential, {&tile.at(plan.y, p), tile.distance()}, &tile.at(plan.program, p),
                   tile.distance());
  }
  for (int c = 0; c < d; ++c) {
    T v = args.inertia * tile.at(plan.displacement + c, p);
    if (args.has_potential) {
      const int row = args.potential.gradient + c * args.potential.gradient_stride;
      v = fma(args.scale, tile.at(plan.program + row, p), v);
    }
    if (plan.interacting && !padding) {
      const T force = args.force ? args.force[Index{begin + p} * d + c] : tile.at(plan.v + c, p);
      v = fma(args.scale, force, v);
    }
    if (args.external && !padding) v = fma(args.scale, args.external[Index{begin + p} * d + c], v);
    tile.at(plan.v + c, p) = padding ? T(0) : v;
  }
  tile.at(plan.v + d, p) = T(0);
  tile.at(plan.seed_a, p) = T(0);
}

/// What the value of the objective needs of a tile's maps, where somebody wants it.
template <class TileType, class T>
BRENIER_DEVICE void keep_map(const TileType& tile, const StepArgs<T>& args, int n, int begin) {
  const int d = tile.net().dim;
  const Index place = args.kept.place(begin, args.tile.blocks);
  T* const displacement = args.tile.displacement + place * d;
  scatter(tile, tile.plan().displacement, displacement, n - begin, 0, d);
  if (!args.tile.log_det) return;
  tile.for_each(1, [&](int, int p) {
    if (begin + p < n) args.tile.log_det[place + p] = tile.log_det(p);
  });
}

/// Sums over each block's particles of the gradient of the objective of one iteration.
template <class Form>
BRENIER_KERNEL BRENIER_LAUNCH_BOUNDS(kTileThreads, Form::kResident) void step_kernel(
    BRENIER_ARGUMENT StepArgs<typename Form::Type> args) {
  const TileLayout& plan = args.tile.plan;
  const TileMemory<Form> memory(args.tile, args.control->current);
  auto tile = make_tile<Form>(args.tile, memory);
  if constexpr (Form::kLine) BRENIER_ASSUME(tile.dim() == 1 && plan.interacting == 0);
  const int n = args.control->stop ? 0 : args.tile.n;
  const int first = (args.tile.first + block_index()) * Form::kParticles;
  for (int begin = first; begin < n; begin += args.tile.blocks * Form::kParticles) {
    gather_batch(tile, args, begin);
    tile.forward();
    tile.adjoint();
    tile.displace();
    if (plan.directions == Directions::unit) tile.hessian();
    if (!Form::kLine && plan.interacting) {
      tile_forces<typename Form::Type, Form::kParticles>(
          args.pairs, args.image, n, begin, memory.scratch,
          [&](int p, int c, typename Form::Type force) { tile.at(plan.v + c, p) = force; });
    }
    sync_block();
    // The last warp has the first-order seeds to itself where one thread factorises for a particle.
    if (warp() + 1 == warp_count() && lane() < Form::kParticles) {
      first_order_seeds(tile, args, begin, lane());
    }
    if (plan.directions == Directions::unit) {
      tile.factorise(true, [&](int p, double log_det) {
        return internal_weight<!Form::kLine>(tile, args, begin + p, p, log_det);
      });
    }
    sync_block();
    if (args.tile.displacement) keep_map(tile, args, n, begin);
    tile.second_order();
    tile.reverse();
    tile.accumulate(memory.sums);
  }
  memory.flush(args.tile);
}

}  // namespace brenier::cuda
