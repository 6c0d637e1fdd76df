// SPDX-License-Identifier: MIT
// Elementary functions for formulas that stand once for numbers and for vectors of them: backends hand in
// these or their own.
#pragma once

#include <cmath>

#include "brenier/base/portable.hpp"

namespace brenier {

struct NumberMath {
  template <class T>
  BRENIER_HOST_DEVICE T exp(T x) const {
    return std::exp(x);
  }
  /// Of x <= 0.
  template <class T>
  BRENIER_HOST_DEVICE T exp_nonpositive(T x) const {
    return std::exp(x);
  }
  template <class T>
  BRENIER_HOST_DEVICE T sqrt(T x) const {
    return std::sqrt(x);
  }
};

}  // namespace brenier
