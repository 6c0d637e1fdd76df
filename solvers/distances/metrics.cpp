// SPDX-License-Identifier: MIT
#include "brenier/metrics.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "brenier/base/error.hpp"

namespace brenier {
namespace {

void check_clouds(const char* function, MatrixView<const double> x, MatrixView<const double> y,
                  Index least = 2) {
  if (x.cols != y.cols) {
    throw ShapeError(std::string(function) + ": clouds of dimensions " + std::to_string(x.cols) + " and " +
                     std::to_string(y.cols));
  }
  for (const MatrixView<const double>& cloud : {x, y}) {
    if (cloud.rows < least)
      throw ShapeError(std::string(function) + ": a cloud of " + std::to_string(cloud.rows) +
                       " points; at least " + std::to_string(least) + (least == 1 ? " is" : " are") +
                       " needed");
    for (Index i = 0; i < cloud.rows; ++i) {
      for (Index c = 0; c < cloud.cols; ++c) {
        if (!std::isfinite(cloud(i, c)))
          throw ValueError(std::string(function) + ": point " + std::to_string(i) + " has the coordinate " +
                           std::to_string(cloud(i, c)) + "; all must be finite");
      }
    }
  }
}

/// Mean of the values, and their variance / count.
Estimate mean_of(const std::vector<double>& values) {
  const double n = static_cast<double>(values.size());
  double mean = 0, squares = 0;
  for (const double value : values) mean += value;
  mean /= n;
  for (const double value : values) squares += (value - mean) * (value - mean);
  return {mean, std::sqrt(squares / (n * (n - 1)))};
}

/// sums[i] = sum_j D(|x_i - y_j|^2). Rows are dealt to the threads; each adds up in one order.
template <class D>
std::vector<double> row_sums(MatrixView<const double> x, MatrixView<const double> y, Team& team, const D& d) {
  Matrix<double> columns(y.cols, y.rows);  // neighbouring points beside each other
  for (Index j = 0; j < y.rows; ++j) {
    for (Index c = 0; c < y.cols; ++c) columns(c, j) = y(j, c);
  }
  std::vector<double> sums(x.rows);
  team.run([&](int rank) {
    std::vector<double> square(y.rows);
    const auto [first, last] = team.share(x.rows, rank);
    for (Index i = first; i < last; ++i) {
      std::fill(square.begin(), square.end(), 0.0);
      for (Index c = 0; c < y.cols; ++c) {
        const double at = x(i, c);
        const double* column = columns.row(c);
        for (Index j = 0; j < y.rows; ++j) square[j] += (at - column[j]) * (at - column[j]);
      }
      double sum = 0;
      for (Index j = 0; j < y.rows; ++j) sum += d(square[j]);
      sums[i] = sum;
    }
  });
  return sums;
}

/// 2 E D(X, Y) - E D(X, X') - E D(Y, Y'), D a function of the squared distance.
template <class D>
Estimate two_sample(const char* function, MatrixView<const double> x, MatrixView<const double> y, Team& team,
                    const D& d) {
  /// Half of the statistic's share of each point: mean distance to the others' cloud minus that within its
  /// own.
  const auto shares = [&](MatrixView<const double> own, MatrixView<const double> other) {
    std::vector<double> across = row_sums(own, other, team, d);
    const std::vector<double> within = row_sums(own, own, team, d);
    for (std::size_t i = 0; i < across.size(); ++i) {
      across[i] = across[i] / static_cast<double>(other.rows) -
                  (within[i] - d(0.0)) / static_cast<double>(own.rows - 1);
    }
    return mean_of(across);
  };
  const Estimate of_x = shares(x, y), of_y = shares(y, x);
  const Estimate out{of_x.value + of_y.value, 2 * std::hypot(of_x.error, of_y.error)};
  if (!std::isfinite(out.value))
    throw NumericalError(
        std::string(function) +
        ": squares of the distances are beyond the range of double; choose another unit of length");
  return out;
}

}  // namespace

Estimate kl_divergence(std::span<const double> log_p, std::span<const double> log_q) {
  if (log_p.size() != log_q.size() || log_p.size() < 2) {
    throw ShapeError("kl_divergence: log-densities at " + std::to_string(log_p.size()) + " and " +
                     std::to_string(log_q.size()) + " samples; both need the same ones, at least 2");
  }
  std::vector<double> difference(log_p.size());
  for (std::size_t i = 0; i < log_p.size(); ++i) {
    if (std::isnan(log_q[i]) || !std::isfinite(log_p[i])) {
      throw ValueError("kl_divergence: sample " + std::to_string(i) + " has log-densities " +
                       std::to_string(log_p[i]) + " and " + std::to_string(log_q[i]) +
                       "; the first must be finite, as p is positive at its samples, and none NaN");
    }
    if (std::isinf(log_q[i])) {
      const double infinity = std::numeric_limits<double>::infinity();
      return log_q[i] < 0 ? Estimate{infinity, infinity} : Estimate{-infinity, infinity};
    }
    difference[i] = log_p[i] - log_q[i];
  }
  return mean_of(difference);
}

Estimate energy_distance(MatrixView<const double> x, MatrixView<const double> y, Team& team) {
  check_clouds("energy_distance", x, y);
  return two_sample("energy_distance", x, y, team, [](double square) { return std::sqrt(square); });
}

namespace {

/// exp(-|x - y|^2 / (2 bandwidth^2)) as a function of the squared distance.
auto gaussian_kernel(const char* function, double bandwidth) {
  if (!(bandwidth > 0) || !std::isfinite(bandwidth)) {
    throw ValueError(std::string(function) + ": bandwidth = " + std::to_string(bandwidth) +
                     "; it must be above 0, for example median_distance()");
  }
  return [factor = -0.5 / (bandwidth * bandwidth)](double square) { return std::exp(factor * square); };
}

}  // namespace

Estimate mmd_squared(MatrixView<const double> x, MatrixView<const double> y, double bandwidth, Team& team) {
  check_clouds("mmd_squared", x, y);
  const auto kernel = gaussian_kernel("mmd_squared", bandwidth);
  return two_sample("mmd_squared", x, y, team, [&](double square) { return -kernel(square); });
}

double mmd_empirical(MatrixView<const double> x, MatrixView<const double> y, double bandwidth, Team& team) {
  check_clouds("mmd_empirical", x, y);
  const auto kernel = gaussian_kernel("mmd_empirical", bandwidth);
  const auto mean = [&](MatrixView<const double> a, MatrixView<const double> b) {
    double sum = 0;
    for (const double row : row_sums(a, b, team, kernel)) sum += row;
    return sum / (static_cast<double>(a.rows) * static_cast<double>(b.rows));
  };
  return std::sqrt(std::max(0.0, mean(x, x) + mean(y, y) - 2 * mean(x, y)));
}

double median_distance(MatrixView<const double> x, MatrixView<const double> y) {
  check_clouds("median_distance", x, y, 1);
  constexpr Index kMost = 2000;
  const Index all = x.rows + y.rows;
  const Index n = std::min(all, kMost);
  Matrix<double> points(n, x.cols);
  for (Index k = 0; k < n; ++k) {
    const Index pick = k * all / n;
    const double* from = pick < x.rows ? x.row(pick) : y.row(pick - x.rows);
    std::copy_n(from, x.cols, points.row(k));
  }
  std::vector<double> squares;
  squares.reserve(n * (n - 1) / 2);
  for (Index i = 0; i < n; ++i) {
    for (Index j = 0; j < i; ++j) {
      double square = 0;
      for (Index c = 0; c < x.cols; ++c)
        square += (points(i, c) - points(j, c)) * (points(i, c) - points(j, c));
      squares.push_back(square);
    }
  }
  const auto middle = squares.begin() + static_cast<std::ptrdiff_t>(squares.size() / 2);
  std::nth_element(squares.begin(), middle, squares.end());
  if (!(*middle > 0)) throw ValueError("median_distance: half of the points and more are in one place");
  return std::sqrt(*middle);
}

}  // namespace brenier
