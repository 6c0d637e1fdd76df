// SPDX-License-Identifier: MIT
// Kernel density estimates.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numbers>
#include <optional>
#include <string>

#include "brenier/density.hpp"
#include "engine/src/checks/matrix_check.hpp"
#include "engine/src/density/impl.hpp"
#include "engine/src/density/points.hpp"
#include "engine/src/oracles/check.hpp"

namespace brenier {

namespace {

/// L^{-1} x in place.
void standardise(const Matrix<double>& lower, double* x) {
  for (Index j = 0; j < lower.rows(); ++j) {
    for (Index k = 0; k < j; ++k) x[j] -= lower(j, k) * x[k];
    x[j] /= lower(j, j);
  }
}
}  // namespace

KernelImpl::KernelImpl(MatrixView<const double> points_in, const dense::Cholesky& factor_in)
    : points(points_in.rows, points_in.cols),
      centre(mean_of_points(points_in)),
      factor(factor_in),
      standard(points_in.cols, points_in.rows) {
  const Index n = points_in.rows, d = dim();
  for (Index i = 0; i < n; ++i) std::copy_n(points_in.row(i), d, points.row(i));
  if (d == 1) std::sort(points.elements().begin(), points.elements().end());
  Matrix<double> identity(d, d);
  for (Index j = 0; j < d; ++j) identity(j, j) = 1;
  // Rows L e_j are the columns of L.
  const Matrix<double> columns = factor.spread(identity);
  lower = Matrix<double>(d, d);
  for (Index j = 0; j < d; ++j)
    for (Index k = 0; k <= j; ++k) lower(j, k) = columns(k, j);
  std::vector<double> z(static_cast<std::size_t>(d));
  for (Index i = 0; i < n; ++i) {
    for (Index j = 0; j < d; ++j) z[j] = points(i, j) - centre[j];
    standardise(lower, z.data());
    for (Index j = 0; j < d; ++j) standard(j, i) = z[j];
  }
  log_norm = -0.5 * static_cast<double>(d) * std::log(2 * std::numbers::pi) - 0.5 * factor.log_determinant() -
             std::log(static_cast<double>(n));
}

double KernelImpl::log_density(const double* x) const {
  const Index n = points.rows(), d = dim();
  std::vector<double> z(static_cast<std::size_t>(d));
  for (Index j = 0; j < d; ++j) z[j] = x[j] - centre[j];
  standardise(lower, z.data());
  // The sum of exp(-square/2), kept as exp(-nearest/2) times a sum that begins with 1, block by block.
  constexpr Index block = 256;
  constexpr double vanishing = 80;  // exp(-40) of the largest is below rounding
  std::array<double, block> square;
  double nearest = infinity, sum = 0;
  for (Index first = 0; first < n; first += block) {
    const Index count = std::min(block, n - first);
    std::fill_n(square.begin(), count, 0.0);
    for (Index j = 0; j < d; ++j) {
      const double* row = standard.row(j) + first;
      for (Index i = 0; i < count; ++i) square[i] += (z[j] - row[i]) * (z[j] - row[i]);
    }
    double least = infinity;
    for (Index i = 0; i < count; ++i) least = std::min(least, square[i]);
    if (least < nearest) {
      sum = nearest < infinity ? sum * std::exp(0.5 * (least - nearest)) : 0;
      nearest = least;
    }
    if (!(least - nearest < vanishing)) continue;
    for (Index i = 0; i < count; ++i)
      if (square[i] - nearest < vanishing) sum += std::exp(0.5 * (nearest - square[i]));
  }
  // Overflow far away; the density is 0 there.
  return nearest < infinity ? log_norm - 0.5 * nearest + std::log(sum) : -infinity;
}

void KernelImpl::transport(const double* u, double* x) const {
  const Index n = points.rows(), d = dim();
  const Index i = std::min(static_cast<Index>(u[0] * static_cast<double>(n)), n - 1);
  for (Index j = 0; j < d; ++j) x[j] = normal_quantile(u[j + 1]);
  factor.spread(points.row(i), x, x);
}

double KernelImpl::tail(double x, bool upper) const {
  double sum = 0;
  for (const double point : points.elements()) sum += normal_tail((x - point) / factor.diagonal(0), upper);
  return sum / static_cast<double>(points.rows());
}

double KernelImpl::quantile(double p, bool upper) const {
  // The tail at the outermost points' own quantiles brackets p. Newton's method on the logarithm of the tail,
  // which is nearly parabolic far out, and bisection where that leaves the bracket.
  const double h = factor.diagonal(0);
  const double shift = h * normal_quantile(p, upper);
  double low = points(0, 0) + shift, high = points(points.rows() - 1, 0) + shift;
  const double spacing =
      std::numeric_limits<double>::epsilon() * std::max({std::abs(low), std::abs(high), h});
  const auto rank = std::min(static_cast<Index>(p * static_cast<double>(points.rows())), points.rows() - 1);
  double x = std::clamp(points(upper ? points.rows() - 1 - rank : rank, 0), low, high);
  for (int step = 0; step < 200 && high - low > spacing; ++step) {
    const double q = tail(x, upper);
    if (q == p) break;
    (upper == (q > p) ? low : high) = x;
    const double slope = std::exp(log_density(&x)) * (upper ? -1 : 1);
    const double next = x - q * std::log(q / p) / slope;
    const bool inside = next > low && next < high;
    const double to = inside ? next : low + 0.5 * (high - low);
    if (std::abs(to - x) <= spacing) {
      x = to;
      break;
    }
    x = to;
  }
  return x;
}

double bandwidth_factor(BandwidthRule rule, Index n, Index dim) {
  if (n < 1) throw ValueError("n is " + std::to_string(n) + "; it must be at least 1");
  if (dim < 1) throw ValueError("dim is " + std::to_string(dim) + "; it must be at least 1");
  const double d = static_cast<double>(dim);
  const double count = static_cast<double>(n) * (rule == BandwidthRule::silverman ? (d + 2) / 4 : 1.0);
  return std::pow(count, -1 / (d + 4));
}

Matrix<double> kernel_covariance(MatrixView<const double> points, BandwidthRule rule) {
  check_points(points);
  const double factor = bandwidth_factor(rule, points.rows, points.cols);
  Matrix<double> out =
      scatter_of_points(points, mean_of_points(points), std::max(1.0, static_cast<double>(points.rows - 1)));
  const std::string remedy = std::to_string(points.rows) + " points in dimension " +
                             std::to_string(points.cols) +
                             ", whose covariance is singular; give the bandwidth as a number";
  // Against the variances, each in its units: rounding leaves a tiny pivot where there should be none.
  Matrix<double> correlation = out;
  for (Index j = 0; j < points.cols; ++j) {
    if (!(out(j, j) > 0) || !std::isfinite(out(j, j))) throw ValueError("the rule needs more than " + remedy);
    for (Index k = 0; k < points.cols; ++k) correlation(j, k) /= std::sqrt(out(j, j) * out(k, k));
  }
  if (dense::symmetric_eigen(correlation.view(), false).values[0] < 1e-12)
    throw ValueError("the rule needs more than " + remedy);
  for (double& element : out.elements()) element *= factor * factor;
  return out;
}

Density Density::kde(MatrixView<const double> points, const Matrix<double>& covariance) {
  check_points(points);
  if (covariance.rows() != points.cols || covariance.cols() != points.cols)
    throw ShapeError("covariance is (" + std::to_string(covariance.rows()) + ", " +
                     std::to_string(covariance.cols()) + "); points of dimension " +
                     std::to_string(points.cols) + " need (d, d)");
  check_positive_definite("covariance", covariance);
  const std::optional<dense::Cholesky> factor = dense::Cholesky::of(covariance);
  if (!factor) throw ValueError("covariance is not positive definite to working precision");
  return Density(std::make_shared<KernelImpl>(points, *factor));
}

Density Density::kde(MatrixView<const double> points, BandwidthRule rule) {
  return kde(points, kernel_covariance(points, rule));
}

Density Density::kde(MatrixView<const double> points, double bandwidth) {
  check_points(points);
  check_positive("bandwidth", bandwidth);
  check_positive("bandwidth^2", bandwidth * bandwidth);
  Matrix<double> covariance(points.cols, points.cols);
  for (Index j = 0; j < points.cols; ++j) covariance(j, j) = bandwidth * bandwidth;
  return kde(points, covariance);
}

}  // namespace brenier
