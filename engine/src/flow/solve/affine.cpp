// SPDX-License-Identifier: MIT
#include "engine/src/flow/solve/affine.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <utility>

#include "brenier/base/error.hpp"
#include "engine/src/flow/solve/scale.hpp"
#include "kernels/base/show.hpp"
#include "kernels/base/subset.hpp"
#include "kernels/resident_cloud.hpp"
#include "solvers/dense.hpp"
#include "solvers/lbfgs.hpp"

namespace brenier {
namespace {

/// The search in t/S and the logarithm of a factor, or B with A = least I + B^T B: the same in every unit.
class Search {
 public:
  Search(const Objective& objective, Matrix<double> x, std::vector<double> log_density, Matrix<double> from,
         double tau, const AffineOptions& options, const Operations<double>& ops, Team& team)
      : evaluation_(objective, ops),
        x_(std::move(x)),
        log_density_(std::move(log_density)),
        from_(std::move(from)),
        tau_(tau),
        options_(options),
        team_(team),
        d_(x_.cols()),
        internal_(!objective.internal.empty()) {
    location_and_scale(x_, centre_, scale_);
  }

  /// The particles on a device: x, with its log-densities, and what transport is measured from.
  Search(const Objective& objective, const ResidentCloud& x, const std::shared_ptr<const ResidentCloud>& from,
         double tau, const AffineOptions& options, const Operations<double>& ops, Team& team)
      : evaluation_(objective, ops),
        tau_(tau),
        options_(options),
        team_(team),
        d_(x.cols()),
        internal_(!objective.internal.empty()) {
    CloudView(x).location_and_scale(centre_, scale_);
    resident_ = x.affine(objective, from, centre_, tau);
  }

  std::size_t size() const {
    const Index stretch = !options_.stretches ? 0 : options_.full ? d_ * d_ : 1;
    return static_cast<std::size_t>(d_ + stretch);
  }
  /// The identity.
  std::vector<double> start() const {
    std::vector<double> out(size(), 0.0);
    for (Index c = 0; options_.stretches && options_.full && c < d_; ++c)
      out[static_cast<std::size_t>(d_ + c * d_ + c)] = std::sqrt(1 - options_.least);
    return out;
  }

  AffineMap map(const double* p) const {
    AffineMap out;
    out.centre = centre_;
    out.matrix = Matrix<double>(d_, d_);
    for (Index c = 0; c < d_; ++c) out.shift.push_back(scale_ * p[c]);
    for (Index a = 0; a < d_; ++a) out.matrix(a, a) = 1;
    if (!options_.stretches) return out;
    if (!options_.full) {
      for (Index a = 0; a < d_; ++a) out.matrix(a, a) = std::max(options_.least, std::exp(p[d_]));
      return out;
    }
    const double* b = p + d_;
    for (Index i = 0; i < d_; ++i) {
      for (Index j = 0; j < d_; ++j) {
        double sum = i == j ? options_.least : 0;
        for (Index k = 0; k < d_; ++k) sum += b[k * d_ + i] * b[k * d_ + j];
        out.matrix(i, j) = sum;
      }
    }
    return out;
  }

  /// F + transport and its gradient by p.
  double evaluate(const double* p, double* gradient) {
    const AffineMap affine = map(p);
    const std::optional<dense::Cholesky> factor = dense::Cholesky::of(affine.matrix);
    if (!factor) return std::numeric_limits<double>::quiet_NaN();
    const double log_det = factor->log_determinant();
    if (resident_) {
      ResidentCloud::Affine::Sums sums = resident_->at(affine.matrix, affine.shift, log_det);
      std::fill_n(gradient, size(), 0.0);
      for (Index a = 0; a < d_; ++a) gradient[a] = scale_ * sums.shift[static_cast<std::size_t>(a)];
      for (double& element : sums.matrix.elements()) element /= 2;
      by_stretch(p, affine, sums.matrix, sums.pressure, gradient);
      return sums.value;
    }
    const Index n = x_.rows();
    Matrix<double> y(n, d_), force(n, d_);
    for (Index i = 0; i < n; ++i) {
      for (Index a = 0; a < d_; ++a) {
        double moved = affine.shift[a] + centre_[a];
        if (options_.full) {
          for (Index b = 0; b < d_; ++b) moved += affine.matrix(a, b) * (x_(i, b) - centre_[b]);
        } else {
          moved += affine.matrix(a, a) * (x_(i, a) - centre_[a]);
        }
        y(i, a) = moved;
      }
    }
    double value = 0;
    evaluation_.force(y, force, team_, &value);
    double pressure = 0;
    if (internal_) {
      std::vector<double> log_density = log_density_;
      for (double& one : log_density) one -= log_det;
      const CloudObjective::Internal internal = evaluation_.internal(log_density, team_);
      value += internal.value;
      pressure = internal.pressure;
    }
    // r = force + (y - from)/tau; dJ/dt = E r, dJ/dA = E r (x - m)^T - pressure A^{-1}.
    const double share = 1 / static_cast<double>(n);
    std::fill_n(gradient, size(), 0.0);
    Matrix<double> by_matrix(d_, d_);
    for (Index i = 0; i < n; ++i) {
      for (Index a = 0; a < d_; ++a) {
        const double step = y(i, a) - from_(i, a);
        const double r = share * (force(i, a) + step / tau_);
        value += share * step * step / (2 * tau_);
        gradient[a] += scale_ * r;
        if (!options_.full) {
          by_matrix(a, a) += r * (x_(i, a) - centre_[a]);
        } else {
          for (Index b = 0; b < d_; ++b) by_matrix(a, b) += r * (x_(i, b) - centre_[b]);
        }
      }
    }
    by_stretch(p, affine, by_matrix, pressure, gradient);
    return value;
  }

 private:
  /// The rest of the gradient from dJ/dA = by_matrix - pressure A^{-1}, of which the symmetric part counts.
  void by_stretch(const double* p, const AffineMap& affine, const Matrix<double>& by_matrix, double pressure,
                  double* gradient) const {
    if (!options_.stretches) return;
    if (!options_.full) {
      const double factor_value = affine.matrix(0, 0);
      for (Index a = 0; a < d_; ++a) gradient[d_] += factor_value * by_matrix(a, a);
      gradient[d_] -= pressure * static_cast<double>(d_);
      return;
    }
    const Matrix<double> inverse = dense::inverse(affine.matrix);
    const double* b = p + d_;
    for (Index k = 0; k < d_; ++k) {
      for (Index j = 0; j < d_; ++j) {
        double sum = 0;
        for (Index i = 0; i < d_; ++i) {
          const double g = by_matrix(i, j) + by_matrix(j, i) - 2 * pressure * inverse(i, j);
          sum += b[k * d_ + i] * g;
        }
        gradient[d_ + k * d_ + j] = sum;
      }
    }
  }

  CloudObjective evaluation_;
  Matrix<double> x_;
  std::vector<double> log_density_;
  Matrix<double> from_;
  double tau_;
  AffineOptions options_;
  Team& team_;
  Index d_;
  bool internal_;
  std::vector<double> centre_;
  double scale_ = 1;
  std::unique_ptr<ResidentCloud::Affine> resident_;
};

/// Above this dimension a map has more numbers than particles have.
constexpr Index kResidentDim = 64;

}  // namespace

AffineMap best_affine(const Objective& objective, const CloudView& x, const CloudView& from, double tau,
                      const AffineOptions& options, const Operations<double>& ops, Team& team) {
  Index count = std::max(options.particles, 8 * x.cols());
  if (!objective.interaction.empty()) count = std::min<Index>(count, 512);
  if (!objective.divergence.empty()) count = std::min<Index>(count, 256);
  AffineOptions used = options;
  if (count < 4 * x.cols() || x.rows() < 4 * x.cols()) used.full = false;  // too few for a whole matrix
  const auto on_device = [&]() -> std::optional<Search> {
    if (!x.resident() || !from.resident() || !has_residuals(objective) || x.cols() > kResidentDim)
      return std::nullopt;
    return where_there_is_room([&] {
      const auto some = x.resident()->subset(count, options.seed);
      const auto some_from = &from == &x ? some : from.resident()->subset(count, options.seed);
      return Search(objective, *some, some_from, tau, used, ops, team);
    });
  };
  std::optional<Search> where = on_device();
  if (!where) {
    const std::vector<Index> rows = spread(x.rows(), count, options.seed);
    std::vector<double> some_density;
    Matrix<double> some = x.take(rows, &some_density);
    Matrix<double> some_from = &from == &x ? some : from.take(rows);
    where.emplace(objective, std::move(some), std::move(some_density), std::move(some_from), tau, used, ops,
                  team);
  }
  Search& search = *where;
  std::vector<double> p = search.start();
  const std::vector<double> lower(p.size(), -std::numeric_limits<double>::infinity());
  const std::vector<double> metric(p.size(), 1.0);
  const BoundedProblem<double> problem{
      [&](const double* at, double* gradient) { return search.evaluate(at, gradient); }, lower, metric};
  const LbfgsReport found = minimise(
      problem, {.evaluations = used.evaluations, .tolerance = 1e-3, .window = 2, .first_step = 0.1}, p);
  AffineMap out = search.map(p.data());
  out.decrease = found.end == LbfgsReport::End::not_finite ? 0 : found.first - found.value;
  return out;
}

}  // namespace brenier
