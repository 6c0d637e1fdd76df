// SPDX-License-Identifier: MIT
// Activations of the cpu backend: sigma and sigma' of vectors. What follows from sigma' is in
// brenier/model/activation.hpp.
#pragma once

#include "brenier/model/activation.hpp"
#include "kernels/cpu/simd.hpp"

namespace brenier::cpu::BRENIER_ISA {

/// Vectors that activate() takes at a time; divides the vectors of a row.
#if BRENIER_VECTOR_BYTES >= 32
inline constexpr int kBatch = 4;
#else
inline constexpr int kBatch = 2;
#endif

template <class T>
struct Root {
  Vec<T> operator()(Vec<T> x) const { return sqrt<T>(x); }
};

/// sigma and sigma' of several vectors side by side.
template <class T>
inline void evaluate(Softplus, const Vec<T> (&s)[kBatch], Vec<T> (&value)[kBatch], Vec<T> (&d1)[kBatch]) {
  softplus_sigmoid<T, kBatch>(s, value, d1);
}
template <class T>
inline void evaluate(Squareplus, const Vec<T> (&s)[kBatch], Vec<T> (&value)[kBatch], Vec<T> (&d1)[kBatch]) {
#pragma GCC unroll 4
  for (int n = 0; n < kBatch; ++n) {
    const Vec<T> root = sqrt<T>(s[n] * s[n] + T(4));
    const Vec<T> big = (abs<T>(s[n]) + root) * T(0.5);
    const Vec<T> q = T(1) / root;
    value[n] = s[n] < Vec<T>{} ? T(1) / big : big;
    // (1 + s/root)/2 without cancellation for s < 0: root + s = 2/big there.
    d1[n] = s[n] < Vec<T>{} ? q / big : q * big;
  }
}

template <class T>
inline void evaluate(const LeakySoftplus<T>& sigma, const Vec<T> (&s)[kBatch], Vec<T> (&value)[kBatch],
                     Vec<T> (&d1)[kBatch]) {
  softplus_sigmoid<T, kBatch>(s, value, d1);
#pragma GCC unroll 4
  for (int n = 0; n < kBatch; ++n) {
    value[n] = sigma.slope * s[n] + sigma.rest * value[n];
    d1[n] = sigma.slope + sigma.rest * d1[n];
  }
}

/// sigma' alone.
template <class T>
inline Vec<T> slope(Softplus, Vec<T> s) {
  return sigmoid<T>(s);
}
template <class T>
inline Vec<T> slope(Squareplus, Vec<T> s) {
  const Vec<T> root = sqrt<T>(s * s + T(4));
  const Vec<T> big = (abs<T>(s) + root) * T(0.5);
  const Vec<T> q = T(1) / root;
  return s < Vec<T>{} ? q / big : q * big;
}

template <class T>
inline Vec<T> slope(const LeakySoftplus<T>& sigma, Vec<T> s) {
  return sigma.slope + sigma.rest * sigmoid<T>(s);
}

template <class T>
inline Vec<T> slope(const LeakyRelu<T>& sigma, Vec<T> s) {
  return s > Vec<T>{} ? broadcast(T(1)) : s <= Vec<T>{} ? broadcast(sigma.slope) : s;
}
template <class T>
inline void evaluate(const LeakyRelu<T>& sigma, const Vec<T> (&s)[kBatch], Vec<T> (&value)[kBatch],
                     Vec<T> (&d1)[kBatch]) {
#pragma GCC unroll 4
  for (int n = 0; n < kBatch; ++n) {
    value[n] = s[n] > Vec<T>{} ? s[n] : sigma.slope * s[n];
    d1[n] = slope<T>(sigma, s[n]);
  }
}

template <class T>
inline Vec<T> slope(const SquaredLeakyRelu<T>& sigma, Vec<T> s) {
  return sigma.second(s, Root<T>()) * s;  // sigma'' has the sides of s as well as those of sigma'
}
template <class T>
inline void evaluate(const SquaredLeakyRelu<T>& sigma, const Vec<T> (&s)[kBatch], Vec<T> (&value)[kBatch],
                     Vec<T> (&d1)[kBatch]) {
#pragma GCC unroll 4
  for (int n = 0; n < kBatch; ++n) {
    d1[n] = slope<T>(sigma, s[n]);
    value[n] = T(0.5) * d1[n] * s[n];
  }
}

/// sigma and sigma' of kBatch vectors, stored.
template <class T, class Sigma>
inline void activate(const Sigma& sigma, const Vec<T> (&s)[kBatch], T* value, T* slope) {
  Vec<T> v[kBatch], d1[kBatch];
  evaluate<T>(sigma, s, v, d1);
#pragma GCC unroll 4
  for (int n = 0; n < kBatch; ++n) {
    store(value + n * kWidth<T>, v[n]);
    store(slope + n * kWidth<T>, d1[n]);
  }
}

template <class T, class Sigma>
inline Vec<T> second_derivative(const Sigma& sigma, Vec<T> d1) {
  return sigma.second(d1, Root<T>());
}
template <class T, class Sigma>
inline Vec<T> third_derivative(const Sigma& sigma, Vec<T> d1) {
  return sigma.third(d1, Root<T>());
}

}  // namespace brenier::cpu::BRENIER_ISA
