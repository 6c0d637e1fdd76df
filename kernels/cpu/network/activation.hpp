// SPDX-License-Identifier: MIT
// Activation functions of the cpu backend, with the derivatives that the jet needs.
#pragma once

#include "brenier/model/icnn.hpp"
#include "kernels/cpu/simd.hpp"

namespace brenier::cpu::BRENIER_ISA {

/// Vectors that activate() takes at a time; divides the vectors of a row.
#if BRENIER_VECTOR_BYTES == 64
inline constexpr int kBatch = 4;
#else
inline constexpr int kBatch = 2;
#endif

/// sigma and sigma' of kBatch vectors; the other derivatives are functions of sigma'.
template <Activation kind, class T>
inline void activate(const Vec<T> (&s)[kBatch], T* value, T* slope) {
  Vec<T> v[kBatch], d1[kBatch];
  if constexpr (kind == Activation::softplus) {
    softplus_sigmoid<T, kBatch>(s, v, d1);
  } else {
#pragma GCC unroll 4
    for (int n = 0; n < kBatch; ++n) {
      const Vec<T> root = sqrt<T>(s[n] * s[n] + T(4));
      const Vec<T> big = (abs<T>(s[n]) + root) * T(0.5);
      const Vec<T> q = T(1) / root;
      v[n] = s[n] < Vec<T>{} ? T(1) / big : big;
      // (1 + s/root)/2 without cancellation for s < 0: root + s = 2/big there.
      d1[n] = s[n] < Vec<T>{} ? q / big : q * big;
    }
  }
#pragma GCC unroll 4
  for (int n = 0; n < kBatch; ++n) {
    store(value + n * kWidth<T>, v[n]);
    store(slope + n * kWidth<T>, d1[n]);
  }
}
template <Activation kind, class T>
inline Vec<T> second_derivative(Vec<T> d1) {
  const Vec<T> d2 = d1 * (T(1) - d1);
  if constexpr (kind == Activation::softplus) return d2;
  return T(2) * d2 * sqrt<T>(d2);
}
template <Activation kind, class T>
inline Vec<T> third_derivative(Vec<T> d1) {
  const Vec<T> d2 = d1 * (T(1) - d1);
  const Vec<T> slope = T(1) - T(2) * d1;
  if constexpr (kind == Activation::softplus) return d2 * slope;
  return T(6) * d2 * d2 * slope;
}

/// Calls f<kind>(), so that loops over elements are compiled for one activation.
template <class F>
inline void with_activation(Activation kind, const F& f) {
  if (kind == Activation::softplus) {
    f.template operator()<Activation::softplus>();
  } else {
    f.template operator()<Activation::squareplus>();
  }
}

}  // namespace brenier::cpu::BRENIER_ISA
