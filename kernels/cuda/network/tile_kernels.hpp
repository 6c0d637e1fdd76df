// SPDX-License-Identifier: MIT
// Operations of a network as kernels over tiles of particles: evaluate, Hessian-vector products, jet gradients.
// Launch and memory: kernels/cuda/network/tile_memory.hpp.
#pragma once

#include "kernels/cuda/network/gather.hpp"

namespace brenier::cuda {

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

}  // namespace brenier::cuda
