// SPDX-License-Identifier: MIT
// The memory of a block that works on tiles of particles, and the arguments that all such kernels have.
//
//   launch   kTileThreads threads a block; blocks take tiles in turn (tile = block, block + grid, ...), so
//            that the number of blocks, which fixes the order of all sums, is the host's choice
//   memory   the block's shared memory holds, in this order: doubles of the tile (log det, factors, internal
//            energies), the packed parameters, their sums, the rows of the tile, the scratch of its forces.
//            What has no room there is the business of kernels/cuda/layered/layered.hpp
//   sums     each block writes its sums to its own part of `partial`; update_kernel adds the blocks in order
#pragma once

#include "kernels/cuda/cloud/pairs.hpp"
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
  static constexpr bool kLine = false;
};

/// The small one for particles on the line that do not interact, nor have programs as internal energies: half the
/// instructions, which a block of a small cloud runs once.
template <class T, class Policy>
struct LineForm : TileForm<T, Policy, 8> {
  static constexpr bool kLine = true;
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
  T* partial = nullptr;  // (blocks, packed parameters)
  // Of steps: the blocks of all processes, of which a launch has the grid from `first` on.
  int first = 0, blocks = 0;
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
    T* to = args.partial + Index{args.first + block_index()} * args.net.packed;
    for (int e = thread_index(); e < args.net.packed; e += block_size()) to[e] = sums[e];
  }
};

template <class Form>
BRENIER_DEVICE typename Form::TileType make_tile(const TileArgs<typename Form::Type>& args,
                                                 const TileMemory<Form>& memory) {
  return {args.net, args.plan, memory.theta, memory.rows, memory.doubles};
}

}  // namespace brenier::cuda
