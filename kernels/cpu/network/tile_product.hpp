// SPDX-License-Identifier: MIT
// TileNet, products with the Hessian. Included by kernels/cpu/network/tile.hpp. With sigma'(s_l) and gamma_l = g_l
// sigma''(s_l) from forward() and adjoint(), one product is the tangent along p and the tangent of the
// adjoint sweep, all weights twice and no special function:
//
//     sdot_l = A_l p + W_l zdot_{l-1}             zdot_l = sigma' sdot_l
//     betadot_l = sigma' gdot_l + gamma_l sdot_l  gdot_{l-1} = W_l^T betadot_l
//     H p = (alpha I + B^T B) p + sum_l A_l^T betadot_l
#pragma once

#include "kernels/cpu/network/tile.hpp"

namespace brenier::cpu::BRENIER_ISA {

template <class T>
void TileNet<T>::hessian_vector(const T* p, T* out) {
  for (int l = 0; l < depth_; ++l) {
    LayerTile& t = layers_[l];
    if (t.input && l > 0) copy_rows(t.e_dot + t.before * kLanes, p, d_);
    T* z_dot = l + 1 < depth_ ? layers_[l + 1].e_dot : nullptr;
    const T* skipped = t.skip >= 0 ? layers_[t.skip + 1].e_dot : nullptr;
    // Leaves gamma sdot, the part of betadot that is known by now.
    const auto finish = [&](Index first, Index count) {
      if (skipped) {
        add_scaled_rows(t.s_dot + first * kLanes, t.scale + first, skipped + first * kLanes, count);
      }
      for (Index i = first * kLanes; i < (first + count) * kLanes; i += w) {
        const Vec<T> s_dot = load(t.s_dot + i);
        if (z_dot) store(z_dot + i, load(t.d1 + i) * s_dot);
        store(t.s_dot + i, load(t.gamma + i) * s_dot);
      }
    };
    gemm<T>(t.h, kLanes, t.e - 1, as_is<T>(t.w, t.e), l > 0 ? t.e_dot : p, kLanes, t.s_dot, kLanes, false,
            finish);
  }
  for (int l = depth_ - 1; l >= 0; --l) {
    LayerTile& t = layers_[l];
    if (t.input) {  // as the last layer has
      gemm<T>(d_, kLanes, t.h, transposed<T>(t.w + t.before, t.e), t.s_dot, kLanes, out, kLanes,
              l + 1 < depth_);
    }
    if (l == 0) break;
    LayerTile& below = layers_[l - 1];
    const auto finish = [&](Index first, Index count) {
      if (below.skip_user >= 0) {
        const LayerTile& user = layers_[below.skip_user];
        add_scaled_rows(temp_ + first * kLanes, user.scale + first, user.s_dot + first * kLanes, count);
      }
      for (Index i = first * kLanes; i < (first + count) * kLanes; i += w) {
        store(below.s_dot + i, load(below.s_dot + i) + load(below.d1 + i) * load(temp_ + i));
      }
    };
    gemm<T>(t.before, kLanes, t.h, transposed<T>(t.w, t.e), t.s_dot, kLanes, temp_, kLanes, false, finish);
  }
  add_quadratic_product(p, out);
}

/// out += (alpha I + B^T B) p, as a sum of its own: where the map is near the identity this is the large
/// part of H p, and the terms of the network must not be rounded to its digits one by one.
template <class T>
void TileNet<T>::add_quadratic_product(const T* p, T* out) {
  const T alpha = theta_[net_.alpha()];
  if (rank_ == 0) {
    for (Index i = 0; i < d_ * kLanes; i += w) store(out + i, load(out + i) + alpha * load(p + i));
    return;
  }
  if (dense()) {
    gemm<T>(d_, kLanes, d_, as_is<T>(quadratic_, d_), p, kLanes, temp_, kLanes);
  } else {
    const T* b = theta_ + net_.factor();
    gemm<T>(rank_, kLanes, d_, as_is<T>(b, d_), p, kLanes, projection_, kLanes);
    gemm<T>(d_, kLanes, rank_, transposed<T>(b, d_), projection_, kLanes, temp_, kLanes);
    for (Index i = 0; i < d_ * kLanes; i += w) store(temp_ + i, load(temp_ + i) + alpha * load(p + i));
  }
  for (Index i = 0; i < d_ * kLanes; i += w) store(out + i, load(out + i) + load(temp_ + i));
}

}  // namespace brenier::cpu::BRENIER_ISA
