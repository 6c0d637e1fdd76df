// SPDX-License-Identifier: MIT
// Tile, third part: the collapsed second-order stream, the reverse sweep and the sums over particles.
// Included by kernels/cuda/tile.hpp. The formulas stand in kernels/cpu/tile_reverse.hpp.
#pragma once

#include "kernels/cuda/tile.hpp"

namespace brenier::cuda {

/// Beyond this dimension the weighted tangents of layer 0, sum_b M_kb A_ib, are a product.
inline constexpr int kProductDim = 8;

/// j_bar rows of unit i: sum_b M_kb J_b for every tangent k. Returns r = sum_k J_k times that.
template <class T, class Policy, int kParticles>
BRENIER_DEVICE T Tile<T, Policy, kParticles>::weigh_tangents(int l, int i, int p) {
  const int width = net_.layers[l].width;
  const int out = plan_.layers[l].j_bar + i;
  T r = T(0);
  if (plan_.directions != Directions::unit) {
    for (int k = 0; k < plan_.tangents; ++k) {
      const T weighted = plan_.directions == Directions::single
                             ? tangent(l, k, i, p)
                             : T(0.5) * tangent(l, (k + plan_.count) % plan_.tangents, i, p);
      at(out + k * width, p) = weighted;
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
      at(out + (first + m) * width, p) = sum[m];
      r = fma(tangent(l, first + m, i, p), sum[m], r);
    }
  }
  return r;
}

/// From s2 = W z2 + ... and r = sum J M J: z2, and what the reverse sweep adds to sigma' zbar; in the last
/// layer, where zbar is a w, the adjoints themselves.
template <class T, class Policy, int kParticles>
BRENIER_DEVICE void Tile<T, Policy, kParticles>::finish_second_order(int l, int i, int p, T s2, T r) {
  const LayerView& layer = net_.layers[l];
  const LayerRows& rows = plan_.layers[l];
  s2 += input_part(l, i, plan_.v, p);
  if (layer.skip >= 0) s2 = fma(theta_[layer.scale + i], at(plan_.layers[layer.skip].z2 + i, p), s2);
  const T d1 = at(rows.d1 + i, p);
  const T g = at(rows.g + i, p);
  const T d2 = second_derivative(net_.activation, d1);
  at(rows.z2 + i, p) = fma(d2, r, d1 * s2);
  T s_bar = fma(d2 * g, s2, third_derivative(net_.activation, d1) * g * r);
  if (l + 1 == net_.depth) {
    s_bar = fma(d1, at(plan_.seed_a, p) * theta_[net_.output_weight + i], s_bar);
    for (int k = 0; k < plan_.tangents; ++k) at(rows.j_bar + k * layer.width + i, p) *= T(2) * g * d2;
  }
  at(rows.s_bar + i, p) = s_bar;
}

template <class T, class Policy, int kParticles>
BRENIER_DEVICE void Tile<T, Policy, kParticles>::second_order() {
  const LayerView& first = net_.layers[0];
  const LayerRows& rows = plan_.layers[0];
  // r waits in the s_bar rows for the pass over the layer.
  for (int l = 1; l < net_.depth; ++l) {
    for_each(net_.layers[l].width,
             [&](int i, int p) { at(plan_.layers[l].s_bar + i, p) = weigh_tangents(l, i, p); });
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
        [&](int k, int i, int p, T sum) { at(rows.j_bar + k * first.width + i, p) = sum; });
    sync_block();
    for_each(first.width, [&](int i, int p) {
      T r = T(0);
      for (int k = 0; k < d_; ++k) r = fma(tangent(0, k, i, p), at(rows.j_bar + k * first.width + i, p), r);
      finish_second_order(0, i, p, T(0), r);
    });
  } else {
    for_each(first.width, [&](int i, int p) { finish_second_order(0, i, p, T(0), weigh_tangents(0, i, p)); });
  }
  sync_block();
  for (int l = 1; l < net_.depth; ++l) {
    product(
        net_.layers[l].width, net_.layers[l].before, 1, weight_rows(l),
        [&](int, int p) { return particle(plan_.layers[l - 1].z2, p); },
        [&](int, int i, int p, T s2) { finish_second_order(l, i, p, s2, at(plan_.layers[l].s_bar + i, p)); });
    sync_block();
  }
}

template <class T, class Policy, int kParticles>
BRENIER_DEVICE void Tile<T, Policy, kParticles>::reverse() {
  for (int l = net_.depth - 2; l >= 0; --l) {
    const LayerView& layer = net_.layers[l];
    const LayerRows& rows = plan_.layers[l];
    const LayerRows& above = plan_.layers[l + 1];
    const int depth = net_.layers[l + 1].width;
    const int user = layer.skip_user;
    // All streams of an element belong to one lane: what they pair up to stays in registers.
    for_blocks(layer.width, kParticles, 1, [&](int first_row, int first_particle, int) {
      T paired[4 * kBlocks] = {};
      for (int k = 0; k < plan_.tangents; ++k) {
        Block c(first_row, layer.width, first_particle, kParticles);
        c.multiply(depth, weight_columns(l + 1), [&](int p) { return particle(above.j_bar + k * depth, p); });
        c.for_elements([&](int i, int p, T z_bar, int slot) {
          if (user >= 0) {
            const T adjoint = at(plan_.layers[user].j_bar + k * layer.width + i, p);
            z_bar = fma(theta_[net_.layers[user].scale + i], adjoint, z_bar);
          }
          paired[slot] = fma(z_bar, tangent(l, k, i, p), paired[slot]);
          T& j_bar = at(rows.j_bar + k * layer.width + i, p);
          j_bar = fma(at(rows.d1 + i, p), z_bar, T(2) * gamma(l, i, p) * j_bar);
        });
      }
      Block c(first_row, layer.width, first_particle, kParticles);
      c.multiply(depth, weight_columns(l + 1), [&](int p) { return particle(above.s_bar, p); });
      c.for_elements([&](int i, int p, T z_bar, int slot) {
        if (user >= 0) {
          z_bar = fma(theta_[net_.layers[user].scale + i], at(plan_.layers[user].s_bar + i, p), z_bar);
        }
        const T d1 = at(rows.d1 + i, p);
        const T change = fma(d1, z_bar, second_derivative(net_.activation, d1) * paired[slot]);
        at(rows.s_bar + i, p) += change;
      });
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
    const T* from = rows_ + row * kStride;
    return [from](int p) { return from[p]; };
  };
  const auto rows_from = [&](int row) { return [&along, row](int i) { return along(row + i); }; };
  const auto beta = [&](int i) {
    const T* g = rows_ + (to.g + i) * kStride;
    const T* d1 = rows_ + (to.d1 + i) * kStride;
    return [g, d1](int p) { return g[p] * d1[p]; };
  };
  if (l > 0) {
    const LayerRows& from = plan_.layers[l - 1];
    for_blocks(layer.width, layer.before, 1, [&](int first_row, int first_column, int) {
      Block c(first_row, layer.width, first_column, layer.before);
      c.multiply(kParticles, rows_from(to.s_bar), rows_from(from.z));
      c.multiply(kParticles, beta, rows_from(from.z2));
      for (int k = 0; k < plan_.tangents; ++k) {
        c.multiply(kParticles, rows_from(to.j_bar + k * layer.width), [&](int j) {
          const bool constant = l == 1 && unit;
          const T* d1 = rows_ + (from.d1 + j) * kStride;
          const T* tangent = constant ? theta_ + net_.layers[0].input_weight + j * d_ + k
                                      : rows_ + (from.j + k * layer.before + j) * kStride;
          const int stride = constant ? 0 : 1;
          return [d1, tangent, stride](int p) { return d1[p] * tangent[p * stride]; };
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
      c.multiply(kParticles, beta, rows_from(plan_.v));
      for (int k = 0; k < plan_.tangents; ++k) {
        if (unit && (k < first_column || k >= first_column + 8 * kBlocks)) continue;
        const T* direction = unit ? nullptr : rows_ + (plan_.q + k * d_) * kStride;
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
  if (layer.skip < 0) return;
  const LayerRows& skip = plan_.layers[layer.skip];
  for (int i = thread_index(); i < layer.width; i += block_size()) {
    T sum = T(0);
    for (int p = 0; p < kParticles; ++p) {
      sum = fma(at(to.s_bar + i, p), at(skip.z + i, p), sum);
      sum = fma(at(to.g + i, p) * at(to.d1 + i, p), at(skip.z2 + i, p), sum);
      for (int k = 0; k < plan_.tangents; ++k) {
        const T skipped_tangent = at(skip.d1 + i, p) * tangent(layer.skip, k, i, p);
        sum = fma(at(to.j_bar + k * layer.width + i, p), skipped_tangent, sum);
      }
    }
    sums[layer.scale + i] += sum;
  }
}

template <class T, class Policy, int kParticles>
BRENIER_DEVICE void Tile<T, Policy, kParticles>::accumulate(T* sums) {
  for (int l = 0; l < net_.depth; ++l) accumulate_layer(l, sums);

  /// sums[first + e] += sum_p f(e, p); the threads of a warp start at different particles: at different
  /// banks.
  const auto add = [&](int first, int count, const auto& f) {
    for (int e = thread_index(); e < count; e += block_size()) {
      T sum = T(0);
      for (int p = 0; p < kParticles; ++p) sum += f(e, (p + e) % kParticles);
      sums[first + e] += sum;
    }
  };
  const LayerRows& last = plan_.layers[net_.depth - 1];
  const auto seed = [&](int p) { return at(plan_.seed_a, p); };
  add(net_.output_weight, net_.layers[net_.depth - 1].width,
      [&](int i, int p) { return fma(seed(p), at(last.z + i, p), at(last.z2 + i, p)); });
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
  sync_block();
}

}  // namespace brenier::cuda
