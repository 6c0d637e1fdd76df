// SPDX-License-Identifier: MIT
// Cholesky factorisation of small symmetric matrices, one per lane, in double precision whatever T is.
#pragma once

#include "kernels/cpu/network/tile.hpp"

namespace brenier::cpu::BRENIER_ISA {

/// Doubles that factorise() needs as work space.
inline Index factor_workspace(Index d) {
  return triangle(d) * kWidth<double>;
}

template <class T>
inline Vec<double> load_as_double(const T* p) {
  Vec<double> v;
  for (int i = 0; i < kWidth<double>; ++i) v[i] = static_cast<double>(p[i]);
  return v;
}

/// log_det (64) of the matrices h (triangle(d), 64), and their inverses (triangle(d), 64) where not null.
/// NaN in the lanes whose matrix is not positive definite.
template <class T>
void factorise(Index d, const T* h, double* log_det, T* inverse, double* workspace) {
  constexpr int wd = kWidth<double>;
  const auto at = [&](Index i, Index j) { return workspace + triangle_index(j, i) * wd; };  // j <= i
  for (int part = 0; part < kLanes; part += wd) {
    Vec<double> sum = {};
    for (Index i = 0; i < d; ++i) {  // H = L L^T by rows; the diagonal of L is kept as its reciprocal
      for (Index j = 0; j <= i; ++j) {
        Vec<double> entry = load_as_double(h + triangle_index(j, i) * kLanes + part);
        for (Index k = 0; k < j; ++k) entry -= load<double>(at(i, k)) * load<double>(at(j, k));
        if (j < i) {
          store<double>(at(i, j), entry * load<double>(at(j, j)));
        } else {
          sum += log<double>(entry);
          store<double>(at(i, i), 1.0 / sqrt<double>(entry));
        }
      }
    }
    store<double>(log_det + part, sum);
    if (!inverse) continue;
    for (Index j = 0; j < d; ++j) {  // L^{-1} in place, column by column
      for (Index i = j + 1; i < d; ++i) {
        Vec<double> entry = {};
        for (Index k = j; k < i; ++k) entry -= load<double>(at(i, k)) * load<double>(at(k, j));
        store<double>(at(i, j), entry * load<double>(at(i, i)));
      }
    }
    for (Index b = 0; b < d; ++b) {  // H^{-1} = L^{-T} L^{-1}
      for (Index a = 0; a <= b; ++a) {
        Vec<double> entry = {};
        for (Index k = b; k < d; ++k) entry += load<double>(at(k, a)) * load<double>(at(k, b));
        T* out = inverse + triangle_index(a, b) * kLanes + part;
        for (int i = 0; i < wd; ++i) out[i] = static_cast<T>(entry[i]);
      }
    }
  }
}

}  // namespace brenier::cpu::BRENIER_ISA
