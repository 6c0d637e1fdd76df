// SPDX-License-Identifier: MIT
// The flows whose exact solutions are one profile, scaled: porous medium and aggregation.
#include "brenier/oracles.hpp"

#include <cmath>
#include <limits>
#include <numbers>

#include "engine/src/oracles/check.hpp"

namespace brenier {

namespace {

constexpr double pi = std::numbers::pi;

/// b = m/(m-1), the second parameter of the Beta law of |x|^2/radius^2.
double exponent(double m) {
  return m / (m - 1);
}

/// C with int (C - k|x|^2)_+^(1/(m-1)) dx = mass.
double profile_constant(Index dim, double m, double k, double mass) {
  const double half = 0.5 * static_cast<double>(dim);
  const double b = exponent(m);
  const double log_ratio = std::lgamma(b + half) - std::lgamma(b);
  return std::exp((std::log(mass) + half * std::log(k / pi) + log_ratio) / (1 / (m - 1) + half));
}

void check_profile(Index dim, double m, double mass) {
  if (dim < 1) throw ValueError("dim is " + std::to_string(dim) + "; it must be at least 1");
  check_positive("mass", mass);
  if (!(m > 1) || !std::isfinite(m))
    throw ValueError("m is " + show(m) + "; it must be above 1 (for m = 1 use the entropy and a Gaussian)");
}

double squared_norm(std::span<const double> x, Index dim) {
  if (static_cast<Index>(x.size()) != dim)
    throw ShapeError("a point with " + std::to_string(x.size()) + " coordinates; " + std::to_string(dim) +
                     " are needed");
  double sum = 0;
  for (const double coordinate : x) sum += coordinate * coordinate;
  return sum;
}

/// Iterates of a flow that is described by one positive number; `jko(r, tau)` is the exact JKO step.
template <class Jko>
std::vector<double> scalar_iterates(double first, const Jko& jko, double tau, int steps, int order) {
  check_stepping(tau, steps, order);
  std::vector<double> r = {first};
  r.reserve(static_cast<std::size_t>(steps) + 1);
  while (static_cast<int>(r.size()) <= steps) {
    const double now = r.back();
    if (order == 1) {
      r.push_back(jko(now, tau));
    } else if (r.size() == 1) {
      double next = now;
      for (int i = 0; i < startup_steps; ++i) next = jko(next, tau / startup_steps);
      r.push_back(next);
    } else {
      const double extrapolated = (4 * now - r[r.size() - 2]) / 3;
      r.push_back(extrapolated > 0 ? jko(extrapolated, 2 * tau / 3) : jko(now, tau));
    }
  }
  return r;
}

}  // namespace

Barenblatt::Barenblatt(Index dim, double m, double mass) : dim_(dim), m_(m), mass_(mass) {
  check_profile(dim, m, mass);
  const double d = static_cast<double>(dim);
  alpha_ = d / (d * (m - 1) + 2);
  k_ = alpha_ * (m - 1) / (2 * m * d);
  C_ = profile_constant(dim, m, k_, mass);
}

double Barenblatt::radius(double t) const {
  check_positive("time", t);
  return std::sqrt(C_ / k_) * std::pow(t, beta());
}

double Barenblatt::second_moment(double t) const {
  const double half = 0.5 * static_cast<double>(dim_);
  const double edge = radius(t);
  return edge * edge * half / (half + exponent(m_));
}

double Barenblatt::standard_deviation(double t) const {
  return std::sqrt(second_moment(t) / static_cast<double>(dim_));
}

double Barenblatt::energy(double t) const {
  check_positive("time", t);
  const double b = exponent(m_);
  // int rho^m / int rho at t = 1 is C b/(b + d/2): a ratio of two Beta integrals.
  const double ratio = C_ * b / (b + 0.5 * static_cast<double>(dim_));
  return mass_ * ratio * std::pow(t, -alpha_ * (m_ - 1)) / (m_ - 1);
}

double Barenblatt::log_density(std::span<const double> x, double t) const {
  const double edge = radius(t);
  const double fraction = squared_norm(x, dim_) / (edge * edge);
  if (!(fraction < 1)) return -std::numeric_limits<double>::infinity();
  return (std::log(C_) + std::log1p(-fraction)) / (m_ - 1) - alpha_ * std::log(t);
}

double Barenblatt::density(std::span<const double> x, double t) const {
  return std::exp(log_density(x, t));
}

BarenblattFlow::BarenblattFlow(const Barenblatt& profile, double start, double stiffness)
    : power_(static_cast<double>(profile.dim()) * (profile.m() - 1)),
      internal_(profile.energy(start)),
      moment_(profile.mass() * profile.second_moment(start)),
      stiffness_(stiffness),
      radius_(profile.radius(start)),
      deviation_(profile.standard_deviation(start)) {
  if (!(stiffness >= 0) || !std::isfinite(stiffness))
    throw ValueError("stiffness is " + show(stiffness) + "; it must be 0 or above");
}

double BarenblattFlow::exact(double elapsed) const {
  check_time(elapsed);
  // r' = c r^(1-p) - a r with p = power + 2, so r^p obeys a linear equation.
  const double p = power_ + 2;
  const double c = power_ * internal_ / moment_;
  const double rate = p * stiffness_;
  const double decay = std::exp(-rate * elapsed);
  const double gained = rate > 0 ? -std::expm1(-rate * elapsed) / rate : elapsed;
  return std::pow(decay + p * c * gained, 1 / p);
}

double BarenblattFlow::step(double scale, double tau) const {
  // Unknown s = scale'/scale: (a s - 1) s^q = kappa with a = 1 + tau stiffness, q = power + 1. The logarithm
  // of both sides cannot overflow and is increasing and concave in s; Newton is kept inside a bracket.
  const double a = 1 + tau * stiffness_;
  const double q = power_ + 1;
  const double kappa = tau * power_ * internal_ / moment_ * std::pow(scale, -(power_ + 2));
  if (!(kappa > 0)) return scale / a;
  const double log_kappa = std::log(kappa);
  double low = 1 / a;
  double high = 1 + std::pow(kappa, 1 / (q + 1));
  double s = high;
  for (int iteration = 0; iteration < 200; ++iteration) {
    const double f = q * std::log(s) + std::log(a * s - 1) - log_kappa;
    (f > 0 ? high : low) = s;
    double next = s - f / (q / s + a / (a * s - 1));
    if (!(next > low && next < high)) next = 0.5 * (low + high);
    const double change = std::abs(next - s);
    s = next;
    if (change <= 2 * std::numeric_limits<double>::epsilon() * s) break;
  }
  return scale * s;
}

std::vector<double> BarenblattFlow::iterates(double tau, int steps, int order) const {
  return scalar_iterates(
      1.0, [this](double r, double length) { return step(r, length); }, tau, steps, order);
}

double BarenblattFlow::energy(double scale) const {
  check_positive("scale", scale);
  return internal_ * std::pow(scale, -power_) + 0.5 * stiffness_ * moment_ * scale * scale;
}

double PorousSteadyState::density(std::span<const double> x) const {
  const double inside = C - k * squared_norm(x, dim);
  return inside > 0 ? std::pow(inside, 1 / (m - 1)) : 0.0;
}

PorousSteadyState porous_steady_state(Index dim, double m, double stiffness, double mass) {
  check_profile(dim, m, mass);
  check_positive("stiffness", stiffness);
  PorousSteadyState state;
  state.dim = dim;
  state.m = m;
  // Stationarity: m/(m-1) rho^(m-1) + (stiffness/2)|x|^2 is constant on the support.
  state.k = stiffness * (m - 1) / (2 * m);
  state.C = profile_constant(dim, m, state.k, mass);
  state.radius = std::sqrt(state.C / state.k);
  const double half = 0.5 * static_cast<double>(dim);
  const double b = exponent(m);
  const double second_moment = state.radius * state.radius * half / (half + b);
  state.energy = mass * (0.5 * stiffness * second_moment + state.C * b / (b + half) / (m - 1));
  return state;
}

AggregationFlow::AggregationFlow(double radius) : radius_(radius) {
  check_positive("radius", radius);
}

double AggregationFlow::exact(double elapsed) const {
  check_time(elapsed);
  // The Hilbert transform of the semicircle is linear inside it, so R' = 2/R - R.
  return std::sqrt(radius_ * radius_ * std::exp(-2 * elapsed) - 2 * std::expm1(-2 * elapsed));
}

std::vector<double> AggregationFlow::iterates(double tau, int steps, int order) const {
  const auto jko = [](double r, double length) {
    return (r + std::sqrt(r * r + 8 * length * (1 + length))) / (2 * (1 + length));
  };
  return scalar_iterates(radius_, jko, tau, steps, order);
}

double AggregationFlow::energy(double radius) {
  check_positive("radius", radius);
  // Variance R^2/4; the mean of log|x-y| over two semicircles is log(R/2) - 1/4.
  return 0.5 * (0.25 * radius * radius - std::log(0.5 * radius) + 0.25);
}

double AggregationFlow::gaussian_energy(double variance) {
  check_positive("variance", variance);
  // x - y ~ N(0, 2 variance), and the mean of log|z| over a standard normal z is -(gamma + log 2)/2.
  return 0.5 * (variance - 0.5 * std::log(2 * variance) + 0.5 * (std::numbers::egamma + std::numbers::ln2));
}

double AggregationFlow::infimum() {
  return 0.25 - 0.5 * (std::log(0.5 * std::numbers::sqrt2) - 0.25);
}

double AggregationFlow::steady_density(double x) {
  const double inside = 2 - x * x;
  return inside > 0 ? std::sqrt(inside) / pi : 0.0;
}

}  // namespace brenier
