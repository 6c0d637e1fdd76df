// SPDX-License-Identifier: MIT
// One Adam update of one parameter (Kingma and Ba, ICLR 2015, Algorithm 1), then the clamp that keeps u
// convex.
#pragma once

#include <cmath>

#include "brenier/base/portable.hpp"
#include "brenier/options.hpp"

namespace brenier {

/// Rate of iteration k (from 0) of n.
BRENIER_HOST_DEVICE inline double rate_at(const AdamOptions& o, int k, int n) {
  const double phase = n > 1 ? double(k) / (n - 1) : 0.0;
  return o.rate *
         (o.final_fraction + (1 - o.final_fraction) * 0.5 * (1 + std::cos(3.14159265358979323846 * phase)));
}

/// Constants of one iteration, k counted from 0.
template <class T>
struct AdamStep {
  T rate = 0, beta1 = 0, beta2 = 0, epsilon = 0, correction1 = 0, correction2 = 0;

  AdamStep() = default;
  BRENIER_HOST_DEVICE AdamStep(const AdamOptions& o, int k, int n)
      : rate(static_cast<T>(rate_at(o, k, n))),
        beta1(static_cast<T>(o.beta1)),
        beta2(static_cast<T>(o.beta2)),
        epsilon(static_cast<T>(o.epsilon)),
        correction1(static_cast<T>(1 / (1 - std::pow(o.beta1, k + 1)))),
        correction2(static_cast<T>(1 / (1 - std::pow(o.beta2, k + 1)))) {}

  /// `factor` of the rate, 0 where a parameter is not updated.
  BRENIER_HOST_DEVICE void update(T& theta, T& m, T& v, T gradient, T lower, T factor) const {
    m = beta1 * m + (T(1) - beta1) * gradient;
    v = beta2 * v + (T(1) - beta2) * gradient * gradient;
    const T moved = theta - factor * rate * (m * correction1) / (std::sqrt(v * correction2) + epsilon);
    theta = moved > lower ? moved : lower;
  }
};

/// True where an update of `theta` along -gradient is stopped by its lower bound.
template <class T>
BRENIER_HOST_DEVICE bool held_by_bound(T theta, T lower, double gradient) {
  return theta <= lower && gradient > 0;
}

/// What of a gradient moves its parameter: nothing of one that is held by its bound, or has no rate.
template <class T>
BRENIER_HOST_DEVICE double moving_part(T theta, T lower, T rate, double gradient) {
  return rate == T(0) || held_by_bound(theta, lower, gradient) ? 0.0 : gradient;
}

}  // namespace brenier
