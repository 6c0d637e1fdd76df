// SPDX-License-Identifier: MIT
// Tile, second half: Hessian-vector products, the collapsed second-order stream, the reverse sweep and the
// sums over particles. Included by kernels/cuda/tile.hpp. The formulas stand in kernels/cpu/tile_reverse.hpp.
#pragma once

#include "kernels/cuda/tile.hpp"

namespace brenier::cuda {

template <class T>
BRENIER_DEVICE void Tile<T>::hessian_vector() {
  for_rows(d_, [&](int a) {
    T sum = T(0);
    for (int b = 0; b < d_; ++b) sum = fma(quadratic(a, b), at(plan_.q + b), sum);
    at(plan_.y + a) = sum;
  });
  // Tangent of the adjoint sweep: betadot = gdot sigma' + g sigma'' sdot; gdot lies in tz, betadot in s_bar.
  for (int l = net_.depth - 1; l >= 0; --l) {
    const LayerView& layer = net_.layers[l];
    const LayerRows& rows = plan_.layers[l];
    const bool last = l + 1 == net_.depth;
    for_rows(layer.width, [&](int i) {
      T g_dot = last ? T(0) : at(rows.tz + i);
      if (layer.skip_user >= 0) {
        const LayerView& user = net_.layers[layer.skip_user];
        g_dot = fma(theta_[user.scale + i], at(plan_.layers[layer.skip_user].s_bar + i), g_dot);
      }
      at(rows.s_bar + i) = fma(gamma(l, i), tangent(l, 0, i), g_dot * at(rows.d1 + i));
    });
    sync_block();
    const auto beta_dot = [&](int k) { return at(rows.s_bar + k); };
    if (l > 0) {
      product(layer.before, layer.width, theta_ + layer.weight, 1, layer.before, beta_dot,
              [&](int i, T sum) { at(plan_.layers[l - 1].tz + i) = sum; });
    }
    if (layer.input_weight >= 0) {
      product(d_, layer.width, theta_ + layer.input_weight, 1, d_, beta_dot,
              [&](int c, T sum) { at(plan_.y + c) += sum; });
    }
  }
  sync_block();
}

template <class T>
BRENIER_DEVICE void Tile<T>::second_order() {
  for (int l = 0; l < net_.depth; ++l) {
    const LayerView& layer = net_.layers[l];
    const LayerRows& rows = plan_.layers[l];
    product(
        layer.width, layer.before, theta_ + layer.weight, layer.before, 1,
        [&](int k) { return at(plan_.layers[l - 1].z2 + k); },
        [&](int i, T s2) {
          s2 += input_part(l, i, plan_.v);
          if (layer.skip >= 0) s2 = fma(theta_[layer.scale + i], at(plan_.layers[layer.skip].z2 + i), s2);
          T r = T(0);
          for (int k = 0; k < plan_.tangents; ++k) {
            const T weighted = weighted_tangent(l, k, i);
            at(rows.jm + k * layer.width + i) = weighted;
            r = fma(tangent(l, k, i), weighted, r);
          }
          const T d1 = at(rows.d1 + i);
          at(rows.s2 + i) = s2;
          at(rows.r + i) = r;
          at(rows.z2 + i) = fma(second_derivative(net_.activation, d1), r, d1 * s2);
        });
    sync_block();
  }
}

/// Adjoints of the tangents of layer l, and tz = sum_k zdot*_k J_k.
template <class T>
BRENIER_DEVICE void Tile<T>::reverse_tangents(int l) {
  const LayerView& layer = net_.layers[l];
  const LayerRows& rows = plan_.layers[l];
  const bool last = l + 1 == net_.depth;
  const int depth = last ? 0 : net_.layers[l + 1].width;
  for (int k = 0; k < plan_.tangents; ++k) {
    product(
        layer.width, depth, theta_ + (last ? 0 : net_.layers[l + 1].weight), 1, layer.width,
        [&](int i) { return at(plan_.layers[l + 1].j_bar + k * depth + i); },
        [&](int i, T z_bar) {
          if (layer.skip_user >= 0) {
            const T user = at(plan_.layers[layer.skip_user].j_bar + k * layer.width + i);
            z_bar = fma(theta_[net_.layers[layer.skip_user].scale + i], user, z_bar);
          }
          const T paired = z_bar * tangent(l, k, i);
          at(rows.tz + i) = k == 0 ? paired : at(rows.tz + i) + paired;
          at(rows.j_bar + k * layer.width + i) =
              fma(at(rows.d1 + i), z_bar, T(2) * gamma(l, i) * at(rows.jm + k * layer.width + i));
        });
  }
}

template <class T>
BRENIER_DEVICE void Tile<T>::reverse() {
  for (int l = net_.depth - 1; l >= 0; --l) {
    const LayerView& layer = net_.layers[l];
    const LayerRows& rows = plan_.layers[l];
    const bool last = l + 1 == net_.depth;
    const int depth = last ? 0 : net_.layers[l + 1].width;
    reverse_tangents(l);
    product(
        layer.width, depth, theta_ + (last ? 0 : net_.layers[l + 1].weight), 1, layer.width,
        [&](int i) { return at(plan_.layers[l + 1].s_bar + i); },
        [&](int i, T z_bar) {
          if (last) z_bar = at(plan_.seed_a) * theta_[net_.output_weight + i];
          if (layer.skip_user >= 0) {
            const T user = at(plan_.layers[layer.skip_user].s_bar + i);
            z_bar = fma(theta_[net_.layers[layer.skip_user].scale + i], user, z_bar);
          }
          const T d1 = at(rows.d1 + i);
          const T g = at(rows.g + i);
          T paired = g * at(rows.s2 + i);
          if (plan_.tangents > 0) paired += at(rows.tz + i);
          at(rows.s_bar + i) = d1 * z_bar + second_derivative(net_.activation, d1) * paired +
                               third_derivative(net_.activation, d1) * g * at(rows.r + i);
        });
    sync_block();
  }
}

template <class T>
BRENIER_DEVICE void Tile<T>::accumulate(T* partial) {
  const T* rows = rows_;
  const auto element = [rows](int row, int lane) { return rows[row * kRow + lane]; };
  const auto tangent_at = [&](int l, int k, int i, int lane) {
    if (l == 0 && plan_.directions == Directions::unit)
      return theta_[net_.layers[0].input_weight + i * d_ + k];
    return element(plan_.layers[l].j + k * net_.layers[l].width + i, lane);
  };
  const auto direction_at = [&](int k, int c, int lane) {
    return plan_.directions == Directions::unit ? (k == c ? T(1) : T(0))
                                                : element(plan_.q + k * d_ + c, lane);
  };
  for (int l = 0; l < net_.depth; ++l) {
    const LayerView& layer = net_.layers[l];
    const LayerRows& to = plan_.layers[l];
    const LayerRows& from = plan_.layers[l > 0 ? l - 1 : 0];
    const auto j_bar = [&](int k, int i, int lane) { return element(to.j_bar + k * layer.width + i, lane); };
    sum_lanes(partial + layer.weight, layer.width * layer.before, [&](int e, int lane) {
      const int i = e / layer.before;
      const int j = e % layer.before;
      T sum = element(to.s_bar + i, lane) * element(from.z + j, lane) +
              element(to.beta + i, lane) * element(from.z2 + j, lane);
      for (int k = 0; k < plan_.tangents; ++k) {
        sum = fma(j_bar(k, i, lane), element(from.d1 + j, lane) * tangent_at(l - 1, k, j, lane), sum);
      }
      return sum;
    });
    if (layer.input_weight >= 0) {
      sum_lanes(partial + layer.input_weight, layer.width * d_, [&](int e, int lane) {
        const int i = e / d_;
        const int c = e % d_;
        T sum = element(to.s_bar + i, lane) * element(plan_.x + c, lane) +
                element(to.beta + i, lane) * element(plan_.v + c, lane);
        for (int k = 0; k < plan_.tangents; ++k) sum = fma(j_bar(k, i, lane), direction_at(k, c, lane), sum);
        return sum;
      });
    }
    sum_lanes(partial + layer.bias, layer.width,
              [&](int i, int lane) { return element(to.s_bar + i, lane); });
    if (layer.skip >= 0) {
      const LayerRows& skip = plan_.layers[layer.skip];
      sum_lanes(partial + layer.scale, layer.width, [&](int i, int lane) {
        T sum = element(to.s_bar + i, lane) * element(skip.z + i, lane) +
                element(to.beta + i, lane) * element(skip.z2 + i, lane);
        for (int k = 0; k < plan_.tangents; ++k) {
          sum = fma(j_bar(k, i, lane), element(skip.d1 + i, lane) * tangent_at(layer.skip, k, i, lane), sum);
        }
        return sum;
      });
    }
  }
  const LayerRows& last = plan_.layers[net_.depth - 1];
  sum_lanes(partial + net_.output_weight, net_.layers[net_.depth - 1].width, [&](int i, int lane) {
    return fma(element(plan_.seed_a, lane), element(last.z + i, lane), element(last.z2 + i, lane));
  });
  sum_lanes(partial + net_.output_input, d_, [&](int c, int lane) {
    return fma(element(plan_.seed_a, lane), element(plan_.x + c, lane), element(plan_.v + c, lane));
  });
  sum_lanes(partial + net_.output_bias, 1, [&](int, int lane) { return element(plan_.seed_a, lane); });

  // K = a x x^T + v x^T + x v^T + 2 sum_kl M_kl q_k q_l^T: 1/2 trace(K) for alpha, B K for B.
  const auto outer = [&](int b, int c, int lane) {
    const T a = element(plan_.seed_a, lane);
    const T x_b = element(plan_.x + b, lane), x_c = element(plan_.x + c, lane);
    T entry = fma(a, x_b, element(plan_.v + b, lane)) * x_c + x_b * element(plan_.v + c, lane);
    if (plan_.directions == Directions::unit)
      entry += T(2) * element(plan_.metric + triangle_index(b, c), lane);
    for (int k = 0; k < plan_.count; ++k) {
      const int p = plan_.directions == Directions::pairs ? k + plan_.count : k;
      entry += direction_at(k, b, lane) * direction_at(p, c, lane) +
               direction_at(p, b, lane) * direction_at(k, c, lane);
    }
    return entry;
  };
  sum_lanes(partial + net_.alpha, 1, [&](int, int lane) {
    T trace = T(0);
    for (int c = 0; c < d_; ++c) trace += outer(c, c, lane);
    return trace / T(2);
  });
  sum_lanes(partial + net_.factor, net_.rank * d_, [&](int e, int lane) {
    T sum = T(0);
    for (int b = 0; b < d_; ++b)
      sum = fma(theta_[net_.factor + e / d_ * d_ + b], outer(b, e % d_, lane), sum);
    return sum;
  });
  sync_block();
}

}  // namespace brenier::cuda
