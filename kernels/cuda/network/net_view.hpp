// SPDX-License-Identifier: MIT
// The network as kernels see it: plain data, the layout of the parameters on the device, and the plan of a
// tile's rows. Networks of up to kTileLayers layers travel as kernel arguments; deeper ones, of up to
// kMaxLayers, lie in device memory, as arguments are to take less than 4 KB.
#pragma once

#include <algorithm>
#include <vector>

#include "brenier/model/icnn.hpp"
#include "kernels/device/device.hpp"
#include "kernels/model/jet.hpp"

namespace brenier::cuda {

/// One hidden layer; offsets into the packed parameters, -1 where there is no such parameter.
struct LayerView {
  int width, before, skip, skip_user;  // skip_user: the layer that this one skips into, or -1
  int weight, weight_ld;               // W_l (width, before), rows weight_ld apart
  int input_weight, bias, scale;
};

/// Parameters are packed: rows of W_l are 4 + 8 m elements apart, so that the 8 rows by 4 columns that a warp
/// reads at a time lie in distinct banks of shared memory; everything else is as in Icnn. Gaps hold 0 and
/// stay 0.
struct NetShape {
  Activation activation, first_activation;  // that of layer 0 may be another
  int dim, rank, depth;
  int packed;  // elements, a multiple of 4
  int output_weight, output_input, output_bias, alpha, factor;
};
template <int kLayers>
struct NetViewOf : NetShape {
  LayerView layers[kLayers];
};

/// Layers of a network that tile kernels take.
inline constexpr int kTileLayers = 8;
using NetView = NetViewOf<kMaxLayers>;
using TileNet = NetViewOf<kTileLayers>;

/// A network's view and the way between theta and its packed form.
class PackedNet {
 public:
  explicit PackedNet(const Icnn& net);

  const NetView& view() const { return view_; }
  Index size() const { return view_.packed; }
  /// Of parameter k of the flat ones.
  std::size_t place(Index k) const { return place_[static_cast<std::size_t>(k)]; }
  /// From flat (net.parameters()) to packed (size()), gaps filled with `gap`; and back.
  template <class T>
  std::vector<T> pack(const T* flat, T gap = T(0)) const {
    std::vector<T> packed(static_cast<std::size_t>(size()), gap);
    for (std::size_t k = 0; k < place_.size(); ++k) packed[place_[k]] = flat[k];
    return packed;
  }
  template <class T>
  void unpack(const T* packed, T* flat) const {
    for (std::size_t k = 0; k < place_.size(); ++k) flat[k] = packed[place_[k]];
  }

 private:
  NetView view_{};
  std::vector<std::size_t> place_;  // of each parameter
};

/// What a tile is asked for.
struct TileTask {
  Directions directions = Directions::none;
  int count = 0;             // K, for single and pairs
  bool gradient = false;     // of parameters
  bool step = false;         // those of a JKO step with an exact log det or none
  bool product = false;      // products with H; a gradient can do them too
  bool interacting = false;  // v rows take the forces of interactions
  int vectors = 0;           // more rows of dim elements
  int state_doubles = 0;     // of each particle
  int program_rows = 0;      // workspace of the potential, in T
  int surrogate_rows = 0;    // workspace of internal energies, in double
};

/// First rows of what one layer keeps; a row holds one number of each particle of a tile.
struct LayerRows {
  int z, d1, g;  // sigma(s), sigma'(s), du/dz
  int z2,
      s_bar;  // second-order stream, in the last layer a z + z2, in a tile in the place of z; adjoint of s
              // (before that: what the reverse sweep needs of the forward one)
  int j;      // (tangents * width); not kept for layer 0 in unit mode, where J = A_0
  int j_bar;  // (tangents * width); sum_b M_kb J_b, then the adjoint of j
  int beta;   // g sigma', and
  int t;      // (tangents * width): sigma' J; both only where products read them from memory
};

/// Where everything of a tile or a chunk lies, counted in rows of one element for each particle; but for the
/// layers.
struct PlanShape {
  Directions directions;
  int count;     // K, for single and pairs
  int tangents;  // columns of tangent streams
  bool gradient, interacting;
  int x, v;  // d rows, and one of ones (x) or zeros (v) behind them
  int y, displacement, q, projection, seed_a;
  int program;    // of the potential; in a tile over rows that are free while it runs, where these are enough
  int curvature;  // part of layer 0 and of the quadratic form in H, packed as a triangle
  int metric;     // part of the other layers in H, then M
  int vectors;
  int scratch;  // (widest layer); only where products write to memory
  int rows;
  int log_det_doubles, factor_doubles, surrogate_doubles, state_doubles;  // of a tile, in this order

  BRENIER_HOST_DEVICE int doubles() const {
    return log_det_doubles + factor_doubles + surrogate_doubles + state_doubles;
  }
};
template <int kLayers>
struct PlanOf : PlanShape {
  LayerRows layers[kLayers];
};
using TileLayout = PlanOf<kTileLayers>;

/// That of a task.
struct TilePlan : PlanOf<kMaxLayers> {
  /// `operands`: with rows for what whole matrices are multiplied with.
  TilePlan(const NetView& net, const TileTask& task, int particles, bool operands = false);
};

/// The first layers of a network or a plan.
inline TileNet for_tile(const NetView& net) {
  TileNet out{net, {}};
  std::copy_n(net.layers, kTileLayers, out.layers);
  return out;
}
inline TileLayout for_tile(const TilePlan& plan) {
  TileLayout out{plan, {}};
  std::copy_n(plan.layers, kTileLayers, out.layers);
  return out;
}

/// The column b >= a of element e = triangle_index(a, b).
BRENIER_HOST_DEVICE inline int triangle_column(int e) {
  int b = static_cast<int>((std::sqrt(8.0f * static_cast<float>(e) + 1.0f) - 1.0f) * 0.5f);
  if (triangle(b) > e) --b;
  if (triangle(b + 1) <= e) ++b;
  return b;
}

/// Up to this dimension one thread factorises the Hessian of one particle in registers; beyond it, one warp.
inline constexpr int kRegisterDim = 4;

}  // namespace brenier::cuda
