// SPDX-License-Identifier: MIT
#include "brenier/density.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <optional>
#include <string>

#include "engine/src/checks/matrix_check.hpp"
#include "engine/src/density/impl.hpp"
#include "engine/src/oracles/check.hpp"

namespace brenier {

GaussianImpl::GaussianImpl(const std::vector<double>& mean_in, const dense::Cholesky& factor_in)
    : mean(mean_in), factor(factor_in) {
  log_norm = -0.5 * static_cast<double>(dim()) * std::log(2 * std::numbers::pi);
  for (Index i = 0; i < dim(); ++i) log_norm -= std::log(factor.diagonal(i));
}

double GaussianImpl::log_density(const double* x) const {
  std::vector<double> offset(mean.size());
  for (std::size_t j = 0; j < offset.size(); ++j) offset[j] = x[j] - mean[j];
  const double square = factor.inverse_square(offset.data());
  // Overflow far away may leave infinity - infinity; the density is 0 there.
  return square < infinity ? log_norm - 0.5 * square : -infinity;
}

void GaussianImpl::transport(const double* u, double* x) const {
  const Index d = dim();
  for (Index j = 0; j < d; ++j) x[j] = normal_quantile(u[j]);
  factor.spread(mean.data(), x, x);
}

double GaussianImpl::tail(double x, bool upper) const {
  return normal_tail((x - mean[0]) / factor.diagonal(0), upper);
}

double GaussianImpl::quantile(double p, bool upper) const {
  return mean[0] + factor.diagonal(0) * normal_quantile(p, upper);
}

UniformImpl::UniformImpl(const std::vector<double>& lower_in, const std::vector<double>& upper_in)
    : lower(lower_in), upper(upper_in) {
  for (std::size_t j = 0; j < lower.size(); ++j) log_value -= std::log(upper[j] - lower[j]);
}

double UniformImpl::log_density(const double* x) const {
  for (std::size_t j = 0; j < lower.size(); ++j)
    if (x[j] < lower[j] || x[j] > upper[j]) return -infinity;
  return log_value;
}

void UniformImpl::transport(const double* u, double* x) const {
  for (std::size_t j = 0; j < lower.size(); ++j)
    x[j] = std::min(lower[j] + u[j] * (upper[j] - lower[j]), upper[j]);
}

double UniformImpl::tail(double x, bool from_above) const {
  const double inside = std::clamp(x, lower[0], upper[0]);
  return (from_above ? upper[0] - inside : inside - lower[0]) / (upper[0] - lower[0]);
}

double UniformImpl::quantile(double p, bool from_above) const {
  const double step = p * (upper[0] - lower[0]);
  return std::clamp(from_above ? upper[0] - step : lower[0] + step, lower[0], upper[0]);
}

MixtureImpl::MixtureImpl(const std::vector<double>& weights_in,
                         const std::vector<std::shared_ptr<const Density::Impl>>& parts_in)
    : weights(weights_in), parts(parts_in) {
  double sum = 0;
  for (const double weight : weights) sum += weight;
  for (double& weight : weights) weight /= sum;
}

double MixtureImpl::log_density(const double* x) const {
  std::vector<double> terms(parts.size());
  double largest = -infinity;
  for (std::size_t k = 0; k < parts.size(); ++k) {
    terms[k] = std::log(weights[k]) + parts[k]->log_density(x);
    largest = std::max(largest, terms[k]);
  }
  if (largest == -infinity) return -infinity;
  double sum = 0;
  for (const double term : terms) sum += std::exp(term - largest);
  return largest + std::log(sum);
}

Index MixtureImpl::uniforms() const {
  Index most = 0;
  for (const auto& part : parts) most = std::max(most, part->uniforms());
  return 1 + most;
}

void MixtureImpl::transport(const double* u, double* x) const {
  std::size_t k = 0;
  double below = weights[0];
  while (k + 1 < parts.size() && u[0] >= below) below += weights[++k];
  parts[k]->transport(u + 1, x);
}

double MixtureImpl::tail(double x, bool upper) const {
  double sum = 0;
  for (std::size_t k = 0; k < parts.size(); ++k) sum += weights[k] * parts[k]->tail(x, upper);
  return sum;
}

double MixtureImpl::quantile(double p, bool upper) const {
  double low = infinity;
  double high = -infinity;
  for (const auto& part : parts) {
    const double x = part->quantile(p, upper);
    low = std::min(low, x);
    high = std::max(high, x);
  }
  // Bisection down to neighbouring doubles: between two separate supports the distribution function is flat,
  // and only the end that still moves it is sure to lie in the support. `tail` falls with x where `upper`.
  if (upper ? tail(high, true) >= p : tail(low, false) >= p) return upper ? high : low;
  for (;;) {
    const double middle = low + 0.5 * (high - low);
    if (!(middle > low && middle < high)) return upper ? low : high;
    if (upper ? tail(middle, true) >= p : tail(middle, false) < p) {
      low = middle;
    } else {
      high = middle;
    }
  }
}

BarenblattImpl::BarenblattImpl(const Barenblatt& profile_in, double time_in)
    : profile(profile_in),
      time(time_in),
      radius(profile.radius(time)),
      law(0.5 * static_cast<double>(profile.dim()), profile.m() / (profile.m() - 1)) {}

double BarenblattImpl::log_density(const double* x) const {
  return profile.log_density({x, static_cast<std::size_t>(dim())}, time);
}

double BarenblattImpl::distance(double p) const {
  // A sample that rounding put on the edge would have the density 0; hold it just inside.
  const double inside = 1 - static_cast<double>(dim() + 8) * std::numeric_limits<double>::epsilon();
  return radius * std::min(std::sqrt(law.quantile(p)), inside);
}

void BarenblattImpl::transport(const double* u, double* x) const {
  if (dim() == 1) {
    x[0] = quantile(u[0], false);
    return;
  }
  for (Index j = 0; j < dim(); ++j) x[j] = normal_quantile(u[j + 1]);
  const double length = dense::norm(x, dim());
  if (length > 0) {
    const double scale = distance(u[0]) / length;
    for (Index j = 0; j < dim(); ++j) x[j] *= scale;
  } else {
    x[0] = distance(u[0]);  // every direction is as good
  }
}

double BarenblattImpl::tail(double x, bool upper) const {
  const double y = std::clamp(x / radius, -1.0, 1.0);
  const double outer = 0.5 * law.tail(y * y, true);  // probability beyond |x| on one side
  return (y > 0) == upper ? outer : 1 - outer;
}

double BarenblattImpl::quantile(double p, bool upper) const {
  const double x = distance(std::abs(2 * p - 1));
  return (p < 0.5) == upper ? x : -x;
}

Density::Density(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}

Density Density::gaussian(const std::vector<double>& mean, const Matrix<double>& covariance) {
  const Index d = static_cast<Index>(mean.size());
  if (d < 1 || covariance.rows() != d || covariance.cols() != d)
    throw ShapeError("mean has " + std::to_string(d) + " values and covariance is (" +
                     std::to_string(covariance.rows()) + ", " + std::to_string(covariance.cols()) +
                     "); (d, d) and d >= 1 are needed");
  check_finite("mean", mean);
  check_positive_definite("covariance", covariance);
  const std::optional<dense::Cholesky> factor = dense::Cholesky::of(covariance);
  if (!factor) throw ValueError("covariance is not positive definite to working precision");
  return Density(std::make_shared<GaussianImpl>(mean, *factor));
}

Density Density::gaussian(Index dim, double mean, double variance) {
  if (dim < 1) throw ValueError("dim is " + std::to_string(dim) + "; it must be at least 1");
  if (!std::isfinite(mean)) throw ValueError("mean is " + show(mean) + "; it must be finite");
  check_positive("variance", variance);
  Matrix<double> factor(dim, dim);
  for (Index i = 0; i < dim; ++i) factor(i, i) = std::sqrt(variance);
  return Density(std::make_shared<GaussianImpl>(std::vector<double>(dim, mean), dense::Cholesky(factor)));
}

Density Density::uniform(const std::vector<double>& lower, const std::vector<double>& upper) {
  if (lower.empty() || lower.size() != upper.size())
    throw ShapeError("lower has " + std::to_string(lower.size()) + " values and upper has " +
                     std::to_string(upper.size()) + "; the same number, at least 1, is needed");
  check_finite("lower", lower);
  check_finite("upper", upper);
  for (std::size_t j = 0; j < lower.size(); ++j)
    if (!(lower[j] < upper[j]) || !std::isfinite(upper[j] - lower[j]))
      throw ValueError("coordinate " + std::to_string(j) + " of the box runs from " + show(lower[j]) +
                       " to " + show(upper[j]) + "; lower must be below upper, at a finite distance");
  return Density(std::make_shared<UniformImpl>(lower, upper));
}

Density Density::mixture(const std::vector<double>& weights, const std::vector<Density>& parts) {
  if (parts.empty() || weights.size() != parts.size())
    throw ShapeError(std::to_string(weights.size()) + " weights and " + std::to_string(parts.size()) +
                     " parts; the same number, at least 1, is needed");
  std::vector<std::shared_ptr<const Impl>> kinds;
  double sum = 0;
  for (std::size_t k = 0; k < parts.size(); ++k) {
    if (!(weights[k] > 0) || !std::isfinite(weights[k]))
      throw ValueError("weight " + std::to_string(k) + " is " + show(weights[k]) +
                       "; weights must be positive and finite");
    if (parts[k].dim() != parts[0].dim())
      throw ShapeError("part " + std::to_string(k) + " has dimension " + std::to_string(parts[k].dim()) +
                       ", part 0 has " + std::to_string(parts[0].dim()));
    if (parts[k].mass() != 1)
      throw ValueError("part " + std::to_string(k) + " has mass " + show(parts[k].mass()) +
                       "; the parts of a mixture must have mass 1");
    sum += weights[k];
    kinds.push_back(parts[k].impl_);
  }
  check_positive("the sum of the weights", sum);
  return Density(std::make_shared<MixtureImpl>(weights, kinds));
}

Density Density::barenblatt(const BarenblattOptions& options) {
  const Barenblatt profile(options.dim, options.m, options.mass);
  check_positive("time", options.time);
  return Density(std::make_shared<BarenblattImpl>(profile, options.time));
}

Index Density::dim() const {
  return impl_->dim();
}

double Density::mass() const {
  return impl_->mass();
}

double Density::log_density(std::span<const double> x) const {
  if (static_cast<Index>(x.size()) != dim())
    throw ShapeError("a point with " + std::to_string(x.size()) + " coordinates; the density has dimension " +
                     std::to_string(dim()));
  bool infinite = false;
  for (const double coordinate : x) {
    if (std::isnan(coordinate)) return coordinate;
    infinite = infinite || std::isinf(coordinate);
  }
  return infinite ? -infinity : impl_->log_density(x.data());
}

std::vector<double> Density::log_density(MatrixView<const double> x) const {
  if (x.cols != dim())
    throw ShapeError("a cloud with " + std::to_string(x.cols) + " columns; the density has dimension " +
                     std::to_string(dim()));
  std::vector<double> values(static_cast<std::size_t>(x.rows));
  for (Index i = 0; i < x.rows; ++i)
    values[i] = log_density(std::span<const double>(x.row(i), static_cast<std::size_t>(x.cols)));
  return values;
}

}  // namespace brenier
