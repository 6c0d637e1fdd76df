// SPDX-License-Identifier: MIT
// Between clouds in device memory and the rows of a tile or a chunk.
#pragma once

#include "kernels/cuda/network/tile_memory.hpp"

namespace brenier::cuda {

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

/// tile.potential = u, from the rows.
template <class TileType, class T>
BRENIER_DEVICE void scatter_potential(const TileType& tile, const TileArgs<T>& args, int begin) {
  tile.for_each(1, [&](int, int p) {
    if (begin + p < args.n) args.potential[begin + p] = tile.potential(p);
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
  if (args.potential) scatter_potential(tile, args, begin);
  tile.for_each(1, [&](int, int p) {
    if (args.log_det && begin + p < args.n) args.log_det[begin + p] = tile.log_det(p);
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

}  // namespace brenier::cuda
