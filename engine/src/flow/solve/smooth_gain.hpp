// SPDX-License-Identifier: MIT
// What a step could still gain by smooth displacements, which an internal energy does not stop and which average the noise of
// forces. For .cpp files only.
#pragma once

#include <cmath>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "engine/src/flow/cloud/cloud_view.hpp"
#include "engine/src/flow/solve/scale.hpp"
#include "kernels/resident_cloud.hpp"
#include "solvers/dense.hpp"

namespace brenier {

/// The gain of the best displacement out of a family of smooth ones, where the residual's own would be stopped by the
/// internal energy: translations, stretches along the axes, and gradients of plane waves of many lengths. To second
/// order, with the internal energy's Hessian: moving particles by e xi, xi = grad phi with Hessian G, changes
/// E[f(rho)/rho] to second order by e^2/2 E[w tr G^2 + (rho f'' - w) (tr G)^2], w = f' - f/rho.
class SmoothFields {
 public:
  SmoothFields(const CloudView& cloud, std::uint64_t seed) : d_(cloud.cols()) {
    const Random random(seed, RandomStream::probes);
    CloudView::Widths widths = cloud.widths();
    mean_ = std::move(widths.mean);
    for (const double width : widths.deviation)
      deviation_.push_back(std::max(width, std::numeric_limits<double>::min()));
    waves_ = d_ == 1 ? 16 : 40;
    for (Index k = 0; k < waves_; ++k) {
      // Half waves of 1/2 to 8 to the deviation, in random directions where there are any.
      const double number = d_ == 1
                                ? 0.4 * static_cast<double>(k + 1)
                                : 0.4 * std::pow(16.0, random.uniform(0, 2, static_cast<std::uint64_t>(k)));
      double size = 0;
      std::vector<double> direction;
      for (Index c = 0; c < d_; ++c) {
        direction.push_back(
            d_ == 1 ? 1 : random.normals(static_cast<std::uint32_t>(k), 3, static_cast<std::uint64_t>(c))[0]);
        size += direction.back() * direction.back();
      }
      for (Index c = 0; c < d_; ++c)
        wave_.push_back(number * direction[c] / (std::sqrt(size) * deviation_[c]));
    }
  }

  Index size() const { return 2 * d_ + 2 * waves_; }
  /// For a device: the same, in the same order.
  SmoothWaves waves() const { return {mean_, deviation_, wave_}; }

  /// Fields xi (size, d), their divergences and Hessians of rank 1: G = curvature q q^T, q (size, d).
  void at(const double* y, double* xi, double* curvature, double* q) const {
    std::fill_n(xi, size() * d_, 0.0);
    std::fill_n(q, size() * d_, 0.0);
    for (Index c = 0; c < d_; ++c) {
      xi[c * d_ + c] = deviation_[c];
      curvature[c] = 0;
      const Index k = d_ + c;
      xi[k * d_ + c] = y[c] - mean_[c];
      q[k * d_ + c] = 1;
      curvature[k] = 1;
    }
    for (Index k = 0; k < waves_; ++k) {
      const double* wave = wave_.data() + k * d_;
      double phase = 0, square = 0;
      for (Index c = 0; c < d_; ++c) {
        phase += wave[c] * (y[c] - mean_[c]);
        square += wave[c] * wave[c];
      }
      const double s = std::sin(phase) / square, t = std::cos(phase) / square;
      const Index first = 2 * d_ + 2 * k;
      for (Index c = 0; c < d_; ++c) {
        xi[first * d_ + c] = s * wave[c];  // of -cos(phase)/|wave|^4 |wave|^2
        xi[(first + 1) * d_ + c] = t * wave[c];
        q[first * d_ + c] = q[(first + 1) * d_ + c] = wave[c];
      }
      curvature[first] = t;
      curvature[first + 1] = -s;
    }
  }

 private:
  Index d_, waves_ = 0;
  std::vector<double> mean_, deviation_, wave_;
};

/// Independent batches of the law, and deviations that an estimate from them must be above 0 to count.
constexpr Index kBatches = 16;
constexpr double kDeviations = 2;

/// The square of a mean of independent vectors r_a, from their products (batches, batches): products of different ones
/// have no noise in the mean. Less kDeviations of it, by the jackknife; at least 0.
inline double certain_square(const Matrix<double>& products) {
  const Index n = products.rows();
  const double count = static_cast<double>(n);
  double all = 0, own = 0, mean = 0, variance = 0;
  std::vector<double> row(static_cast<std::size_t>(n), 0.0), without(row);
  for (Index a = 0; a < n; ++a) {
    for (Index b = 0; b < n; ++b) row[a] += products(a, b);
    all += row[a];
    own += products(a, a);
  }
  for (Index a = 0; a < n; ++a) {
    without[a] = (all - 2 * row[a] - own + 2 * products(a, a)) / ((count - 1) * (count - 2));
    mean += without[a] / count;
  }
  for (const double one : without) variance += square(one - mean) * (count - 1) / count;
  return std::max(0.0, (all - own) / (count * (count - 1)) - kDeviations * std::sqrt(variance));
}

/// The part of the mean's own product that is noise.
inline double noise_of_mean(const Matrix<double>& products) {
  const Index n = products.rows();
  double all = 0, own = 0;
  for (Index a = 0; a < n; ++a) {
    for (Index b = 0; b < n; ++b) all += products(a, b);
    own += products(a, a);
  }
  const double count = static_cast<double>(n);
  return (own - all / count) / (count * (count - 1));
}

/// A sum over particles of what SmoothFields need. Residuals that are noisy come as many times as there are independent
/// batches of what makes the noise.
class SmoothGain {
 public:
  /// `noisy`: residuals have a part for each of kBatches.
  SmoothGain(const SmoothFields& fields, Index d, bool noisy)
      : fields_(fields),
        d_(d),
        slope_(static_cast<std::size_t>(fields.size()), 0.0),
        batches_(noisy ? kBatches : 0, fields.size()),
        curvature_(fields.size(), fields.size()),
        mass_(fields.size(), fields.size()),
        xi_(fields.size(), d),
        q_(fields.size(), d),
        bend_(static_cast<std::size_t>(fields.size())) {}

  /// r the mean of the residuals; `batches` (kBatches, d) all of them, where they are noisy.
  void add(const double* y, const double* r, const double* batches, MatrixView<const double> hessian,
           double tau, double w, double per_score, double weight) {
    fields_.at(y, xi_.row(0), bend_.data(), q_.row(0));
    const Index n = fields_.size();
    std::vector<double> stiff(static_cast<std::size_t>(d_)), divergence(static_cast<std::size_t>(n));
    for (Index j = 0; j < n; ++j) {
      double square = 0;
      for (Index c = 0; c < d_; ++c) square += q_(j, c) * q_(j, c);
      divergence[j] = bend_[j] * square;
    }
    for (Index j = 0; j < n; ++j) {
      for (Index a = 0; a < d_; ++a) {
        stiff[a] = xi_(j, a) / tau;
        for (Index c = 0; c < d_; ++c) stiff[a] += hessian(a, c) * xi_(j, c);
        slope_[j] += weight * r[a] * xi_(j, a);
        for (Index b = 0; b < batches_.rows(); ++b)
          batches_(b, j) += weight * batches[b * d_ + a] * xi_(j, a);
      }
      for (Index k = 0; k <= j; ++k) {
        double sum = 0, cross = 0, mass = 0;
        for (Index a = 0; a < d_; ++a) {
          sum += stiff[a] * xi_(k, a);
          cross += q_(j, a) * q_(k, a);
          mass += xi_(j, a) * xi_(k, a);
        }
        mass_(j, k) += weight * mass;
        sum += w * bend_[j] * bend_[k] * cross * cross + (per_score - w) * divergence[j] * divergence[k];
        curvature_(j, k) += weight * sum;
      }
    }
    count_ += weight;
  }

  /// Slopes alone: of a force at y in one of the batches.
  void add_force(const double* y, const double* force, Index batch) {
    fields_.at(y, xi_.row(0), bend_.data(), q_.row(0));
    for (Index j = 0; j < fields_.size(); ++j) {
      double slope = 0;
      for (Index a = 0; a < d_; ++a) slope += force[a] * xi_(j, a);
      batches_(batch, j) += slope;
      slope_[j] += slope / static_cast<double>(kBatches);
    }
  }

  struct Result {
    double gain;       // 1/2 b^T C^{-1} b with E[r.xi] = b and the curvatures C
    double squares;    // E |xi|^2 of that displacement
    double noise = 0;  // the gain of noise alone, in the mean of the batches
  };
  /// Infinite where C is not positive definite.
  Result result() const {
    const std::optional<Factor> c = factor();
    if (!c) return {std::numeric_limits<double>::infinity(), std::numeric_limits<double>::infinity(), 0};
    if (batches_.rows() == 0) {
      const std::vector<double> solved = c->solve(slope_);
      return {gain_of(slope_, solved), squares(solved, solved)};
    }
    Matrix<double> gains(kBatches, kBatches), moves(kBatches, kBatches);
    std::vector<std::vector<double>> slopes, solved;
    for (Index b = 0; b < kBatches; ++b) {
      slopes.emplace_back(batches_.row(b), batches_.row(b) + batches_.cols());
      solved.push_back(c->solve(slopes.back()));
    }
    for (Index a = 0; a < kBatches; ++a) {
      for (Index b = 0; b <= a; ++b) {
        gains(a, b) = gains(b, a) = gain_of(slopes[a], solved[b]);
        moves(a, b) = moves(b, a) = squares(solved[a], solved[b]);
      }
    }
    return {certain_square(gains), certain_square(moves), noise_of_mean(gains)};
  }

  /// The displacement itself, as a combination of the fields: empty where C is not positive definite.
  std::vector<double> combination() const {
    const std::optional<Factor> c = factor();
    return c ? c->solve(slope_) : std::vector<double>();
  }

  /// The part of the gain that displacements by this residual's own would have with other slopes, E[r.xi].
  double agreement(const std::vector<double>& others) const {
    const std::optional<Factor> c = factor();
    if (!c) return std::numeric_limits<double>::quiet_NaN();
    const std::vector<double> own = c->solve(slope_);
    return count_ * gain_of(others, own) / gain_of(slope_, own);
  }

 private:
  /// C with a diagonal of ones, and the roots of what it was divided by.
  struct Factor {
    dense::Cholesky cholesky;
    std::vector<double> size;
    /// C^{-1} b.
    std::vector<double> solve(std::vector<double> b) const {
      for (std::size_t j = 0; j < b.size(); ++j) b[j] /= size[j];
      cholesky.solve(b.data(), b.data());
      for (std::size_t j = 0; j < b.size(); ++j) b[j] /= size[j];
      return b;
    }
  };
  std::optional<Factor> factor() const {
    const Index n = fields_.size();
    Matrix<double> c = curvature_;
    double trace = 0;
    std::vector<double> size(static_cast<std::size_t>(n));
    for (Index j = 0; j < n; ++j) size[j] = std::sqrt(std::max(c(j, j), std::numeric_limits<double>::min()));
    for (Index j = 0; j < n; ++j) {
      for (Index k = 0; k <= j; ++k) c(j, k) = c(k, j) = c(j, k) / (size[j] * size[k]);
      trace += c(j, j);
    }
    std::optional<dense::Cholesky> cholesky = dense::Cholesky::of(c, 1e-6 * trace / static_cast<double>(n));
    if (!cholesky) return std::nullopt;
    return Factor{std::move(*cholesky), std::move(size)};
  }
  double gain_of(const std::vector<double>& slopes, const std::vector<double>& solved) const {
    double sum = 0;
    for (std::size_t j = 0; j < slopes.size(); ++j) sum += slopes[j] * solved[j];
    return 0.5 * sum / count_;
  }
  /// E[xi_a . xi_b] of two displacements.
  double squares(const std::vector<double>& a, const std::vector<double>& b) const {
    double sum = 0;
    for (Index j = 0; j < fields_.size(); ++j) {
      sum += a[j] * b[j] * mass_(j, j);
      for (Index k = 0; k < j; ++k) sum += (a[j] * b[k] + a[k] * b[j]) * mass_(j, k);
    }
    return sum / count_;
  }

  const SmoothFields& fields_;
  Index d_;
  std::vector<double> slope_;
  Matrix<double> batches_;  // (kBatches, size): slopes of each
  Matrix<double> curvature_, mass_, xi_, q_;
  std::vector<double> bend_;
  double count_ = 0;
};

}  // namespace brenier
