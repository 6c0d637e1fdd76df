// SPDX-License-Identifier: MIT
// What the tiles of all backends say of second-order terms.
#pragma once

#include "brenier/base/portable.hpp"

namespace brenier {

/// Which second-order terms of the jet a tile carries.
enum class Directions : int {
  none,    // a and v only
  unit,    // K = d unit vectors with a symmetric metric per particle; also gives the Hessian
  single,  // K given directions q, each paired with itself
  pairs,   // K given directions q and K partners p: 2K tangents
};

/// Elements of the upper triangle of a (d, d) matrix, and the place of (a, b) in it, in either order.
template <class I>
BRENIER_HOST_DEVICE constexpr I triangle(I d) {
  return d * (d + 1) / 2;
}
template <class A, class B>
BRENIER_HOST_DEVICE constexpr auto triangle_index(A a, B b) {
  return a <= b ? b * (b + 1) / 2 + a : a * (a + 1) / 2 + b;
}

}  // namespace brenier
