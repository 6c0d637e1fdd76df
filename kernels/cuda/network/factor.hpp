// SPDX-License-Identifier: MIT
// Elements, second part: log det H and H^{-1} by Cholesky factorisation in double. Included by
// kernels/cuda/network/elements.hpp.
//
//   d <= kRegisterDim   one thread a particle, everything in registers
//   beyond              one warp a particle: lanes are rows of L, then columns of L^{-1}; L (packed by
//                       rows) and L^{-1} (d, d) lie in the double workspace
#pragma once

#include "kernels/cuda/network/elements.hpp"

namespace brenier::cuda {

template <class T, class Rows>
template <int kDim, class Weight>
BRENIER_DEVICE void Elements<T, Rows>::factorise_by_thread(int p, bool inverse, const Weight& weight) const {
  double low[kDim][kDim];  // the diagonal of L as its reciprocal
  double sum = 0;
  BRENIER_UNROLL
  for (int i = 0; i < kDim; ++i) {
    BRENIER_UNROLL
    for (int j = 0; j <= i; ++j) {
      double entry = static_cast<double>(hessian_element(j, i, p));
      BRENIER_UNROLL
      for (int k = 0; k < j; ++k) entry -= low[i][k] * low[j][k];
      if (j < i) {
        low[i][j] = entry * low[j][j];
      } else {
        sum += log(entry);
        low[i][i] = 1.0 / sqrt(entry);
      }
    }
  }
  log_det(p) = sum;
  if (!inverse) return;
  BRENIER_UNROLL
  for (int j = 0; j < kDim; ++j) {  // L^{-1} in place, column by column
    BRENIER_UNROLL
    for (int i = j + 1; i < kDim; ++i) {
      double entry = 0;
      BRENIER_UNROLL
      for (int k = j; k < i; ++k) entry -= low[i][k] * low[k][j];
      low[i][j] = entry * low[i][i];
    }
  }
  const double scale = weight(p, sum);
  BRENIER_UNROLL
  for (int b = 0; b < kDim; ++b) {  // H^{-1} = L^{-T} L^{-1}
    BRENIER_UNROLL
    for (int a = 0; a <= b; ++a) {
      double entry = 0;
      BRENIER_UNROLL
      for (int k = b; k < kDim; ++k) entry += low[k][a] * low[k][b];
      at(plan_.metric + triangle_index(a, b), p) = static_cast<T>(scale * entry);
    }
  }
}

template <class T, class Rows>
template <class Weight>
BRENIER_DEVICE void Elements<T, Rows>::factorise_by_warp(int p, bool inverse, const Weight& weight) const {
  const int s = triangle(d_);
  double* low = doubles_ + plan_.log_det_doubles + Index{p} * (s + d_ * d_);
  double* inv = low + s;  // inv[k * d + c] = L^{-1}(k, c), 0 above the diagonal
  double sum = 0;
  for (int j = 0; j < d_; ++j) {
    // Column j: each lane takes rows j + lane, j + lane + 32, ...; lane 0 has the pivot.
    double column = 0, pivot = 0;
    for (int first = j; first < d_; first += 32) {
      const int i = first + lane();
      double entry = 0;
      if (i < d_) {
        entry = static_cast<double>(hessian_element(j, i, p));
        for (int k = 0; k < j; ++k) entry -= low[triangle_index(k, i)] * low[triangle_index(k, j)];
      }
      if (first == j) {
        pivot = shuffle(entry, 0);
        column = 1.0 / sqrt(pivot);
      }
      if (i < d_) low[triangle_index(j, i)] = i == j ? column : entry * column;
    }
    sum += log(pivot);
    sync_warp();
  }
  if (lane() == 0) log_det(p) = sum;
  if (!inverse) return;
  for (int c = lane(); c < d_; c += 32) {
    for (int k = 0; k < c; ++k) inv[k * d_ + c] = 0;
    inv[c * d_ + c] = low[triangle_index(c, c)];
    for (int i = c + 1; i < d_; ++i) {
      double entry = 0;
      for (int k = c; k < i; ++k) entry -= low[triangle_index(k, i)] * inv[k * d_ + c];
      inv[i * d_ + c] = entry * low[triangle_index(i, i)];
    }
  }
  double scale = 0;
  if (lane() == 0) scale = weight(p, sum);
  scale = shuffle(scale, 0);
  sync_warp();
  for (int e = lane(); e < s; e += 32) {
    const int b = triangle_column(e);
    const int a = e - triangle(b);
    double entry = 0;
    for (int k = b; k < d_; ++k) entry += inv[k * d_ + a] * inv[k * d_ + b];
    at(plan_.metric + e, p) = static_cast<T>(scale * entry);
  }
}

template <class T, class Rows>
template <class Weight>
BRENIER_DEVICE void Elements<T, Rows>::factorise(bool inverse, const Weight& weight, int thread,
                                                 int threads) const {
  const int n = rows_.particles();
  if (d_ > kRegisterDim) {
    for (int p = thread / 32; p < n; p += threads / 32) factorise_by_warp(p, inverse, weight);
    return;
  }
  if (thread >= n) return;
  switch (d_) {
    case 1:
      return factorise_by_thread<1>(thread, inverse, weight);
    case 2:
      return factorise_by_thread<2>(thread, inverse, weight);
    case 3:
      return factorise_by_thread<3>(thread, inverse, weight);
    default:
      return factorise_by_thread<4>(thread, inverse, weight);
  }
}

}  // namespace brenier::cuda
