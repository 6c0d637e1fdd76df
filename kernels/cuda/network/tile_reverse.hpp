// SPDX-License-Identifier: MIT
// Tile, second part: the collapsed second-order stream, the reverse sweep and the sums over particles.
// Included by kernels/cuda/network/tile.hpp.
#pragma once

#include "kernels/cuda/network/tile.hpp"

namespace brenier::cuda {

/// Beyond this dimension the weighted tangents of layer 0, sum_b M_kb A_ib, are a product.
inline constexpr int kProductDim = 8;

template <class T, class Policy, int kParticles>
BRENIER_DEVICE void Tile<T, Policy, kParticles>::second_order() {
  const LayerView& first = net_.layers[0];
  // r waits in the s_bar rows for the pass over the layer.
  for (int l = 1; l < net_.depth; ++l) {
    for_each(net_.layers[l].width,
             [&](int i, int p) { at(plan_.layers[l].s_bar + i, p) = this->weigh_tangents(l, i, p); });
  }
  if (plan_.directions == Directions::unit && d_ >= kProductDim) {
    product(
        first.width, d_, d_,
        [&](int i) {
          const T* row = theta_ + first.input_weight + i * d_;
          return [row](int b) { return row[b]; };
        },
        [&](int k, int p) {
          return [this, k, p](int b) { return at(plan_.metric + triangle_index(k, b), p); };
        },
        [&](int k, int i, int p, T sum) { this->j_bar(0, k, i, p) = sum; });
    sync_block();
    for_each(first.width, [&](int i, int p) {
      T r = T(0);
      for (int k = 0; k < d_; ++k) r = fma(this->tangent(0, k, i, p), this->j_bar(0, k, i, p), r);
      this->finish_second_order(0, i, p, T(0), r);
    });
  } else {
    for_each(first.width,
             [&](int i, int p) { this->finish_second_order(0, i, p, T(0), this->weigh_tangents(0, i, p)); });
  }
  sync_block();
  for (int l = 1; l < net_.depth; ++l) {
    product(
        net_.layers[l].width, net_.layers[l].before, 1, weight_rows(l),
        [&](int, int p) { return particle(plan_.layers[l - 1].z2, p); },
        [&](int, int i, int p, T s2) {
          this->finish_second_order(l, i, p, s2, at(plan_.layers[l].s_bar + i, p));
        });
    sync_block();
  }
}

template <class T, class Policy, int kParticles>
BRENIER_DEVICE void Tile<T, Policy, kParticles>::reverse() {
  for (int l = net_.depth - 2; l >= 0; --l) {
    const LayerView& layer = net_.layers[l];
    const LayerRows& above = plan_.layers[l + 1];
    const int depth = net_.layers[l + 1].width;
    // All streams of an element belong to one lane: what they pair up to stays in registers.
    for_blocks(layer.width, kParticles, 1, [&](int first_row, int first_particle, int) {
      T paired[4 * kBlocks] = {};
      for (int k = 0; k < plan_.tangents; ++k) {
        Block c(first_row, layer.width, first_particle, kParticles);
        c.multiply(depth, weight_columns(l + 1), [&](int p) { return particle(above.j_bar + k * depth, p); });
        c.for_elements(
            [&](int i, int p, T z_bar, int slot) { this->reverse_tangent(l, k, i, p, z_bar, paired[slot]); });
      }
      Block c(first_row, layer.width, first_particle, kParticles);
      c.multiply(depth, weight_columns(l + 1), [&](int p) { return particle(above.s_bar, p); });
      c.for_elements(
          [&](int i, int p, T z_bar, int slot) { this->reverse_values(l, i, p, z_bar, paired[slot]); });
    });
    sync_block();
  }
}

/// Sums over particles of one layer: products whose inner index is the particle.
template <class T, class Policy, int kParticles>
BRENIER_DEVICE void Tile<T, Policy, kParticles>::accumulate_layer(int l, T* sums) {
  const LayerView& layer = net_.layers[l];
  const LayerRows& to = plan_.layers[l];
  const bool unit = plan_.directions == Directions::unit;
  const auto along = [&](int row) {  // a row as a function of the particle
    const T* from = rows_.base + row * kStride;
    return [from](int p) { return from[p]; };
  };
  const auto rows_from = [&](int row) { return [&along, row](int i) { return along(row + i); }; };
  const auto beta_of = [&](int i) {
    const T* g = rows_.base + (to.g + i) * kStride;
    const T* d1 = rows_.base + (to.d1 + i) * kStride;
    return [g, d1](int p) { return g[p] * d1[p]; };
  };
  if (l > 0) {
    const LayerRows& from = plan_.layers[l - 1];
    for_blocks(layer.width, layer.before, 1, [&](int first_row, int first_column, int) {
      Block c(first_row, layer.width, first_column, layer.before);
      c.multiply(kParticles, rows_from(to.s_bar), rows_from(from.z));
      c.multiply(kParticles, beta_of, rows_from(from.z2));
      for (int k = 0; k < plan_.tangents; ++k) {
        c.multiply(kParticles, rows_from(to.j_bar + k * layer.width), [&](int j) {
          const bool constant = this->constant_tangents(l - 1);
          const T* d1 = rows_.base + (from.d1 + j) * kStride;
          const T* j_row = constant ? theta_ + net_.layers[0].input_weight + j * d_ + k
                                    : rows_.base + (from.j + k * layer.before + j) * kStride;
          const int stride = constant ? 0 : 1;
          return [d1, j_row, stride](int p) { return d1[p] * j_row[p * stride]; };
        });
      }
      c.for_elements([&](int i, int j, T sum, int) { sums[layer.weight + i * layer.weight_ld + j] += sum; });
    });
  }
  // A_l and b_l at once: the bias is the column of the row of ones behind x.
  const int skipped = layer.input_weight < 0 ? d_ : 0;
  for_blocks(layer.width, d_ + 1 - skipped, 1, [&](int first_row, int first_column, int) {
    Block c(first_row, layer.width, first_column, d_ + 1 - skipped);
    c.multiply(kParticles, rows_from(to.s_bar), rows_from(plan_.x + skipped));
    if (skipped == 0) {
      c.multiply(kParticles, beta_of, rows_from(plan_.v));
      for (int k = 0; k < plan_.tangents; ++k) {
        if (unit && (k < first_column || k >= first_column + 8 * kBlocks)) continue;
        const T* direction = unit ? nullptr : rows_.base + (plan_.q + k * d_) * kStride;
        c.multiply(kParticles, rows_from(to.j_bar + k * layer.width), [&](int column) {
          const T* from = direction && column < d_ ? direction + column * kStride : nullptr;
          const T otherwise = unit && column == k ? T(1) : T(0);
          return [from, otherwise](int p) { return from ? from[p] : otherwise; };
        });
      }
    }
    c.for_elements([&](int i, int column, T sum, int) {
      const int input = column + skipped;
      sums[input == d_ ? layer.bias + i : layer.input_weight + i * d_ + input] += sum;
    });
  });
}

template <class T, class Policy, int kParticles>
BRENIER_DEVICE void Tile<T, Policy, kParticles>::accumulate(T* sums) {
  for (int l = 0; l < net_.depth; ++l) accumulate_layer(l, sums);
  // The threads of a warp start at different particles: at different banks.
  this->add_small_sums([&](int first, int count, const auto& f) {
    for (int e = thread_index(); e < count; e += block_size()) {
      T sum = T(0);
      for (int p = 0; p < kParticles; ++p) sum += f(e, (p + e) % kParticles);
      sums[first + e] += sum;
    }
  });
  sync_block();
}

}  // namespace brenier::cuda
