// SPDX-License-Identifier: MIT
// Distribution functions and their inverses, to double accuracy in both tails.
#pragma once

namespace brenier {

/// P(Z <= z) of a standard normal, or P(Z > z) where `upper`.
double normal_tail(double z, bool upper);

/// The z with P(Z <= z) = p, or P(Z > z) = p where `upper`; 0 < p < 1.
/// Wichura's AS 241 (Applied Statistics 37, 1988) with one step of Halley's method on erfc.
double normal_quantile(double p, bool upper = false);

/// The Beta(a, b) law on [0, 1]; a, b > 0.
class BetaLaw {
 public:
  BetaLaw(double a, double b);

  /// P(X <= x), or P(X > x) where `upper`; 0 <= x <= 1.
  double tail(double x, bool upper) const;

  /// The x with P(X <= x) = p; 0 <= p <= 1.
  double quantile(double p) const;

 private:
  double a_, b_, log_beta_;
};

}  // namespace brenier
