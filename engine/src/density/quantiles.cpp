// SPDX-License-Identifier: MIT
#include "engine/src/density/quantiles.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numbers>

namespace brenier {

namespace {

constexpr double epsilon = std::numeric_limits<double>::epsilon();

/// Polynomial with ascending coefficients.
template <std::size_t n>
double polynomial(const std::array<double, n>& c, double x) {
  double sum = c[n - 1];
  for (std::size_t i = n - 1; i-- > 0;) sum = sum * x + c[i];
  return sum;
}

/// AS 241, centre: q = p - 1/2 with |q| <= 0.425.
double wichura_centre(double q) {
  constexpr std::array<double, 8> a = {
      3.3871328727963666080e0,  1.3314166789178437745e+2, 1.9715909503065514427e+3, 1.3731693765509461125e+4,
      4.5921953931549871457e+4, 6.7265770927008700853e+4, 3.3430575583588128105e+4, 2.5090809287301226727e+3};
  constexpr std::array<double, 8> b = {1.0,
                                       4.2313330701600911252e+1,
                                       6.8718700749205790830e+2,
                                       5.3941960214247511077e+3,
                                       2.1213794301586595867e+4,
                                       3.9307895800092710610e+4,
                                       2.8729085735721942674e+4,
                                       5.2264952788528545610e+3};
  const double r = 0.180625 - q * q;
  return q * polynomial(a, r) / polynomial(b, r);
}

/// AS 241, tail: minus the quantile of a small p.
double wichura_tail(double p) {
  constexpr std::array<double, 8> c = {1.42343711074968357734e0,  4.63033784615654529590e0,
                                       5.76949722146069140550e0,  3.64784832476320460504e0,
                                       1.27045825245236838258e0,  2.41780725177450611770e-1,
                                       2.27238449892691845833e-2, 7.74545014278341407640e-4};
  constexpr std::array<double, 8> d = {1.0,
                                       2.05319162663775882187e0,
                                       1.67638483018380384940e0,
                                       6.89767334985100004550e-1,
                                       1.48103976427480074590e-1,
                                       1.51986665636164571966e-2,
                                       5.47593808499534494600e-4,
                                       1.05075007164441684324e-9};
  constexpr std::array<double, 8> e = {6.65790464350110377720e0,  5.46378491116411436990e0,
                                       1.78482653991729133580e0,  2.96560571828504891230e-1,
                                       2.65321895265761230930e-2, 1.24266094738807843860e-3,
                                       2.71155556874348757815e-5, 2.01033439929228813265e-7};
  constexpr std::array<double, 8> f = {1.0,
                                       5.99832206555887937690e-1,
                                       1.36929880922735805310e-1,
                                       1.48753612908506148525e-2,
                                       7.86869131145613259100e-4,
                                       1.84631831751005468180e-5,
                                       1.42151175831644588870e-7,
                                       2.04426310338993978564e-15};
  const double r = std::sqrt(-std::log(p));
  return r <= 5 ? polynomial(c, r - 1.6) / polynomial(d, r - 1.6)
                : polynomial(e, r - 5) / polynomial(f, r - 5);
}

/// Continued fraction of the incomplete beta function by Lentz's method (DLMF 8.17.22), for
/// x < (a+1)/(a+b+2), where it converges in O(sqrt(max(a, b))) terms.
double beta_fraction(double a, double b, double x) {
  constexpr double tiny = 1e-300;
  const auto guard = [](double value) { return std::abs(value) < tiny ? tiny : value; };
  double c = 1;
  double d = 1 / guard(1 - (a + b) * x / (a + 1));
  double product = d;
  for (int k = 1; k < 100000; ++k) {
    const double even = k * (b - k) * x / ((a + 2 * k - 1) * (a + 2 * k));
    d = 1 / guard(1 + even * d);
    c = guard(1 + even / c);
    product *= c * d;
    const double odd = -(a + k) * (a + b + k) * x / ((a + 2 * k) * (a + 2 * k + 1));
    d = 1 / guard(1 + odd * d);
    c = guard(1 + odd / c);
    product *= c * d;
    if (std::abs(c * d - 1) <= epsilon) break;
  }
  return product;
}

}  // namespace

double normal_tail(double z, bool upper) {
  return 0.5 * std::erfc((upper ? z : -z) / std::numbers::sqrt2);
}

double normal_quantile(double p, bool upper) {
  const double sign = upper ? -1 : 1;
  const double q = p - 0.5;
  const double density_inverse = std::sqrt(2 * std::numbers::pi);
  if (std::abs(q) <= 0.425) {
    double z = wichura_centre(q);
    // erf keeps the relative accuracy near z = 0.
    const double u = (0.5 * std::erf(z / std::numbers::sqrt2) - q) * density_inverse * std::exp(0.5 * z * z);
    z -= u / (1 + 0.5 * z * u);
    return sign * z;
  }
  const double small = q < 0 ? p : 1 - p;
  double z = -wichura_tail(small);
  if (small > 1e-280) {
    const double u = (normal_tail(z, false) - small) * density_inverse * std::exp(0.5 * z * z);
    z -= u / (1 + 0.5 * z * u);
  }
  return q < 0 ? sign * z : -sign * z;
}

BetaLaw::BetaLaw(double a, double b)
    : a_(a), b_(b), log_beta_(std::lgamma(a) + std::lgamma(b) - std::lgamma(a + b)) {}

double BetaLaw::tail(double x, bool upper) const {
  if (!(x > 0)) return upper ? 1.0 : 0.0;
  if (!(x < 1)) return upper ? 0.0 : 1.0;
  const double front = std::exp(a_ * std::log(x) + b_ * std::log1p(-x) - log_beta_);
  if (x * (a_ + b_ + 2) < a_ + 1) {
    const double lower = front * beta_fraction(a_, b_, x) / a_;
    return upper ? 1 - lower : lower;
  }
  const double above = front * beta_fraction(b_, a_, 1 - x) / b_;
  return upper ? above : 1 - above;
}

double BetaLaw::quantile(double p) const {
  if (!(p > 0)) return 0;
  if (!(p < 1)) return 1;
  // Near 1 the upper tail is the one that still has digits.
  const bool upper = p > 0.5;
  double low = 0;
  double high = 1;
  // First guess: the leading term of either tail.
  double x = std::exp((std::log(p * a_) + log_beta_) / a_);
  if (upper) x = 1 - std::exp((std::log((1 - p) * b_) + log_beta_) / b_);
  if (!(x > 0 && x < 1)) x = a_ / (a_ + b_);
  for (int iteration = 0; iteration < 200; ++iteration) {
    const double excess = upper ? (1 - p) - tail(x, true) : tail(x, false) - p;
    if (excess == 0) return x;
    (excess > 0 ? high : low) = x;
    const double slope = std::exp((a_ - 1) * std::log(x) + (b_ - 1) * std::log1p(-x) - log_beta_);
    const double newton = excess / slope;
    const double curvature = (a_ - 1) / x - (b_ - 1) / (1 - x);
    // Halley, its correction held to a factor of two either way: far out it would creep.
    double next = x - newton / std::clamp(1 - 0.5 * newton * curvature, 0.5, 2.0);
    if (iteration > 60 || !(next > low && next < high)) next = 0.5 * (low + high);
    const double change = std::abs(next - x);
    x = next;
    if (change <= 2 * epsilon * x) break;
  }
  return x;
}

}  // namespace brenier
