// SPDX-License-Identifier: MIT
// The network on a tile of kParticles particles, by one block: who computes which element, and the products.
//
//   formulas   kernels/cuda/network/elements.hpp
//   layout     rows of kParticles elements, kStride apart, in shared memory, and so are the parameters
//              and the sums (kernels/cuda/network/tile_memory.hpp)
//   launch     whole warps; each stage ends with a barrier unless it says otherwise
//   products   kernels/cuda/network/product.hpp: parameters are the left operand, particles are the columns
#pragma once

#include "kernels/cuda/network/elements.hpp"
#include "kernels/cuda/network/product.hpp"
#include "kernels/device/device.hpp"

namespace brenier::cuda {

/// Rows start in all banks for the four rows by eight particles that a warp reads at a time.
template <class T, int kParticles>
using RowsOfTile = TileRows<T, kParticles, kParticles == 8 ? 8 : kParticles + 8>;

template <class T, class Policy, int kParticles>
class Tile : public Elements<T, RowsOfTile<T, kParticles>> {
  using Rows = RowsOfTile<T, kParticles>;
  using Base = Elements<T, Rows>;

 public:
  using Base::at;
  static constexpr int kStride = Rows::kStride;
  static constexpr int kBlocks = kParticles < 16 ? 1 : 2;

  BRENIER_DEVICE Tile(const TileNet& net, const TileLayout& plan, const T* theta, T* rows, double* doubles)
      : Base(net, plan, theta, Rows{rows}, doubles) {}

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
  /// Of all particles; see Elements. No barrier at its end.
  template <class Weight>
  BRENIER_DEVICE void factorise(bool inverse, const Weight& weight) const {
    Base::factorise(inverse, weight, thread_index(), block_size());
  }
  BRENIER_DEVICE void hessian_vector();  // H q into the y rows
  BRENIER_DEVICE void second_order();
  BRENIER_DEVICE void reverse();
  /// sums (packed parameters) += the gradient of this tile.
  BRENIER_DEVICE void accumulate(T* sums);

 private:
  using Block = ProductBlock<Policy, T, kBlocks>;
  using Base::d_, Base::net_, Base::plan_, Base::rows_, Base::theta_;
  using Base::gamma;

  // --- dealing work to warps: each job goes to the next one

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
    const T* from = rows_.base + row * kStride + p;
    return [from](int k) { return from[k * kStride]; };
  }
  /// The same, rows of two quantities multiplied.
  BRENIER_DEVICE auto particle_product(int row, int by, int p) const {
    const T* from = rows_.base + row * kStride + p;
    const T* factor = rows_.base + by * kStride + p;
    return [from, factor](int k) { return from[k * kStride] * factor[k * kStride]; };
  }
  /// sigma' J of layer l and tangent k, one particle.
  BRENIER_DEVICE auto layer_tangent(int l, int k, int p) const {
    const bool constant = this->constant_tangents(l);
    const T* d1 = rows_.base + plan_.layers[l].d1 * kStride + p;
    const T* j = constant ? theta_ + net_.layers[0].input_weight + k
                          : rows_.base + (plan_.layers[l].j + k * net_.layers[l].width) * kStride + p;
    const int stride = constant ? d_ : kStride;
    return [d1, j, stride](int i) { return d1[i * kStride] * j[i * stride]; };
  }

  /// Projection rows = B times the vector in rows `direction`.
  BRENIER_DEVICE void project_all(int direction) {
    for_each(net_.rank, [&](int r, int p) { this->project(direction, r, p); });
  }
  BRENIER_DEVICE void layer_tangents(int l);
  BRENIER_DEVICE void accumulate_layer(int l, T* sums);

  int turn_ = 0;
};

template <class T, class Policy, int kParticles>
BRENIER_DEVICE void Tile<T, Policy, kParticles>::forward() {
  project_all(plan_.x);
  for (int l = 0; l < net_.depth; ++l) {
    const LayerView& layer = net_.layers[l];
    const int z_before = l > 0 ? plan_.layers[l - 1].z : 0;
    product(
        layer.width, layer.before, 1, weight_rows(l), [&](int, int p) { return particle(z_before, p); },
        [&](int, int i, int p, T s) { this->finish_values(l, i, p, s); });
    layer_tangents(l);
    sync_block();
  }
}

template <class T, class Policy, int kParticles>
BRENIER_DEVICE void Tile<T, Policy, kParticles>::layer_tangents(int l) {
  product(
      net_.layers[l].width, net_.layers[l].before, this->constant_tangents(l) ? 0 : plan_.tangents,
      weight_rows(l), [&](int k, int p) { return layer_tangent(l > 0 ? l - 1 : 0, k, p); },
      [&](int k, int i, int p, T sum) { this->finish_tangent(l, k, i, p, sum); });
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
    const LayerRows& rows = plan_.layers[l];
    product(
        net_.layers[l - 1].width, net_.layers[l].width, 1, weight_columns(l),
        [&](int, int p) { return particle_product(rows.g, rows.d1, p); },
        [&](int, int i, int p, T g) { this->finish_adjoint(l - 1, i, p, g); });
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
    c.for_elements([&](int i, int p, T sum, int) { this->finish_displacement(i, p, sum); });
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
      at(plan_.curvature + e, p) = sum + this->quadratic(e - triangle(b), b);
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
      T sum[1][kElements] = {};
      for (int l = 1; l < net_.depth; ++l) {
        for (int i = lane() / kParticles; i < net_.layers[l].width; i += kParts) {
          this->add_curvature(l, i, p, b, first, sum);
        }
      }
      BRENIER_UNROLL
      for (int m = 0; m < kElements; ++m) {
        for (int mask = kParticles; mask < 32; mask *= 2) sum[0][m] += shuffle_xor(sum[0][m], mask);
        if (first + m <= b && lane() < kParticles)
          at(plan_.metric + triangle_index(first + m, b), p) = sum[0][m];
      }
    }
  }
}

template <class T, class Policy, int kParticles>
BRENIER_DEVICE void Tile<T, Policy, kParticles>::hessian_vector() {
  const int last = net_.depth - 1;
  project_all(plan_.q);
  for_each(net_.layers[last].width, [&](int i, int p) { this->start_adjoint_tangent(last, i, p); });
  sync_block();
  for (int l = last; l > 0; --l) {
    product(
        net_.layers[l - 1].width, net_.layers[l].width, 1, weight_columns(l),
        [&](int, int p) { return particle(plan_.layers[l].s_bar, p); },
        [&](int, int i, int p, T g_dot) { this->finish_adjoint_tangent(l - 1, i, p, g_dot); });
    sync_block();
  }
  for_blocks(d_, kParticles, 1, [&](int first_row, int first_particle, int) {
    Block c(first_row, d_, first_particle, kParticles);
    for (int l = 0; l < net_.depth; ++l) {
      if (net_.layers[l].input_weight < 0) continue;
      c.multiply(net_.layers[l].width, input_columns(l),
                 [&](int p) { return particle(plan_.layers[l].s_bar, p); });
    }
    c.for_elements([&](int i, int p, T sum, int) { this->finish_hessian_vector(i, p, sum); });
  });
  sync_block();
}

}  // namespace brenier::cuda

#include "kernels/cuda/network/tile_reverse.hpp"
