// SPDX-License-Identifier: MIT
// The network at single elements: unit i of layer l, tangent k, particle p. The formulas of every sweep
// stand here once; products of matrices, and who computes which element, are for those who call.
//
//   computes   map, Hessian, log-determinant, and the theta-gradient of the second-order jet
//              (kernels/operations.hpp), by the collapsed streams of the reference: 1 base, K tangents, 1
//              second-order stream
//   layout     every quantity is a set of rows with one element for each particle; TilePlan says where, Rows
//              how far they are apart
//   used by    Tile (tile.hpp): a block's tile, rows in shared memory; Chunk (layered_kernels.hpp):
//              thousands of particles, rows in global memory
#pragma once

#include "kernels/cuda/network/net_view.hpp"
#include "kernels/device/device.hpp"

namespace brenier::cuda {

using namespace brenier::device;

/// Rows of a tile: a stride that the compiler knows; a layer's tangents one after the other.
template <class T, int kParticles, int kDistance>
struct TileRows {
  using Net = TileNet;
  using Plan = TileLayout;
  static constexpr int kStride = kDistance;
  T* base;
  BRENIER_DEVICE T& at(int row, int p) const { return base[row * kStride + p]; }
  BRENIER_DEVICE static constexpr int particles() { return kParticles; }
  BRENIER_DEVICE static constexpr int distance() { return kDistance; }
  /// Where unit i of tangent k lies among the rows of `tangents` streams of `width` units.
  BRENIER_DEVICE static int stream(int k, int i, int width, int) { return k * width + i; }
};

/// Rows of a chunk of `count` particles, without gaps: those of a layer are a matrix (width, count). The
/// tangents of a unit lie side by side, so that all tangents of a layer are one matrix (width, K count).
template <class T>
struct ChunkRows {
  using Net = NetView;
  using Plan = TilePlan;
  T* base;
  int count;
  BRENIER_DEVICE T& at(int row, int p) const { return base[Index{row} * count + p]; }
  BRENIER_DEVICE int particles() const { return count; }
  BRENIER_DEVICE int distance() const { return count; }
  BRENIER_DEVICE static int stream(int k, int i, int, int tangents) { return i * tangents + k; }
};

template <class T, class Rows>
class Elements {
 public:
  using Net = typename Rows::Net;
  using Plan = typename Rows::Plan;

  BRENIER_DEVICE Elements(const Net& net, const Plan& plan, const T* theta, Rows rows, double* doubles)
      : net_(net), plan_(plan), theta_(theta), rows_(rows), doubles_(doubles), d_(net.dim) {}

  BRENIER_DEVICE const Net& net() const { return net_; }
  BRENIER_DEVICE const Plan& plan() const { return plan_; }
  BRENIER_DEVICE int dim() const { return d_; }
  BRENIER_DEVICE T& at(int row, int p) const { return rows_.at(row, p); }
  /// Of rows, in elements, and of those of the double workspace.
  BRENIER_DEVICE int distance() const { return rows_.distance(); }
  BRENIER_DEVICE int surrogate_distance() const { return rows_.particles(); }
  /// log det H of a particle, after factorise().
  BRENIER_DEVICE double& log_det(int p) const { return doubles_[p]; }
  /// Row r of the double workspace of internal energies.
  BRENIER_DEVICE double& surrogate(int r, int p) const {
    return doubles_[plan_.log_det_doubles + plan_.factor_doubles + r * surrogate_distance() + p];
  }

  /// The state of a particle that a kernel keeps in double.
  BRENIER_DEVICE double* state(int p) const {
    return doubles_ + plan_.log_det_doubles + plan_.factor_doubles + plan_.surrogate_doubles +
           p * (plan_.state_doubles / rows_.particles());
  }

  // --- values that several formulas share

  BRENIER_DEVICE const Activation& activation(int l) const {
    return l == 0 ? net_.first_activation : net_.activation;
  }
  /// Whether the tangents of layer l are the columns of A_0, the same for all particles: not kept as rows.
  BRENIER_DEVICE bool constant_tangents(int l) const {
    return l == 0 && plan_.directions == Directions::unit;
  }
  /// J of layer l, tangent k.
  BRENIER_DEVICE T tangent(int l, int k, int i, int p) const {
    if (constant_tangents(l)) return theta_[net_.layers[0].input_weight + i * d_ + k];
    return at(plan_.layers[l].j + stream(l, k, i), p);
  }
  BRENIER_DEVICE T& j_bar(int l, int k, int i, int p) const {
    return at(plan_.layers[l].j_bar + stream(l, k, i), p);
  }
  /// g sigma': du/ds.
  BRENIER_DEVICE T beta(int l, int i, int p) const {
    return at(plan_.layers[l].g + i, p) * at(plan_.layers[l].d1 + i, p);
  }
  BRENIER_DEVICE T gamma(int l, int i, int p) const {
    return at(plan_.layers[l].g + i, p) * second_derivative(activation(l), at(plan_.layers[l].d1 + i, p));
  }
  /// alpha I + B^T B.
  BRENIER_DEVICE T quadratic(int a, int b) const {
    T sum = a == b ? theta_[net_.alpha] : T(0);
    for (int r = 0; r < net_.rank; ++r) {
      sum = fma(theta_[net_.factor + r * d_ + a], theta_[net_.factor + r * d_ + b], sum);
    }
    return sum;
  }
  BRENIER_DEVICE T hessian_element(int a, int b, int p) const {
    const int e = triangle_index(a, b);
    return at(plan_.curvature + e, p) + at(plan_.metric + e, p);
  }

  // --- forward, adjoint, map

  /// Projection rows = B times the vector in rows `direction`, element r.
  BRENIER_DEVICE void project(int direction, int r, int p) const {
    T sum = T(0);
    for (int c = 0; c < d_; ++c) sum = fma(theta_[net_.factor + r * d_ + c], at(direction + c, p), sum);
    at(plan_.projection + r, p) = sum;
  }
  /// From s = W z: the values of layer l; g of the last one.
  BRENIER_DEVICE void finish_values(int l, int i, int p, T s) const {
    const LayerView& layer = net_.layers[l];
    const LayerRows& to = plan_.layers[l];
    s += input_part(l, i, plan_.x, p) + theta_[layer.bias + i];
    if (layer.skip >= 0) s = fma(theta_[layer.scale + i], at(plan_.layers[layer.skip].z + i, p), s);
    activate(activation(l), s, at(to.z + i, p), at(to.d1 + i, p));
    if (l + 1 == net_.depth) at(to.g + i, p) = theta_[net_.output_weight + i];
  }
  /// From sum = W sigma' J of the layer before: tangent k, where it is kept as rows.
  BRENIER_DEVICE void finish_tangent(int l, int k, int i, int p, T sum) const {
    const LayerView& layer = net_.layers[l];
    sum += input_part_tangent(l, i, k, p);
    if (layer.skip >= 0) {
      const T skipped = at(plan_.layers[layer.skip].d1 + i, p) * tangent(layer.skip, k, i, p);
      sum = fma(theta_[layer.scale + i], skipped, sum);
    }
    at(plan_.layers[l].j + stream(l, k, i), p) = sum;
  }
  /// From g = W^T beta of the layer after: g of layer l.
  BRENIER_DEVICE void finish_adjoint(int l, int i, int p, T g) const {
    const int user = net_.layers[l].skip_user;
    if (user >= 0) g = fma(theta_[net_.layers[user].scale + i], beta(user, i, p), g);
    at(plan_.layers[l].g + i, p) = g;
  }
  /// From sum = sum_l A_l^T beta_l, component c.
  BRENIER_DEVICE void finish_displacement(int c, int p, T sum) const {
    sum += theta_[net_.output_input + c] + unproject(c, p);
    at(plan_.displacement + c, p) = fma(theta_[net_.alpha] - T(1), at(plan_.x + c, p), sum);
  }
  BRENIER_DEVICE T potential(int p) const {
    T u = theta_[net_.output_bias];
    for (int i = 0; i < net_.layers[net_.depth - 1].width; ++i) {
      u = fma(theta_[net_.output_weight + i], at(plan_.layers[net_.depth - 1].z + i, p), u);
    }
    for (int c = 0; c < d_; ++c) {
      const T slope = fma(theta_[net_.alpha], at(plan_.x + c, p), unproject(c, p));
      u = fma(theta_[net_.output_input + c] + T(0.5) * slope, at(plan_.x + c, p), u);
    }
    return u;
  }

  // --- Hessian

  /// sum[c][m] += gamma J_a J_b of one unit for b = column + c and a = first + m, where a <= b < d.
  template <int kColumns, int kElements>
  BRENIER_DEVICE void add_curvature(int l, int i, int p, int column, int first,
                                    T (&sum)[kColumns][kElements]) const {
    const T g = gamma(l, i, p);
    BRENIER_UNROLL
    for (int c = 0; c < kColumns; ++c) {
      if (column + c >= d_) continue;
      const T weighted = g * tangent(l, column + c, i, p);
      BRENIER_UNROLL
      for (int m = 0; m < kElements; ++m) {
        if (first + m <= column + c) sum[c][m] = fma(weighted, tangent(l, first + m, i, p), sum[c][m]);
      }
    }
  }
  /// log det H of every particle, NaN where H is not positive definite; with `inverse`, the metric rows
  /// become weight(p, log det) H^{-1}. `weight` is called by one thread for each particle. For thread
  /// `thread` of `threads`, whole warps and no fewer than particles where d <= kRegisterDim; no barrier of
  /// the block.
  template <class Weight>
  BRENIER_DEVICE void factorise(bool inverse, const Weight& weight, int thread, int threads) const;

  /// The tangent of the adjoint sweep, beta' = g' sigma' + g sigma'' s'; it lies in the s_bar rows. In the
  /// last layer g' = 0; in the others from g_dot = W^T beta' of the layer after.
  BRENIER_DEVICE void start_adjoint_tangent(int l, int i, int p) const {
    at(plan_.layers[l].s_bar + i, p) = gamma(l, i, p) * tangent(l, 0, i, p);
  }
  BRENIER_DEVICE void finish_adjoint_tangent(int l, int i, int p, T g_dot) const {
    const LayerRows& rows = plan_.layers[l];
    const int user = net_.layers[l].skip_user;
    if (user >= 0) {
      g_dot = fma(theta_[net_.layers[user].scale + i], at(plan_.layers[user].s_bar + i, p), g_dot);
    }
    at(rows.s_bar + i, p) = fma(gamma(l, i, p), tangent(l, 0, i, p), g_dot * at(rows.d1 + i, p));
  }
  /// From sum = sum_l A_l^T beta'_l: component c of H q.
  BRENIER_DEVICE void finish_hessian_vector(int c, int p, T sum) const {
    at(plan_.y + c, p) = fma(theta_[net_.alpha], at(plan_.q + c, p), sum + unproject(c, p));
  }

  // --- second-order stream and reverse sweep (formulas: kernels/cpu/network/tile_reverse.hpp)

  /// j_bar rows of unit i: sum_b M_kb J_b for every tangent k. Returns r = sum_k J_k times that.
  BRENIER_DEVICE T weigh_tangents(int l, int i, int p) const;
  /// From s2 = W z2 and r: z2, and what the reverse sweep adds to sigma' zbar; in the last layer, where zbar
  /// is a w, the adjoints themselves.
  BRENIER_DEVICE void finish_second_order(int l, int i, int p, T s2, T r) const;
  /// From z_bar = W^T j_bar of the layer after: j_bar of tangent k; paired += z_bar J.
  BRENIER_DEVICE void reverse_tangent(int l, int k, int i, int p, T z_bar, T& paired) const {
    const int user = net_.layers[l].skip_user;
    if (user >= 0) z_bar = fma(theta_[net_.layers[user].scale + i], j_bar(user, k, i, p), z_bar);
    paired = fma(z_bar, tangent(l, k, i, p), paired);
    T& to = j_bar(l, k, i, p);
    to = fma(at(plan_.layers[l].d1 + i, p), z_bar, T(2) * gamma(l, i, p) * to);
  }
  /// From z_bar = W^T s_bar of the layer after and the pairs of all tangents: s_bar.
  BRENIER_DEVICE void reverse_values(int l, int i, int p, T z_bar, T paired) const {
    const LayerRows& rows = plan_.layers[l];
    const int user = net_.layers[l].skip_user;
    if (user >= 0) {
      z_bar = fma(theta_[net_.layers[user].scale + i], at(plan_.layers[user].s_bar + i, p), z_bar);
    }
    const T d1 = at(rows.d1 + i, p);
    at(rows.s_bar + i, p) += fma(d1, z_bar, second_derivative(activation(l), d1) * paired);
  }
  /// add(first, count, f) for the parameters whose gradients are not products of matrices: parameter
  /// first + e gets sum_p f(e, p).
  template <class Add>
  BRENIER_DEVICE void add_small_sums(const Add& add) const;

 protected:
  BRENIER_DEVICE int stream(int l, int k, int i) const {
    return rows_.stream(k, i, net_.layers[l].width, plan_.tangents);
  }
  /// A_l times the vector in rows `direction`.
  BRENIER_DEVICE T input_part(int l, int i, int direction, int p) const {
    const int weight = net_.layers[l].input_weight;
    T sum = T(0);
    if (weight < 0) return sum;
    for (int c = 0; c < d_; ++c) sum = fma(theta_[weight + i * d_ + c], at(direction + c, p), sum);
    return sum;
  }
  /// The same for tangent k, whose direction may be a unit vector.
  BRENIER_DEVICE T input_part_tangent(int l, int i, int k, int p) const {
    if (plan_.directions != Directions::unit) return input_part(l, i, plan_.q + k * d_, p);
    const int weight = net_.layers[l].input_weight;
    return weight < 0 ? T(0) : theta_[weight + i * d_ + k];
  }
  /// Row c of B^T times the projection rows.
  BRENIER_DEVICE T unproject(int c, int p) const {
    T sum = T(0);
    for (int r = 0; r < net_.rank; ++r) {
      sum = fma(theta_[net_.factor + r * d_ + c], at(plan_.projection + r, p), sum);
    }
    return sum;
  }

  const Net& net_;
  const Plan& plan_;
  const T* theta_;
  Rows rows_;
  double* doubles_;
  int d_;

 private:
  template <class Weight>
  BRENIER_DEVICE void factorise_by_warp(int p, bool inverse, const Weight& weight) const;
  template <int kDim, class Weight>
  BRENIER_DEVICE void factorise_by_thread(int p, bool inverse, const Weight& weight) const;
};

template <class T, class Rows>
BRENIER_DEVICE T Elements<T, Rows>::weigh_tangents(int l, int i, int p) const {
  T r = T(0);
  if (plan_.directions != Directions::unit) {
    for (int k = 0; k < plan_.tangents; ++k) {
      const T weighted = plan_.directions == Directions::single
                             ? tangent(l, k, i, p)
                             : T(0.5) * tangent(l, (k + plan_.count) % plan_.tangents, i, p);
      j_bar(l, k, i, p) = weighted;
      r = fma(tangent(l, k, i, p), weighted, r);
    }
    return r;
  }
  constexpr int kRows = 4;  // of M at a time: each J_b is read once for all of them
  for (int first = 0; first < d_; first += kRows) {
    T sum[kRows] = {};
    for (int b = 0; b < d_; ++b) {
      const T j = tangent(l, b, i, p);
      BRENIER_UNROLL
      for (int m = 0; m < kRows; ++m) {
        if (first + m < d_) sum[m] = fma(at(plan_.metric + triangle_index(first + m, b), p), j, sum[m]);
      }
    }
    BRENIER_UNROLL
    for (int m = 0; m < kRows; ++m) {
      if (first + m >= d_) continue;
      j_bar(l, first + m, i, p) = sum[m];
      r = fma(tangent(l, first + m, i, p), sum[m], r);
    }
  }
  return r;
}

template <class T, class Rows>
BRENIER_DEVICE void Elements<T, Rows>::finish_second_order(int l, int i, int p, T s2, T r) const {
  const LayerView& layer = net_.layers[l];
  const LayerRows& rows = plan_.layers[l];
  s2 += input_part(l, i, plan_.v, p);
  if (layer.skip >= 0) s2 = fma(theta_[layer.scale + i], at(plan_.layers[layer.skip].z2 + i, p), s2);
  const T d1 = at(rows.d1 + i, p);
  const T g = at(rows.g + i, p);
  const T d2 = second_derivative(activation(l), d1);
  T z2 = fma(d2, r, d1 * s2);
  if (l + 1 == net_.depth) z2 = fma(at(plan_.seed_a, p), at(rows.z + i, p), z2);  // all that w needs
  at(rows.z2 + i, p) = z2;
  T s_bar = fma(d2 * g, s2, third_derivative(activation(l), d1) * g * r);
  if (l + 1 == net_.depth) {
    s_bar = fma(d1, at(plan_.seed_a, p) * theta_[net_.output_weight + i], s_bar);
    for (int k = 0; k < plan_.tangents; ++k) j_bar(l, k, i, p) *= T(2) * g * d2;
  }
  at(rows.s_bar + i, p) = s_bar;
}

template <class T, class Rows>
template <class Add>
BRENIER_DEVICE void Elements<T, Rows>::add_small_sums(const Add& add) const {
  for (int l = 0; l < net_.depth; ++l) {
    const int from = net_.layers[l].skip;
    if (from < 0) continue;
    add(net_.layers[l].scale, net_.layers[l].width, [&](int i, int p) {
      const LayerRows& skip = plan_.layers[from];
      T sum = at(plan_.layers[l].s_bar + i, p) * at(skip.z + i, p);
      sum = fma(beta(l, i, p), at(skip.z2 + i, p), sum);
      const T d1 = at(skip.d1 + i, p);
      for (int k = 0; k < plan_.tangents; ++k) {
        sum = fma(j_bar(l, k, i, p), d1 * tangent(from, k, i, p), sum);
      }
      return sum;
    });
  }
  const LayerRows& last = plan_.layers[net_.depth - 1];
  const auto seed = [&](int p) { return at(plan_.seed_a, p); };
  add(net_.output_weight, net_.layers[net_.depth - 1].width,
      [&](int i, int p) { return at(last.z2 + i, p); });
  add(net_.output_input, d_,
      [&](int c, int p) { return fma(seed(p), at(plan_.x + c, p), at(plan_.v + c, p)); });
  add(net_.output_bias, 1, [&](int, int p) { return seed(p); });

  // K = a x x^T + v x^T + x v^T + 2 sum_kl M_kl q_k q_l^T: 1/2 trace(K) for alpha, B K for B.
  const auto direction = [&](int k, int c, int p) { return at(plan_.q + k * d_ + c, p); };
  const auto outer = [&](int b, int c, int p) {
    const T x_b = at(plan_.x + b, p), x_c = at(plan_.x + c, p);
    T entry = fma(seed(p), x_b, at(plan_.v + b, p)) * x_c + x_b * at(plan_.v + c, p);
    if (plan_.directions == Directions::unit) entry += T(2) * at(plan_.metric + triangle_index(b, c), p);
    for (int k = 0; k < plan_.count; ++k) {
      const int partner = plan_.directions == Directions::pairs ? k + plan_.count : k;
      entry += direction(k, b, p) * direction(partner, c, p) + direction(partner, b, p) * direction(k, c, p);
    }
    return entry;
  };
  add(net_.alpha, 1, [&](int, int p) {
    T trace = T(0);
    for (int c = 0; c < d_; ++c) trace += outer(c, c, p);
    return trace / T(2);
  });
  add(net_.factor, net_.rank * d_, [&](int e, int p) {
    T sum = T(0);
    for (int b = 0; b < d_; ++b) sum = fma(theta_[net_.factor + e / d_ * d_ + b], outer(b, e % d_, p), sum);
    return sum;
  });
}

}  // namespace brenier::cuda

#include "kernels/cuda/network/factor.hpp"
