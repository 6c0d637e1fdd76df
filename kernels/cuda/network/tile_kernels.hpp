// SPDX-License-Identifier: MIT
// Kernels over tiles of particles: evaluate, Hessian-vector products, jet gradients, and the gradient of one
// iteration of a JKO step.
//
//   launch   kTileThreads threads a block; blocks take tiles in turn (tile = block, block + grid, ...), so
//            that the number of blocks, which fixes the order of all sums, is the host's choice
//   memory   the block's shared memory holds, in this order: doubles of the tile (log det, factors, internal
//            energies), the packed parameters, their sums, the rows of the tile, the scratch of its forces.
//            What has no room there is the business of kernels/cuda/layered/layered.hpp
//   sums     each block writes its sums to its own part of `partial`; update_kernel adds the blocks in order
#pragma once

#include "brenier/model/objective.hpp"
#include "kernels/cuda/cloud/pairs.hpp"
#include "kernels/cuda/cloud/program.hpp"
#include "kernels/cuda/network/tile.hpp"
#include "kernels/device/device.hpp"

namespace brenier::cuda {

inline constexpr int kTileThreads = 256;

/// What tile kernels are compiled for: type, products, particles of a tile.
template <class T, class Policy, int kParticlesOfTile>
struct TileForm {
  using Type = T;
  using TileType = Tile<T, Policy, kParticlesOfTile>;
  static constexpr int kParticles = kParticlesOfTile;
  /// Blocks that registers are kept for on a multiprocessor: small clouds have one block there and want them
  /// all.
  static constexpr int kResident = kParticles == 8 ? 1 : 2;
};

/// What all tile kernels need, and but for net and plan those of the layered form. Clouds are (n, d) without gaps; outputs that are not wanted are null.
template <class T>
struct TileArgs {
  TileNet net;
  TileLayout plan;
  const T* theta = nullptr;
  const T* x = nullptr;
  int n = 0;
  T *potential = nullptr, *displacement = nullptr, *hessian = nullptr, *product = nullptr;
  double* log_det = nullptr;
  const T *a = nullptr, *v = nullptr, *q = nullptr, *p = nullptr, *metric = nullptr;
  T* partial = nullptr;  // (grid, packed parameters)
};

/// Bytes of a block's memory before the parameters, and of everything.
inline BRENIER_HOST_DEVICE std::size_t double_bytes(const PlanShape& plan) {
  return (static_cast<std::size_t>(plan.doubles()) * sizeof(double) + 15) / 16 * 16;
}
/// Elements that the forces of a tile take.
template <class Form>
BRENIER_HOST_DEVICE int force_scratch(const NetShape& net, const PlanShape& plan) {
  constexpr int kWarps = kTileThreads / kWarpSize;
  return plan.interacting ? tile_scratch<typename Form::Type>(Form::kParticles, kWarps, net.dim) : 0;
}
template <class Form>
std::size_t tile_bytes(const NetShape& net, const PlanShape& plan) {
  const std::size_t copies = plan.gradient ? 2 : 1;
  const std::size_t elements = copies * static_cast<std::size_t>(net.packed) +
                               static_cast<std::size_t>(plan.rows) * Form::TileType::kStride +
                               static_cast<std::size_t>(force_scratch<Form>(net, plan));
  return double_bytes(plan) + elements * sizeof(typename Form::Type);
}

/// A block's memory. `set` numbers the set of parameters.
template <class Form>
struct TileMemory {
  using T = typename Form::Type;
  double* doubles;
  const T* theta;
  T* sums;
  T* rows;
  T* scratch;  // of the forces

  BRENIER_DEVICE TileMemory(const TileArgs<T>& args, int set) {
    const int packed = args.net.packed;
    const T* source = args.theta + Index{set} * packed;
    const int copies = args.plan.gradient ? 2 : 1;
    const Index row_elements = Index{args.plan.rows} * Form::TileType::kStride;
    const Index elements = Index{copies} * packed + row_elements + force_scratch<Form>(args.net, args.plan);
    T* base = shared_array<T>(double_bytes(args.plan), elements);
    doubles = shared_array<double>(0, args.plan.doubles());
    for (int e = thread_index(); e < packed; e += block_size()) base[e] = source[e];
    theta = base;
    sums = base + packed;
    rows = base + copies * packed;
    scratch = rows + row_elements;
    for (int e = thread_index(); args.plan.gradient && e < packed; e += block_size()) sums[e] = T(0);
  }
  /// Publishes the sums. After a barrier.
  BRENIER_DEVICE void flush(const TileArgs<T>& args) const {
    T* to = args.partial + Index{block_index()} * args.net.packed;
    for (int e = thread_index(); e < args.net.packed; e += block_size()) to[e] = sums[e];
  }
};

template <class Form>
BRENIER_DEVICE typename Form::TileType make_tile(const TileArgs<typename Form::Type>& args,
                                                 const TileMemory<Form>& memory) {
  return {args.net, args.plan, memory.theta, memory.rows, memory.doubles};
}

/// rows <- columns first .. first + count of the particles of a tile; padding repeats the last one, or is 0.
template <class TileType, class T>
BRENIER_DEVICE void gather(const TileType& tile, int row, const T* from, int n, int begin, int stride,
                           int first, int count, bool zero_padding) {
  tile.for_each(count, [&](int c, int p) {
    const int source = begin + p < n ? begin + p : n - 1;
    const bool padding = zero_padding && begin + p >= n;
    tile.at(row + c, p) = padding || !from ? T(0) : from[Index{source} * stride + first + c];
  });
}

/// The x rows: the particles, and the row of ones behind them.
template <class TileType, class T>
BRENIER_DEVICE void gather_cloud(const TileType& tile, const TileArgs<T>& args, int begin) {
  gather(tile, tile.plan().x, args.x, args.n, begin, tile.net().dim, 0, tile.net().dim, false);
  tile.for_each(1, [&](int, int p) { tile.at(tile.plan().x + tile.net().dim, p) = T(1); });
}

template <class TileType, class T>
BRENIER_DEVICE void scatter(const TileType& tile, int row, T* to, int n, int begin, int count) {
  tile.for_each(count, [&](int c, int p) {
    if (begin + p < n) to[Index{begin + p} * count + c] = tile.at(row + c, p);
  });
}

/// What evaluate() gives, from the rows.
template <class TileType, class T>
BRENIER_DEVICE void scatter_map(const TileType& tile, const TileArgs<T>& args, int begin) {
  const int d = tile.net().dim;
  if (args.displacement) scatter(tile, tile.plan().displacement, args.displacement, args.n, begin, d);
  tile.for_each(args.hessian ? d * d : 0, [&](int k, int p) {
    if (begin + p < args.n)
      args.hessian[Index{begin + p} * d * d + k] = tile.hessian_element(k / d, k % d, p);
  });
  tile.for_each(1, [&](int, int p) {
    if (begin + p >= args.n) return;
    if (args.potential) args.potential[begin + p] = tile.potential(p);
    if (args.log_det) args.log_det[begin + p] = tile.log_det(p);
  });
}

/// to (n, d) += factor * displacements.
template <class TileType, class T>
BRENIER_DEVICE void add_displacement(const TileType& tile, const TileArgs<T>& args, int begin, T factor,
                                     T* to) {
  const int d = tile.net().dim;
  tile.for_each(d, [&](int c, int p) {
    if (begin + p >= args.n) return;
    T& sum = to[Index{begin + p} * d + c];
    sum = fma(factor, tile.at(tile.plan().displacement + c, p), sum);
  });
}

/// The rows of a jet's seeds; padding has none.
template <class TileType, class T>
BRENIER_DEVICE void gather_seeds(const TileType& tile, const TileArgs<T>& args, int begin) {
  const PlanShape& plan = tile.plan();
  const int d = tile.net().dim;
  gather(tile, plan.seed_a, args.a, args.n, begin, 1, 0, 1, true);
  gather(tile, plan.v, args.v, args.n, begin, d, 0, d, true);
  gather(tile, plan.v + d, static_cast<const T*>(nullptr), args.n, begin, 0, 0, 1, true);
  for (int k = 0; k < plan.count; ++k) {
    gather(tile, plan.q + k * d, args.q, args.n, begin, plan.count * d, k * d, d, true);
    if (plan.directions != Directions::pairs) continue;
    gather(tile, plan.q + (plan.count + k) * d, args.p, args.n, begin, plan.count * d, k * d, d, true);
  }
  for (int b = 0; args.metric && b < d; ++b) {  // column b of the upper triangle is column b of the matrix
    gather(tile, plan.metric + triangle_index(0, b), args.metric, args.n, begin, d * d, b * d, b + 1, true);
  }
}

template <class Form>
BRENIER_KERNEL BRENIER_LAUNCH_BOUNDS(kTileThreads, Form::kResident) void evaluate_kernel(
    BRENIER_ARGUMENT TileArgs<typename Form::Type> args) {
  const TileMemory<Form> memory(args, 0);
  auto tile = make_tile<Form>(args, memory);
  for (int begin = block_index() * Form::kParticles; begin < args.n;
       begin += grid_size() * Form::kParticles) {
    gather_cloud(tile, args, begin);
    sync_block();
    tile.forward();
    tile.adjoint();
    tile.displace();
    if (args.plan.directions == Directions::unit) {
      tile.hessian();
      sync_block();
      tile.factorise(false, [](int, double) { return 0.0; });
    }
    sync_block();
    scatter_map(tile, args, begin);
    sync_block();
  }
}

template <class Form>
BRENIER_KERNEL BRENIER_LAUNCH_BOUNDS(kTileThreads, Form::kResident) void hessian_vector_kernel(
    BRENIER_ARGUMENT TileArgs<typename Form::Type> args) {
  const TileLayout& plan = args.plan;
  const int d = args.net.dim;
  const TileMemory<Form> memory(args, 0);
  auto tile = make_tile<Form>(args, memory);
  for (int begin = block_index() * Form::kParticles; begin < args.n;
       begin += grid_size() * Form::kParticles) {
    gather_cloud(tile, args, begin);
    gather(tile, plan.q, args.q, args.n, begin, d, 0, d, false);
    sync_block();
    tile.forward();
    tile.adjoint();
    tile.hessian_vector();
    scatter(tile, plan.y, args.product, args.n, begin, d);
    sync_block();
  }
}

template <class Form>
BRENIER_KERNEL BRENIER_LAUNCH_BOUNDS(kTileThreads, Form::kResident) void jet_kernel(
    BRENIER_ARGUMENT TileArgs<typename Form::Type> args) {
  const TileMemory<Form> memory(args, 0);
  auto tile = make_tile<Form>(args, memory);
  for (int begin = block_index() * Form::kParticles; begin < args.n;
       begin += grid_size() * Form::kParticles) {
    gather_cloud(tile, args, begin);
    gather_seeds(tile, args, begin);
    sync_block();
    tile.forward();
    tile.adjoint();
    tile.second_order();
    tile.reverse();
    tile.accumulate(memory.sums);
  }
  memory.flush(args);
}

/// State of an inner loop that lives on the device.
struct Control {
  int iteration = 0;  // of the step, the next to be done
  int done = 0;       // in this call
  int current = 0;    // which of the two sets of parameters and moments holds
  int stop = 0;       // 1: later kernels of the loop do nothing
  int finite = 1, converged = 0;
  double first_gradient = 0, gradient = 0;
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
/// range of float.
template <class TileType, class T>
BRENIER_DEVICE double internal_weight(const TileType& tile, const StepArgs<T>& args, int place, int p,
                                      double log_det) {
  if (place >= args.tile.n) return 0.0;
  const double log_xi = args.log_density[particle_of(args, place)] - log_det;
  double weight = 0;
  for (int k = 0; k < args.internal_terms; ++k) {
    const InternalView& term = args.internal[k];
    double w = 1;
    if (term.form == InternalTerm::Form::power) w = exp((term.exponent - 1) * log_xi);
    if (term.form == InternalTerm::Form::general) {
      const double xi = exp(log_xi);
      if (xi == 0) continue;  // f' - f/t may be 0/0 there; no mass, no weight
      run_program<double>(term.surrogate, {&xi}, &tile.surrogate(0, p), tile.surrogate_distance());
      w = tile.surrogate(term.surrogate.value, p);
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

/// Sums over each block's particles of the gradient of the objective of one iteration.
template <class Form>
BRENIER_KERNEL BRENIER_LAUNCH_BOUNDS(kTileThreads, Form::kResident) void step_kernel(
    BRENIER_ARGUMENT StepArgs<typename Form::Type> args) {
  const TileLayout& plan = args.tile.plan;
  const TileMemory<Form> memory(args.tile, args.control->current);
  auto tile = make_tile<Form>(args.tile, memory);
  const int n = args.control->stop ? 0 : args.tile.n;
  for (int begin = block_index() * Form::kParticles; begin < n; begin += grid_size() * Form::kParticles) {
    gather_batch(tile, args, begin);
    tile.forward();
    tile.adjoint();
    tile.displace();
    if (plan.directions == Directions::unit) tile.hessian();
    if (plan.interacting) {
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
      tile.factorise(
          true, [&](int p, double log_det) { return internal_weight(tile, args, begin + p, p, log_det); });
    }
    sync_block();
    tile.second_order();
    tile.reverse();
    tile.accumulate(memory.sums);
  }
  memory.flush(args.tile);
}

}  // namespace brenier::cuda
