// SPDX-License-Identifier: MIT
// The weight of log det H in the surrogate -E[w log det H] of an internal energy, w(xi) = f'(xi) - f(xi)/xi
// (the paper's Table 3), from log xi: in double, since a density may be beyond the range of float.
#pragma once

#include "brenier/base/portable.hpp"
#include "brenier/model/objective.hpp"

namespace brenier {

/// w where the form has a formula, and else xi, the argument of the program `surrogate`. For numbers and for
/// vectors of them; `math` has their exponential.
template <class V, class Math>
BRENIER_HOST_DEVICE inline V surrogate_weight(InternalTerm::Form form, double exponent, V log_xi,
                                              const Math& math) {
  switch (form) {
    case InternalTerm::Form::entropy:
      return V{} + 1;
    case InternalTerm::Form::power:
      return math.exp((exponent - 1) * log_xi);
    case InternalTerm::Form::general:
      return math.exp(log_xi);
  }
  __builtin_unreachable();
}

/// Whether w is what the program gives at xi. Not where the density vanishes, f' - f/t may be 0/0 there: no
/// mass, no weight.
BRENIER_HOST_DEVICE inline bool surrogate_is_program(InternalTerm::Form form, double xi) {
  return form == InternalTerm::Form::general && xi != 0;
}

}  // namespace brenier
