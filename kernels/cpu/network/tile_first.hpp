// SPDX-License-Identifier: MIT
// TileNet, the first layer in dimensions up to 3, where it is cheaper to recompute than to store. Included by
// kernels/cpu/network/tile.hpp. One row of the layer is one hidden unit; with a = A_0[i, :] and per particle
//
//     s = a.x + b     J = a      r = a^T M a      sddot = a.v
//
// all but sigma(s), sigma'(s) and what comes back from layer 1 is a handful of multiplications.
#pragma once

#include "kernels/cpu/network/tile.hpp"

namespace brenier::cpu::BRENIER_ISA {

template <class T>
template <int D, class Sigma>
void TileNet<T>::first_forward(const Sigma& sigma) {
  LayerTile& t = layers_[0];
  T* z = layers_[1].e1;
  for (Index i = 0; i < t.h; ++i) {
    const T* a = t.w + i * (D + 1);
    for (int part = 0; part < kLanes; part += kBatch * w) {
      Vec<T> s[kBatch];
#pragma GCC unroll 4
      for (int n = 0; n < kBatch; ++n) {
        s[n] = broadcast(a[D]);
        for (int c = 0; c < D; ++c) s[n] += a[c] * load(x_ + c * kLanes + part + n * w);
      }
      activate<T>(sigma, s, z + i * kLanes + part, t.d1 + i * kLanes + part);
    }
  }
}

/// Adds A_0^T beta to the displacement and A_0^T diag(gamma) A_0 to the Hessian, for some rows of g_0.
template <class T>
template <int D, class Sigma>
void TileNet<T>::first_adjoint(const Sigma& sigma, Index first, Index count) {
  const LayerTile& t = layers_[0];
  constexpr int S = D * (D + 1) / 2;
  for (int part = 0; part < kLanes; part += w) {
    Vec<T> y[D], h[S] = {};
    for (int c = 0; c < D; ++c) y[c] = load(displacement_ + c * kLanes + part);
    for (Index i = first; i < first + count; ++i) {
      const T* a = t.w + i * (D + 1);
      const Vec<T> g = load(t.g + i * kLanes + part);
      const Vec<T> d1 = load(t.d1 + i * kLanes + part);
      const Vec<T> beta = g * d1;
      for (int c = 0; c < D; ++c) y[c] += a[c] * beta;
      if (!structured_) continue;
      const Vec<T> gamma = g * second_derivative<T>(sigma, d1);
      for (int k = 0; k < S; ++k) h[k] += p_[i * S + k] * gamma;
    }
    for (int c = 0; c < D; ++c) store(displacement_ + c * kLanes + part, y[c]);
    for (int k = 0; structured_ && k < S; ++k) {
      T* row = hessian_ + k * kLanes + part;
      store(row, load(row) + h[k]);
    }
  }
}

/// zddot_0 = sigma' a.v + sigma'' a^T M a.
template <class T>
template <int D, class Sigma>
void TileNet<T>::first_second_order(const Sigma& sigma, const T* v) {
  const LayerTile& t = layers_[0];
  constexpr int S = D * (D + 1) / 2;
  T* z2 = layers_[1].e2;
  for (Index i = 0; i < t.h; ++i) {
    const T* a = t.w + i * (D + 1);
    for (int part = 0; part < kLanes; part += w) {
      const Vec<T> d1 = load(t.d1 + i * kLanes + part);
      Vec<T> s2 = {}, r = {};
      for (int c = 0; c < D; ++c) s2 += a[c] * load(v + c * kLanes + part);
      for (int k = 0; structured_ && k < S; ++k) r += p_[i * S + k] * load(metric2_ + k * kLanes + part);
      Vec<T> value = d1 * s2;
      if (structured_) value += second_derivative<T>(sigma, d1) * r;
      store(z2 + i * kLanes + part, value);
    }
  }
}

/// s* of some rows, straight into the gradients of A_0, b_0 and P.
template <class T>
template <int D, class Sigma>
void TileNet<T>::first_reverse(const Sigma& sigma, const T* v, Index first, Index count) {
  LayerTile& t = layers_[0];
  constexpr int S = D * (D + 1) / 2;
  const T* z_bar = layers_[1].z_bar;
  for (Index i = first; i < first + count; ++i) {
    const T* a = t.w + i * (D + 1);
    T* grad = t.grad + i * (D + 1) * w;
    T* grad_p = grad_p_ + i * S * w;
    Vec<T> sum[D + 1] = {}, sum_p[S] = {};
    for (int part = 0; part < kLanes; part += w) {
      const Index at = i * kLanes + part;
      const Vec<T> d1 = load(t.d1 + at);
      const Vec<T> g = load(t.g + at);
      const Vec<T> d2 = second_derivative<T>(sigma, d1);
      const Vec<T> beta = g * d1;
      Vec<T> s2 = {};
      for (int c = 0; c < D; ++c) {
        const Vec<T> velocity = load(v + c * kLanes + part);
        s2 += a[c] * velocity;
        sum[c] += beta * velocity;
      }
      Vec<T> s_bar = d1 * load(z_bar + at);
      Vec<T> paired = g * s2;
      if (structured_) {
        const Vec<T> gamma = g * d2;
        Vec<T> r = {};
        for (int k = 0; k < S; ++k) {
          const Vec<T> metric = load(metric2_ + k * kLanes + part);
          r += p_[i * S + k] * metric;
          sum_p[k] += gamma * metric;
        }
        paired += load(t.tz + at);
        s_bar += third_derivative<T>(sigma, d1) * g * r;
      }
      s_bar += d2 * paired;
      for (int c = 0; c < D; ++c) sum[c] += s_bar * load(x_ + c * kLanes + part);
      sum[D] += s_bar;
    }
    for (int c = 0; c <= D; ++c) accumulate(grad + c * w, sum[c]);
    for (int k = 0; structured_ && k < S; ++k) accumulate(grad_p + k * w, sum_p[k]);
  }
}

}  // namespace brenier::cpu::BRENIER_ISA
