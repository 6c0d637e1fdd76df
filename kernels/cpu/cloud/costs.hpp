// SPDX-License-Identifier: MIT
// Costs |x - y|^2 / 2 between the points of two clouds on the cpu, in blocks of 64 x 64.
#pragma once

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "kernels/cpu/network/gemm.hpp"
#include "kernels/cpu/parallel.hpp"

namespace brenier::cpu::BRENIER_ISA {

/// Whether an element is above `limit`; false for NaN.
template <class T>
inline bool any_above(Vec<T> v, T limit) {
#if BRENIER_VECTOR_BYTES == 64 && defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) {
    return _mm512_cmp_ps_mask(__m512(v), _mm512_set1_ps(limit), _CMP_GT_OQ) != 0;
  } else {
    return _mm512_cmp_pd_mask(__m512d(v), _mm512_set1_pd(limit), _CMP_GT_OQ) != 0;
  }
#elif BRENIER_VECTOR_BYTES == 32 && defined(__AVX__)
  const VecInt<T> above = v > limit;
  if constexpr (sizeof(T) == 4) return _mm256_movemask_ps(__m256(above)) != 0;
  if constexpr (sizeof(T) == 8) return _mm256_movemask_pd(__m256d(above)) != 0;
#else
  bool any = false;
  for (int i = 0; i < kWidth<T>; ++i) any = any | (v[i] > limit);
  return any;
#endif
}

/// A cloud as costs want it. Padding has the coordinates 0 and the weight 0.
template <class T>
struct CostPoints {
  Index n, d, tiles;
  Index ld;         // of `rows`: d up to the next whole vector
  T* rows;          // (64 tiles, ld)
  T* panels;        // (tiles, d, 64)
  T* half;          // (64 tiles): |x|^2 / 2
  T* weights;       // (64 tiles)
  double* largest;  // (tiles): of |x|^2 / 2

  CostPoints(Index n_in, Index d_in, Carver& carver)
      : n(n_in),
        d(d_in),
        tiles(tiles_of(n_in)),
        ld((d_in + kWidth<T> - 1) / kWidth<T> * kWidth<T>),
        rows(carver.take<T>(tiles * kLanes * ld)),
        panels(carver.take<T>(tiles * kLanes * d)),
        half(carver.take<T>(tiles * kLanes)),
        weights(carver.take<T>(tiles * kLanes)),
        largest(carver.take<double>(tiles)) {}

  int count(Index tile) const {
    const Index left = n - tile * kLanes;
    return static_cast<int>(left < kLanes ? left : kLanes);
  }

  /// Points of a tile: at(i, c) is coordinate c of point i, in double, and weight(i) its weight.
  template <class At, class Weight>
  void set_tile(Index tile, const At& at, const Weight& weight) {
    largest[tile] = 0;
    for (int lane = 0; lane < count(tile); ++lane) {
      const Index i = tile * kLanes + lane;
      double square = 0;
      for (Index c = 0; c < d; ++c) {
        const T value = static_cast<T>(at(i, c));
        rows[i * ld + c] = value;
        panels[(tile * d + c) * kLanes + lane] = value;
        square += static_cast<double>(value) * static_cast<double>(value);
      }
      half[i] = static_cast<T>(square / 2);
      weights[i] = static_cast<T>(weight(i));
      if (!(square / 2 <= largest[tile])) largest[tile] = square / 2;
    }
  }

  double largest_half_square() const {
    double most = 0;
    for (Index tile = 0; tile < tiles; ++tile) most = largest[tile] > most ? largest[tile] : most;
    return most;
  }
  T least_weight() const {
    T least = weights[0];
    for (Index i = 1; i < n; ++i) least = weights[i] < least ? weights[i] : least;
    return least;
  }
};

/// |x_i - y_j|^2 / 2 by differences: exact to rounding also where the two are close.
template <class T>
inline T cost_of(const CostPoints<T>& x, Index i, const CostPoints<T>& y, Index j) {
  const T* a = x.rows + i * x.ld;
  const T* b = y.rows + j * y.ld;
  Vec<T> sum = {};
  for (Index c = 0; c < x.ld; c += kWidth<T>) {
    const Vec<T> z = load(a + c) - load(b + c);
    sum += z * z;
  }
  return sum_of<T>(sum) / 2;
}

/// A product x.y decides the cost where that is at least this part of |x|^2/2 + |y|^2/2; a smaller one is
/// computed from differences, so that every cost has a small relative error.
inline constexpr int kNear = 16;

/// out (64, 64) = f_i + g_j - |x_i - y_j|^2 / 2 for tiles of x and y; f (64 tiles of x) and g may be null
/// for 0.
template <class T>
void cost_block(const CostPoints<T>& x, Index x_tile, const CostPoints<T>& y, Index y_tile, const double* f,
                const double* g, T* out, Index ld) {
  constexpr int w = kWidth<T>;
  const Index i0 = x_tile * kLanes, j0 = y_tile * kLanes;
  const T* panel = y.panels + y_tile * y.d * kLanes;
  if (x.d <= 3) {
    for (int i = 0; i < kLanes; ++i) {
      const T* row = x.rows + (i0 + i) * x.ld;
      const double fi = f ? f[i0 + i] : 0;
      for (int j = 0; j < kLanes; j += w) {
        Vec<T> square = {};
        for (Index c = 0; c < x.d; ++c) {
          const Vec<T> z = row[c] - load(panel + c * kLanes + j);
          square += z * z;
        }
        Vec<T> sum;
        for (int l = 0; l < w; ++l) sum[l] = static_cast<T>(fi + (g ? g[j0 + j + l] : 0));
        store(out + i * ld + j, sum - square * T(0.5));
      }
    }
    return;
  }
  gemm<T>(kLanes, kLanes, x.d, as_is(x.rows + i0 * x.ld, x.ld), panel, kLanes, out, ld);
  alignas(64) T beta[kLanes];
  for (int j = 0; j < kLanes; ++j) {
    beta[j] = static_cast<T>((g ? g[j0 + j] : 0) - static_cast<double>(y.half[j0 + j]));
  }
  constexpr T share = T(1) - T(1) / kNear;
  for (int i = 0; i < kLanes; ++i) {
    const T here = x.half[i0 + i];
    const double fi = f ? f[i0 + i] : 0;
    const T alpha = static_cast<T>(fi - static_cast<double>(here));
    for (int j = 0; j < kLanes; j += w) {
      T* entry = out + i * ld + j;
      const Vec<T> product = load(entry);
      const Vec<T> excess = product - share * (here + load(y.half + j0 + j));
      store(entry, (alpha + load(beta + j)) + product);
      if (!any_above<T>(excess, T(0))) continue;
      for (int l = 0; l < w; ++l) {
        if (!(excess[l] > T(0))) continue;
        const double cost = static_cast<double>(cost_of(x, i0 + i, y, j0 + j + l));
        entry[l] = static_cast<T>(fi + (g ? g[j0 + j + l] : 0) - cost);
      }
    }
  }
}

}  // namespace brenier::cpu::BRENIER_ISA
