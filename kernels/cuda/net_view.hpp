// SPDX-License-Identifier: MIT
// The network as kernels see it: plain data that travels as a kernel argument, and the plan of a tile's rows.
#pragma once

#include "kernels/icnn.hpp"
#include "kernels/runtime/device.hpp"

namespace brenier::cuda {

/// One hidden layer; offsets into theta, -1 where there is no such parameter.
struct LayerView {
  int width, before, skip, skip_user;  // skip_user: the layer that this one skips into, or -1
  int weight, input_weight, bias, scale;
};

struct NetView {
  Activation activation;
  int dim, rank, depth, parameters;
  int output_weight, output_input, output_bias, alpha, factor;
  LayerView layers[kMaxLayers];

  explicit NetView(const Icnn& net);
};

/// Which second-order terms a tile carries; as in the cpu backend.
enum class Directions : int { none, unit, single, pairs };

/// Rows that one layer keeps in a tile. A row holds one number of 32 particles.
struct LayerRows {
  int z, d1, g, beta;        // forward and adjoint
  int z2, s2, r, s_bar, tz;  // jet
  int j, jm, j_bar;          // (tangents * width) rows each; j of layer 0 is not kept in unit mode
};

/// Where everything of a tile lies, counted in rows.
struct TilePlan {
  Directions directions;
  int count;     // K, for single and pairs
  int tangents;  // columns of tangent streams
  bool gradient;
  int x, y, displacement, v, q, hessian, metric, projection, seed_a, program, factor;
  int rows;  // all together
  LayerRows layers[kMaxLayers];

  TilePlan(const NetView& net, Directions directions, int count, bool gradient, int program_rows, bool wide);
};

/// A row is one element longer than a warp: lanes and rows both go through distinct banks of shared memory.
inline constexpr int kRow = 33;

BRENIER_HOST_DEVICE inline int triangle(int d) {
  return d * (d + 1) / 2;
}
BRENIER_HOST_DEVICE inline int triangle_index(int a, int b) {
  return a <= b ? b * (b + 1) / 2 + a : a * (a + 1) / 2 + b;
}

}  // namespace brenier::cuda
