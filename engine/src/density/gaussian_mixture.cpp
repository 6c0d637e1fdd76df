// SPDX-License-Identifier: MIT
// Gaussian mixtures by expectation maximisation.
#include "brenier/gaussian_mixture.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>

#include "brenier/base/philox.hpp"
#include "engine/src/density/impl.hpp"
#include "engine/src/density/points.hpp"

namespace brenier {

namespace {

double squared_distance(const double* a, const double* b, Index d) {
  double sum = 0;
  for (Index j = 0; j < d; ++j) sum += (a[j] - b[j]) * (a[j] - b[j]);
  return sum;
}

/// One fit, from shares of the points to shares of the points. All is in units of the data: x is centred and
/// divided by one number, so that neither the place nor the unit of the points matters.
class Fit {
 public:
  Fit(const Matrix<double>& x, const GaussianMixtureOptions& options)
      : x_(x), options_(options), count_(options.components), shares_(x.rows(), options.components) {}

  /// Every point goes to the nearest of `components` points that are drawn far apart.
  void start(int draw) {
    const Index n = x_.rows(), d = x_.cols();
    const Random random(options_.seed, RandomStream::parameters);
    std::vector<double> distance(static_cast<std::size_t>(n), 1.0);
    std::vector<Index> nearest(static_cast<std::size_t>(n), 0);
    for (int k = 0; k < count_; ++k) {
      const double total = std::accumulate(distance.begin(), distance.end(), 0.0);
      if (!(total > 0))
        throw ValueError("components is " + std::to_string(count_) + ", but only " + std::to_string(k) +
                         " points differ; take fewer components");
      const double at =
          total * random.uniform(static_cast<std::uint32_t>(draw), 0, static_cast<std::uint64_t>(k));
      Index chosen = 0;
      double below = distance[0];
      while (chosen + 1 < n && at >= below) below += distance[++chosen];
      while (!(distance[chosen] > 0)) --chosen;  // where rounding ran past the last one
      for (Index i = 0; i < n; ++i) {
        const double to = squared_distance(x_.row(i), x_.row(chosen), d);
        if (k == 0 || to < distance[i]) {
          distance[i] = to;
          nearest[i] = k;
        }
      }
    }
    std::fill(shares_.elements().begin(), shares_.elements().end(), 0.0);
    for (Index i = 0; i < n; ++i) shares_(i, nearest[i]) = 1;
  }

  GaussianMixture run() {
    GaussianMixture out;
    out.log_likelihood = -infinity;
    while (out.iterations < options_.iterations && !out.converged) {
      maximise(out);
      const double likelihood = expect(out);
      ++out.iterations;
      out.converged = likelihood - out.log_likelihood <= options_.tolerance;
      out.log_likelihood = likelihood;
    }
    return out;
  }

 private:
  /// Weights, means and covariances from the shares.
  void maximise(GaussianMixture& out) const {
    const Index n = x_.rows(), d = x_.cols();
    out.weights.assign(static_cast<std::size_t>(count_), 0.0);
    out.means = Matrix<double>(count_, d);
    out.covariances.assign(static_cast<std::size_t>(count_), Matrix<double>(d, d));
    std::vector<double> offset(static_cast<std::size_t>(d));
    for (int k = 0; k < count_; ++k) {
      // A component that lost all its points keeps a weight that a double can hold.
      double sum = 10 * std::numeric_limits<double>::epsilon();
      for (Index i = 0; i < n; ++i) {
        sum += shares_(i, k);
        for (Index j = 0; j < d; ++j) out.means(k, j) += shares_(i, k) * x_(i, j);
      }
      for (Index j = 0; j < d; ++j) out.means(k, j) /= sum;
      Matrix<double>& covariance = out.covariances[k];
      for (Index i = 0; i < n; ++i) {
        const double share = shares_(i, k);
        if (share == 0) continue;
        for (Index j = 0; j < d; ++j) offset[j] = x_(i, j) - out.means(k, j);
        for (Index j = 0; j < d; ++j)
          for (Index l = 0; l <= j; ++l) covariance(j, l) += share * offset[j] * offset[l];
      }
      for (Index j = 0; j < d; ++j) {
        for (Index l = 0; l <= j; ++l) covariance(l, j) = covariance(j, l) /= sum;
        covariance(j, j) += options_.regularisation;
      }
      out.weights[k] = sum;
    }
    const double total = std::accumulate(out.weights.begin(), out.weights.end(), 0.0);
    for (double& weight : out.weights) weight /= total;
  }

  /// The shares from the mixture; returns the mean log-likelihood.
  double expect(const GaussianMixture& mixture) {
    const Index n = x_.rows(), d = x_.cols();
    std::vector<GaussianImpl> parts;
    for (int k = 0; k < count_; ++k) {
      const double* mean = mixture.means.row(k);
      const std::optional<dense::Cholesky> factor = dense::Cholesky::of(mixture.covariances[k]);
      if (!factor)
        throw ValueError("component " + std::to_string(k) +
                         " has a singular covariance; take fewer components or a larger regularisation");
      parts.emplace_back(std::vector<double>(mean, mean + d), *factor);
    }
    double sum = 0;
    for (Index i = 0; i < n; ++i) {
      double largest = -infinity;
      for (int k = 0; k < count_; ++k) {
        shares_(i, k) = std::log(mixture.weights[k]) + parts[k].log_density(x_.row(i));
        largest = std::max(largest, shares_(i, k));
      }
      double total = 0;
      for (int k = 0; k < count_; ++k) total += shares_(i, k) = std::exp(shares_(i, k) - largest);
      for (int k = 0; k < count_; ++k) shares_(i, k) /= total;
      sum += largest + std::log(total);
    }
    return sum / static_cast<double>(n);
  }

  const Matrix<double>& x_;
  const GaussianMixtureOptions& options_;
  int count_;
  Matrix<double> shares_;  // (N, K), rows of sum 1
};

void check(const GaussianMixtureOptions& options, Index n) {
  const auto fail = [](const std::string& name, const std::string& value, const std::string& allowed) {
    throw ValueError(name + " is " + value + "; it must be " + allowed);
  };
  if (options.components < 1 || options.components > n)
    fail("components", std::to_string(options.components),
         "at least 1 and at most the number of points, " + std::to_string(n));
  if (options.starts < 1) fail("starts", std::to_string(options.starts), "at least 1");
  if (options.iterations < 1) fail("iterations", std::to_string(options.iterations), "at least 1");
  if (!(options.tolerance >= 0)) fail("tolerance", show(options.tolerance), "at least 0");
  if (!(options.regularisation > 0) || !std::isfinite(options.regularisation))
    fail("regularisation", show(options.regularisation), "above 0 and finite");
}

}  // namespace

Density GaussianMixture::density() const {
  std::vector<Density> parts;
  for (std::size_t k = 0; k < weights.size(); ++k) {
    const double* mean = means.row(static_cast<Index>(k));
    parts.push_back(Density::gaussian(std::vector<double>(mean, mean + means.cols()), covariances[k]));
  }
  return Density::mixture(weights, parts);
}

GaussianMixture fit_gaussian_mixture(MatrixView<const double> points, const GaussianMixtureOptions& options) {
  check_points(points);
  check(options, points.rows);
  const Index n = points.rows, d = points.cols;
  const std::vector<double> centre = mean_of_points(points);
  double square = 0;
  for (Index i = 0; i < n; ++i)
    for (Index j = 0; j < d; ++j) square += (points(i, j) - centre[j]) * (points(i, j) - centre[j]);
  const double unit = std::sqrt(square / static_cast<double>(n * d));
  if (!(unit > 0) || !std::isfinite(unit))
    throw ValueError(unit > 0
                         ? "the points are too far apart for their variance to be a number"
                         : "all points are the same, so that no Gaussian fits them; a density needs points "
                           "that differ");
  Matrix<double> x(n, d);
  for (Index i = 0; i < n; ++i)
    for (Index j = 0; j < d; ++j) x(i, j) = (points(i, j) - centre[j]) / unit;

  GaussianMixture best;
  best.log_likelihood = -infinity;
  Fit fit(x, options);
  for (int start = 0; start < (options.components == 1 ? 1 : options.starts); ++start) {
    fit.start(start);
    GaussianMixture one = fit.run();
    if (start == 0 || one.log_likelihood > best.log_likelihood) best = std::move(one);
  }

  // The heaviest component first, in the units of the points.
  std::vector<Index> order(best.weights.size());
  std::iota(order.begin(), order.end(), Index{0});
  std::sort(order.begin(), order.end(), [&](Index a, Index b) {
    return best.weights[a] != best.weights[b] ? best.weights[a] > best.weights[b] : a < b;
  });
  GaussianMixture out = best;
  out.log_likelihood -= static_cast<double>(d) * std::log(unit);
  for (std::size_t k = 0; k < order.size(); ++k) {
    const Index from = order[k];
    out.weights[k] = best.weights[from];
    out.covariances[k] = best.covariances[from];
    for (double& element : out.covariances[k].elements()) element *= unit * unit;
    for (Index j = 0; j < d; ++j)
      out.means(static_cast<Index>(k), j) = centre[j] + unit * best.means(from, j);
  }
  return out;
}

}  // namespace brenier
