// SPDX-License-Identifier: MIT
// The network on a tile of kParticles particles, by one block.
//
//   computes   map, Hessian, log-determinant, and the theta-gradient of the second-order jet
//   (kernels/ops.hpp),
//              by the collapsed streams of the reference: 1 base, K tangents, 1 second-order stream
//   layout     every quantity is a set of rows of kParticles elements, kStride apart; TilePlan says where
//   memory     parameters, sums and rows lie in the block's shared memory where they fit, else in global
//   memory
//              (kernels/cuda/tile_kernels.hpp)
//   launch     whole warps; each stage ends with a barrier unless it says otherwise
//   products   kernels/cuda/product.hpp: parameters are the left operand, particles are the columns
#pragma once

#include "kernels/cuda/net_view.hpp"
#include "kernels/cuda/product.hpp"
#include "kernels/runtime/device.hpp"

namespace brenier::cuda {

using namespace brenier::device;

/// sigma and its derivatives; d2 and d3 are functions of d1 = sigma'.
template <class T>
BRENIER_DEVICE void activate(Activation kind, T s, T& value, T& d1) {
  if (kind == Activation::softplus) {
    const T t = exp(-abs(s));
    const T p = T(1) / (T(1) + t);
    value = (s > T(0) ? s : T(0)) + log1p(t);
    d1 = s < T(0) ? t * p : p;
  } else {
    const T root = sqrt(s * s + T(4));
    const T big = (abs(s) + root) * T(0.5);
    value = s < T(0) ? T(1) / big : big;
    d1 = s < T(0) ? T(1) / (big * root) : big / root;
  }
}
template <class T>
BRENIER_DEVICE T second_derivative(Activation kind, T d1) {
  const T d2 = d1 * (T(1) - d1);
  return kind == Activation::softplus ? d2 : T(2) * d2 * sqrt(d2);
}
template <class T>
BRENIER_DEVICE T third_derivative(Activation kind, T d1) {
  const T d2 = d1 * (T(1) - d1);
  const T slope = T(1) - T(2) * d1;
  return kind == Activation::softplus ? d2 * slope : T(6) * d2 * d2 * slope;
}

template <class T, class Policy, int kParticles>
class Tile {
 public:
  /// Rows start in all banks for the four rows by eight particles that a warp reads at a time.
  static constexpr int kStride = kParticles == 8 ? 8 : kParticles + 8;
  static constexpr int kBlocks = kParticles < 16 ? 1 : 2;

  BRENIER_DEVICE Tile(const NetView& net, const TilePlan& plan, const T* theta, T* rows, double* doubles)
      : net_(net), plan_(plan), theta_(theta), rows_(rows), doubles_(doubles), d_(net.dim) {}

  BRENIER_DEVICE T& at(int row, int particle) const { return rows_[row * kStride + particle]; }
  /// log det H of a particle, after factorise().
  BRENIER_DEVICE double& log_det(int particle) const { return doubles_[particle]; }
  /// The state of a particle that a kernel keeps in double.
  BRENIER_DEVICE double* state(int particle) const {
    return doubles_ + plan_.log_det_doubles + plan_.factor_doubles + plan_.surrogate_doubles +
           particle * (plan_.state_doubles / kParticles);
  }
  /// Row r of the double workspace of internal energies.
  BRENIER_DEVICE double& surrogate(int r, int particle) const {
    return doubles_[plan_.log_det_doubles + plan_.factor_doubles + r * kParticles + particle];
  }

  /// f(i, p) for i < count and all particles, dealt to the threads of the block.
  template <class F>
  BRENIER_DEVICE static void for_each(int count, const F& f) {
    const int p = thread_index() % kParticles;
    for (int i = thread_index() / kParticles; i < count; i += block_size() / kParticles) f(i, p);
  }

  BRENIER_DEVICE void forward();   // values and tangents of all layers
  BRENIER_DEVICE void tangents();  // the tangents again, for other directions
  BRENIER_DEVICE void adjoint();   // g of all layers
  BRENIER_DEVICE void displace();  // displacement rows; no barrier at its end
  BRENIER_DEVICE void hessian();   // curvature and metric rows; no barrier at its end
  BRENIER_DEVICE T hessian_element(int a, int b, int p) const {
    const int e = triangle_index(a, b);
    return at(plan_.curvature + e, p) + at(plan_.metric + e, p);
  }
  /// log det H of every particle (NaN where H is not positive definite); with `inverse`, the metric rows
  /// become weight(p, log det) H^{-1}. `weight` is called by one thread for each particle. No barrier at its
  /// end.
  template <class Weight>
  BRENIER_DEVICE void factorise(bool inverse, const Weight& weight);
  BRENIER_DEVICE T potential(int p) const;
  BRENIER_DEVICE void hessian_vector();  // H q into the y rows
  BRENIER_DEVICE void second_order();
  BRENIER_DEVICE void reverse();
  /// sums (packed parameters) += the gradient of this tile.
  BRENIER_DEVICE void accumulate(T* sums);

 private:
  using Block = ProductBlock<Policy, T, kBlocks>;

  // --- dealing work to warps: each job goes to the next one
  // -----------------------------------------------------

  BRENIER_DEVICE bool my_turn() {
    const bool mine = turn_ == warp();
    turn_ = turn_ + 1 == warp_count() ? 0 : turn_ + 1;
    return mine;
  }
  /// f(first row, first column, batch) for the blocks of `batches` products.
  template <class F>
  BRENIER_DEVICE void for_blocks(int rows, int columns, int batches, const F& f) {
    const int across = (columns + 8 * kBlocks - 1) / (8 * kBlocks);
    const int of_batch = (rows + 15) / 16 * across;
    const int count = of_batch * batches;
    int job = warp() - turn_;
    if (job < 0) job += warp_count();
    for (; job < count; job += warp_count()) {
      const int rest = job % of_batch;
      f(rest / across * 16, rest % across * (8 * kBlocks), job / of_batch);
    }
    turn_ = (turn_ + count) % warp_count();
  }
  /// out(batch, i, p, sum over k < depth of A(i, k) B_batch(k, p)), a(i) a function of k, b(batch, p) too.
  template <class A, class B, class Out>
  BRENIER_DEVICE void product(int rows, int depth, int batches, const A& a, const B& b, const Out& out) {
    for_blocks(rows, kParticles, batches, [&](int first_row, int first_particle, int batch) {
      Block c(first_row, rows, first_particle, kParticles);
      if (depth > 0) c.multiply(depth, a, [&](int p) { return b(batch, p); });
      c.for_elements([&](int i, int p, T value, int) { out(batch, i, p, value); });
    });
  }

  // --- operands as functions of the index that products sum over
  // ------------------------------------------------

  BRENIER_DEVICE auto weight_rows(int l) const {
    const T* w = theta_ + net_.layers[l].weight;
    const int ld = net_.layers[l].weight_ld;
    return [w, ld](int i) {
      const T* row = w + i * ld;
      return [row](int k) { return row[k]; };
    };
  }
  BRENIER_DEVICE auto weight_columns(int l) const {
    const T* w = theta_ + net_.layers[l].weight;
    const int ld = net_.layers[l].weight_ld;
    return [w, ld](int i) {
      const T* column = w + i;
      return [column, ld](int k) { return column[k * ld]; };
    };
  }
  BRENIER_DEVICE auto input_columns(int l) const {
    const T* w = theta_ + net_.layers[l].input_weight;
    const int d = d_;
    return [w, d](int c) {
      const T* column = w + c;
      return [column, d](int i) { return column[i * d]; };
    };
  }
  /// Rows row, row + 1, ... of one particle.
  BRENIER_DEVICE auto particle(int row, int p) const {
    const T* from = rows_ + row * kStride + p;
    return [from](int k) { return from[k * kStride]; };
  }
  /// The same, rows of two quantities multiplied.
  BRENIER_DEVICE auto particle_product(int row, int by, int p) const {
    const T* from = rows_ + row * kStride + p;
    const T* factor = rows_ + by * kStride + p;
    return [from, factor](int k) { return from[k * kStride] * factor[k * kStride]; };
  }
  /// sigma' J of layer l and tangent k, one particle.
  BRENIER_DEVICE auto layer_tangent(int l, int k, int p) const {
    const bool constant = l == 0 && plan_.directions == Directions::unit;
    const T* d1 = rows_ + plan_.layers[l].d1 * kStride + p;
    const T* j = constant ? theta_ + net_.layers[0].input_weight + k
                          : rows_ + (plan_.layers[l].j + k * net_.layers[l].width) * kStride + p;
    const int stride = constant ? d_ : kStride;
    return [d1, j, stride](int i) { return d1[i * kStride] * j[i * stride]; };
  }

  // --- elements
  // -------------------------------------------------------------------------------------------------

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
  BRENIER_DEVICE T tangent(int l, int k, int i, int p) const {
    if (l == 0 && plan_.directions == Directions::unit)
      return theta_[net_.layers[0].input_weight + i * d_ + k];
    return at(plan_.layers[l].j + k * net_.layers[l].width + i, p);
  }
  BRENIER_DEVICE T gamma(int l, int i, int p) const {
    return at(plan_.layers[l].g + i, p) * second_derivative(net_.activation, at(plan_.layers[l].d1 + i, p));
  }
  BRENIER_DEVICE T quadratic(int a, int b) const {
    T sum = a == b ? theta_[net_.alpha] : T(0);
    for (int r = 0; r < net_.rank; ++r) {
      sum = fma(theta_[net_.factor + r * d_ + a], theta_[net_.factor + r * d_ + b], sum);
    }
    return sum;
  }
  /// Row c of B^T times the projection rows.
  BRENIER_DEVICE T unproject(int c, int p) const {
    T sum = T(0);
    for (int r = 0; r < net_.rank; ++r) {
      sum = fma(theta_[net_.factor + r * d_ + c], at(plan_.projection + r, p), sum);
    }
    return sum;
  }
  /// Projection rows = B times the vector in rows `direction`.
  BRENIER_DEVICE void project(int direction) {
    for_each(net_.rank, [&](int r, int p) {
      T sum = T(0);
      for (int c = 0; c < d_; ++c) sum = fma(theta_[net_.factor + r * d_ + c], at(direction + c, p), sum);
      at(plan_.projection + r, p) = sum;
    });
  }
  BRENIER_DEVICE void layer_tangents(int l);
  BRENIER_DEVICE T weigh_tangents(int l, int i, int p);
  BRENIER_DEVICE void finish_second_order(int l, int i, int p, T s2, T r);
  BRENIER_DEVICE void accumulate_layer(int l, T* sums);
  template <class Weight>
  BRENIER_DEVICE void factorise_by_warp(bool inverse, const Weight& weight);
  template <int kDim, class Weight>
  BRENIER_DEVICE void factorise_by_thread(bool inverse, const Weight& weight);

  const NetView& net_;
  const TilePlan& plan_;
  const T* theta_;
  T* rows_;
  double* doubles_;
  int d_;
  int turn_ = 0;
};

template <class T, class Policy, int kParticles>
BRENIER_DEVICE void Tile<T, Policy, kParticles>::forward() {
  project(plan_.x);
  for (int l = 0; l < net_.depth; ++l) {
    const LayerView& layer = net_.layers[l];
    const LayerRows& to = plan_.layers[l];
    const int z_before = l > 0 ? plan_.layers[l - 1].z : 0;
    product(
        layer.width, layer.before, 1, weight_rows(l), [&](int, int p) { return particle(z_before, p); },
        [&](int, int i, int p, T s) {
          s += input_part(l, i, plan_.x, p) + theta_[layer.bias + i];
          if (layer.skip >= 0) s = fma(theta_[layer.scale + i], at(plan_.layers[layer.skip].z + i, p), s);
          activate(net_.activation, s, at(to.z + i, p), at(to.d1 + i, p));
          if (l + 1 == net_.depth) at(to.g + i, p) = theta_[net_.output_weight + i];
        });
    layer_tangents(l);
    sync_block();
  }
}

template <class T, class Policy, int kParticles>
BRENIER_DEVICE void Tile<T, Policy, kParticles>::layer_tangents(int l) {
  const LayerView& layer = net_.layers[l];
  const LayerRows& to = plan_.layers[l];
  const bool constant = l == 0 && plan_.directions == Directions::unit;
  product(
      layer.width, layer.before, constant ? 0 : plan_.tangents, weight_rows(l),
      [&](int k, int p) { return layer_tangent(l > 0 ? l - 1 : 0, k, p); },
      [&](int k, int i, int p, T sum) {
        sum += input_part_tangent(l, i, k, p);
        if (layer.skip >= 0) {
          const T skipped = at(plan_.layers[layer.skip].d1 + i, p) * tangent(layer.skip, k, i, p);
          sum = fma(theta_[layer.scale + i], skipped, sum);
        }
        at(to.j + k * layer.width + i, p) = sum;
      });
}

template <class T, class Policy, int kParticles>
BRENIER_DEVICE void Tile<T, Policy, kParticles>::tangents() {
  for (int l = 0; l < net_.depth; ++l) {
    layer_tangents(l);
    sync_block();
  }
}

template <class T, class Policy, int kParticles>
BRENIER_DEVICE void Tile<T, Policy, kParticles>::adjoint() {
  for (int l = net_.depth - 1; l > 0; --l) {
    const LayerView& below = net_.layers[l - 1];
    const LayerRows& rows = plan_.layers[l];
    product(
        below.width, net_.layers[l].width, 1, weight_columns(l),
        [&](int, int p) { return particle_product(rows.g, rows.d1, p); },
        [&](int, int i, int p, T g) {
          if (below.skip_user >= 0) {
            const LayerRows& user = plan_.layers[below.skip_user];
            const T beta = at(user.g + i, p) * at(user.d1 + i, p);
            g = fma(theta_[net_.layers[below.skip_user].scale + i], beta, g);
          }
          at(plan_.layers[l - 1].g + i, p) = g;
        });
    sync_block();
  }
}

template <class T, class Policy, int kParticles>
BRENIER_DEVICE void Tile<T, Policy, kParticles>::displace() {
  for_blocks(d_, kParticles, 1, [&](int first_row, int first_particle, int) {
    Block c(first_row, d_, first_particle, kParticles);
    for (int l = 0; l < net_.depth; ++l) {
      if (net_.layers[l].input_weight < 0) continue;
      const LayerRows& rows = plan_.layers[l];
      c.multiply(net_.layers[l].width, input_columns(l),
                 [&](int p) { return particle_product(rows.g, rows.d1, p); });
    }
    c.for_elements([&](int i, int p, T sum, int) {
      sum += theta_[net_.output_input + i] + unproject(i, p);
      at(plan_.displacement + i, p) = fma(theta_[net_.alpha] - T(1), at(plan_.x + i, p), sum);
    });
  });
}

template <class T, class Policy, int kParticles>
BRENIER_DEVICE void Tile<T, Policy, kParticles>::hessian() {
  // Layer 0: sum_i gamma_i A_ia A_ib, where A A^T is the same for all particles.
  const T* input = theta_ + net_.layers[0].input_weight;
  for_blocks(triangle(d_), kParticles, 1, [&](int first_row, int first_particle, int) {
    Block c(first_row, triangle(d_), first_particle, kParticles);
    c.multiply(
        net_.layers[0].width,
        [&](int e) {
          const int b = triangle_column(e);
          const T* column_a = input + (e - triangle(b));
          const T* column_b = input + b;
          return [column_a, column_b, d = d_](int i) { return column_a[i * d] * column_b[i * d]; };
        },
        [&](int p) { return [this, p](int i) { return gamma(0, i, p); }; });
    c.for_elements([&](int e, int p, T sum, int) {
      const int b = triangle_column(e);
      at(plan_.curvature + e, p) = sum + quadratic(e - triangle(b), b);
    });
  });
  // The others, whose tangents differ between particles: a warp takes four elements of a column; where a tile
  // has fewer particles than a warp lanes, the lanes of a particle share the units.
  constexpr int kParts = 32 / kParticles;
  constexpr int kElements = 4;
  const int p = lane() % kParticles;
  for (int b = 0; b < d_; ++b) {
    for (int first = 0; first <= b; first += kElements) {
      if (!my_turn()) continue;
      T sum[kElements] = {};
      for (int l = 1; l < net_.depth; ++l) {
        for (int i = lane() / kParticles; i < net_.layers[l].width; i += kParts) {
          const T weighted = gamma(l, i, p) * tangent(l, b, i, p);
          BRENIER_UNROLL
          for (int m = 0; m < kElements; ++m) {
            if (first + m <= b) sum[m] = fma(weighted, tangent(l, first + m, i, p), sum[m]);
          }
        }
      }
      BRENIER_UNROLL
      for (int m = 0; m < kElements; ++m) {
        for (int mask = kParticles; mask < 32; mask *= 2) sum[m] += shuffle_xor(sum[m], mask);
        if (first + m <= b && lane() < kParticles)
          at(plan_.metric + triangle_index(first + m, b), p) = sum[m];
      }
    }
  }
}

template <class T, class Policy, int kParticles>
BRENIER_DEVICE T Tile<T, Policy, kParticles>::potential(int p) const {
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

template <class T, class Policy, int kParticles>
BRENIER_DEVICE void Tile<T, Policy, kParticles>::hessian_vector() {
  // The tangent of the adjoint sweep: beta' = g' sigma' + g sigma'' s'; it lies in the s_bar rows.
  const int last = net_.depth - 1;
  project(plan_.q);
  for_each(net_.layers[last].width, [&](int i, int p) {
    at(plan_.layers[last].s_bar + i, p) = gamma(last, i, p) * tangent(last, 0, i, p);
  });
  sync_block();
  for (int l = last; l > 0; --l) {
    const LayerView& below = net_.layers[l - 1];
    const LayerRows& rows = plan_.layers[l - 1];
    product(
        below.width, net_.layers[l].width, 1, weight_columns(l),
        [&](int, int p) { return particle(plan_.layers[l].s_bar, p); },
        [&](int, int i, int p, T g_dot) {
          if (below.skip_user >= 0) {
            const T user = at(plan_.layers[below.skip_user].s_bar + i, p);
            g_dot = fma(theta_[net_.layers[below.skip_user].scale + i], user, g_dot);
          }
          at(rows.s_bar + i, p) =
              fma(gamma(l - 1, i, p), tangent(l - 1, 0, i, p), g_dot * at(rows.d1 + i, p));
        });
    sync_block();
  }
  for_blocks(d_, kParticles, 1, [&](int first_row, int first_particle, int) {
    Block c(first_row, d_, first_particle, kParticles);
    for (int l = 0; l < net_.depth; ++l) {
      if (net_.layers[l].input_weight < 0) continue;
      c.multiply(net_.layers[l].width, input_columns(l),
                 [&](int p) { return particle(plan_.layers[l].s_bar, p); });
    }
    c.for_elements([&](int i, int p, T sum, int) {
      at(plan_.y + i, p) = fma(theta_[net_.alpha], at(plan_.q + i, p), sum + unproject(i, p));
    });
  });
  sync_block();
}

}  // namespace brenier::cuda

#include "kernels/cuda/factor.hpp"
#include "kernels/cuda/tile_reverse.hpp"
