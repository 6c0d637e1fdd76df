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
#include "kernels/base/moments.hpp"
#include "kernels/base/show.hpp"
#include "kernels/base/subset.hpp"
#include "kernels/resident_cloud.hpp"
#include "solvers/dense.hpp"
#include "solvers/lbfgs.hpp"

namespace brenier {
namespace {

/// Where a Newton step of B and t would see curvatures that differ by more than this, they are searched for in units that do not.
constexpr double kStiff = 100;

/// The search in t/S and the logarithm of a factor, or B with A = least I + B^T B: the same in every unit. Where the cloud is
/// wide in some directions and narrow in others, or V stiff, in the principal axes of the cloud and in units of the curvature
/// there: see find_units().
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
    if (whole()) find_units(covariance(x_, centre_, scale_));
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
    if (!whole()) return;
    // Its principal axes would have to be brought here: deviations along the coordinates are known there.
    const std::vector<double> deviation = CloudView(x).widths().deviation;
    Matrix<double> squares(d_, d_);
    for (Index a = 0; a < d_; ++a) squares(a, a) = square(deviation[static_cast<std::size_t>(a)] / scale_);
    find_units(squares);
  }

  /// Whether curvatures differ by more than kStiff.
  bool stiff() const { return !units_.empty(); }
  double narrowest() const { return narrowest_; }
  /// What a Newton step from the identity moves the axis by that it moves most; NaN where it is not known.
  double newton() const { return newton_; }

  std::size_t size() const {
    const Index stretch = !options_.stretches ? 0 : options_.full ? d_ * d_ : 1;
    return static_cast<std::size_t>(d_ + stretch);
  }
  /// The identity.
  std::vector<double> start() const {
    std::vector<double> out(size(), 0.0);
    for (Index c = 0; options_.stretches && options_.full && c < d_; ++c)
      out[static_cast<std::size_t>(d_ + c * d_ + c)] = std::sqrt(1 - options_.least) / unit(d_ + c * d_ + c);
    return out;
  }

  AffineMap map(const double* p) const {
    AffineMap out;
    out.centre = centre_;
    out.matrix = Matrix<double>(d_, d_);
    for (Index c = 0; c < d_; ++c) out.shift.push_back(scale_ * unit(c) * p[c]);
    if (stiff()) out.shift = from_axes(out.shift);
    for (Index a = 0; a < d_; ++a) out.matrix(a, a) = 1;
    if (!options_.stretches) return out;
    if (!options_.full) {
      for (Index a = 0; a < d_; ++a) out.matrix(a, a) = std::max(options_.least, std::exp(p[d_]));
      return out;
    }
    const std::vector<double> b = factor(p);
    for (Index i = 0; i < d_; ++i) {
      for (Index j = 0; j < d_; ++j) {
        double sum = i == j ? options_.least : 0;
        for (Index k = 0; k < d_; ++k) sum += b[k * d_ + i] * b[k * d_ + j];
        out.matrix(i, j) = sum;
      }
    }
    if (stiff()) out.matrix = dense::congruent(axes_, out.matrix);
    return out;
  }

  /// F + transport and its gradient by p.
  double evaluate(const double* p, double* gradient) {
    const AffineMap affine = map(p);
    const std::optional<dense::Cholesky> factor = dense::Cholesky::of(affine.matrix);
    if (!factor) return std::numeric_limits<double>::quiet_NaN();
    const Sums sums = sums_at(affine, factor->log_determinant());
    by_shift(sums.shift, gradient);
    by_stretch(p, affine, sums, gradient);
    return sums.value;
  }

 private:
  /// J at a map, and what its gradient is made of.
  using Sums = ResidentCloud::Affine::Sums;
  Sums sums_at(const AffineMap& affine, double log_det) {
    if (resident_) return resident_->at(affine.matrix, affine.shift, log_det);
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
    Sums out{0, 0, std::vector<double>(static_cast<std::size_t>(d_), 0.0), Matrix<double>(d_, d_)};
    evaluation_.force(y, force, team_, &out.value);
    if (internal_) {
      std::vector<double> log_density = log_density_;
      for (double& one : log_density) one -= log_det;
      const CloudObjective::Internal internal = evaluation_.internal(log_density, team_);
      out.value += internal.value;
      out.pressure = internal.pressure;
    }
    // r = force + (y - from)/tau; dJ/dt = E r, dJ/dA = E r (x - m)^T - pressure A^{-1}.
    const double share = 1 / static_cast<double>(n);
    Matrix<double> by_matrix(d_, d_);
    for (Index i = 0; i < n; ++i) {
      for (Index a = 0; a < d_; ++a) {
        const double step = y(i, a) - from_(i, a);
        const double r = share * (force(i, a) + step / tau_);
        out.value += share * step * step / (2 * tau_);
        out.shift[static_cast<std::size_t>(a)] += r;
        if (!options_.full) {
          by_matrix(a, a) += r * (x_(i, a) - centre_[a]);
        } else {
          for (Index b = 0; b < d_; ++b) by_matrix(a, b) += r * (x_(i, b) - centre_[b]);
        }
      }
    }
    for (Index a = 0; a < d_; ++a) {
      for (Index b = 0; b < d_; ++b) out.matrix(a, b) = by_matrix(a, b) + by_matrix(b, a);
    }
    return out;
  }

  /// Whether all of A is looked for.
  bool whole() const { return options_.stretches && options_.full; }
  /// What a parameter of 1 stands for.
  double unit(Index k) const { return stiff() ? units_[static_cast<std::size_t>(k)] : 1; }
  /// B, from the parameters.
  std::vector<double> factor(const double* p) const {
    std::vector<double> out(p + d_, p + d_ + d_ * d_);
    for (Index k = 0; stiff() && k < d_ * d_; ++k) out[static_cast<std::size_t>(k)] *= unit(d_ + k);
    return out;
  }
  /// Of a vector in the principal axes.
  std::vector<double> from_axes(const std::vector<double>& v) const {
    std::vector<double> out(v.size(), 0.0);
    for (Index a = 0; a < d_; ++a) {
      for (Index k = 0; k < d_; ++k) out[a] += axes_(a, k) * v[k];
    }
    return out;
  }
  std::vector<double> to_axes(const std::vector<double>& v) const {
    std::vector<double> out(v.size(), 0.0);
    for (Index k = 0; k < d_; ++k) {
      for (Index a = 0; a < d_; ++a) out[k] += axes_(a, k) * v[a];
    }
    return out;
  }
  /// The curvature of J by B_kj at the identity, in the principal axes: those of transport and of internal energies exactly, that
  /// of V by its virial E[V_k (x - m)_k] = (H C)_kk, which is exact where V is quadratic.
  /// `squares`: the covariance over scale_ squared.
  void find_units(const Matrix<double>& squares) {
    const dense::SymmetricEigen spectrum = dense::symmetric_eigen(squares, true);
    if (!spectrum.converged || !(spectrum.values.front() > 1e-14 * spectrum.values.back())) return;
    axes_ = spectrum.vectors;
    narrowest_ = std::sqrt(spectrum.values.front());
    AffineMap identity;
    identity.matrix = Matrix<double>(d_, d_);
    for (Index a = 0; a < d_; ++a) identity.matrix(a, a) = 1;
    identity.shift.assign(static_cast<std::size_t>(d_), 0.0);
    const Sums sums = sums_at(identity, 0);
    const Matrix<double> along = dense::congruent(dense::transposed(axes_), sums.matrix);
    std::vector<double> width(static_cast<std::size_t>(d_)), virial(width);
    for (Index k = 0; k < d_; ++k) {
      width[k] = square(scale_) * spectrum.values[static_cast<std::size_t>(k)];
      virial[k] = std::abs(along(k, k)) / 2;
    }
    std::vector<double> curvature(size());
    newton_ = 0;
    for (Index k = 0; k < d_; ++k) {
      curvature[k] = square(scale_) * (1 / tau_ + virial[k] / width[k]);
      double moved = 0;  // of A, by B and its transpose
      for (Index j = 0; j < d_; ++j) {
        double& by_factor = curvature[d_ + k * d_ + j];
        by_factor = (width[j] + width[k]) / tau_ + virial[k] * width[j] / width[k] +
                    virial[j] * width[k] / width[j] + 2 * std::abs(sums.pressure);
        const double slope = along(k, j) - (k == j ? 2 * sums.pressure : 0);
        moved += square(slope / by_factor) * (width[j] / width[k]);
      }
      newton_ = std::isnan(moved) ? moved : std::max(newton_, std::sqrt(moved));
      if (std::isnan(newton_)) return;
    }
    double least = std::numeric_limits<double>::infinity(), most = 0;
    for (const double one : curvature) {
      least = std::min(least, one);
      most = std::max(most, one);
    }
    if (!std::isfinite(most) || !(least > 0) || most < kStiff * least) return;
    for (const double one : curvature) units_.push_back(std::sqrt(least / one));
  }

  void by_shift(const std::vector<double>& mean, double* gradient) const {
    const std::vector<double> along = stiff() ? to_axes(mean) : mean;
    for (Index k = 0; k < d_; ++k) gradient[k] = scale_ * unit(k) * along[static_cast<std::size_t>(k)];
  }

  /// The rest of the gradient from dJ/dA = E r (x - m)^T - pressure A^{-1}, of which the symmetric part counts.
  void by_stretch(const double* p, const AffineMap& affine, const Sums& sums, double* gradient) const {
    if (!options_.stretches) return;
    if (!options_.full) {
      gradient[d_] = -sums.pressure * static_cast<double>(d_);
      for (Index a = 0; a < d_; ++a) gradient[d_] += affine.matrix(0, 0) * sums.matrix(a, a) / 2;
      return;
    }
    Matrix<double> slope = dense::inverse(affine.matrix);
    for (std::size_t k = 0; k < slope.elements().size(); ++k)
      slope.elements()[k] = sums.matrix.elements()[k] - 2 * sums.pressure * slope.elements()[k];
    if (stiff()) slope = dense::congruent(dense::transposed(axes_), slope);
    const std::vector<double> b = factor(p);
    for (Index k = 0; k < d_; ++k) {
      for (Index j = 0; j < d_; ++j) {
        double sum = 0;
        for (Index i = 0; i < d_; ++i) sum += b[k * d_ + i] * slope(i, j);
        gradient[d_ + k * d_ + j] = unit(d_ + k * d_ + j) * sum;
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
  Matrix<double> axes_;        // (d, d), the principal axes of the cloud in columns
  std::vector<double> units_;  // of the parameters; empty: 1, and in the coordinates of the cloud
  double narrowest_ = 1;
  double newton_ = std::numeric_limits<double>::quiet_NaN();
  std::unique_ptr<ResidentCloud::Affine> resident_;
};

}  // namespace

Index affine_particles(const Objective& objective, Index wanted) {
  if (!objective.interaction.empty()) wanted = std::min<Index>(wanted, 512);
  if (!objective.divergence.empty()) wanted = std::min<Index>(wanted, 256);
  return wanted;
}

AffineMap best_affine(const Objective& objective, const CloudView& x, const CloudView& from, double tau,
                      const AffineOptions& options, const Operations<double>& ops, Team& team) {
  const Index count = affine_particles(objective, std::max(options.particles, 8 * x.cols()));
  AffineOptions used = options;
  if (count < 4 * x.cols() || x.rows() < 4 * x.cols()) used.full = false;  // too few for a whole matrix
  std::optional<Search> where;
  const auto search_on = [&](Index rows_wanted) {
    where.reset();
    if (x.resident() && from.resident() && has_residuals(objective) && x.cols() <= kResidentDim) {
      const auto made = where_there_is_room([&] {
        const auto some = x.resident()->subset(rows_wanted, options.seed);
        const auto some_from = &from == &x ? some : from.resident()->subset(rows_wanted, options.seed);
        where.emplace(objective, *some, some_from, tau, used, ops, team);
        return true;
      });
      if (made) return;
      where.reset();
    }
    const std::vector<Index> rows = spread(x.rows(), rows_wanted, options.seed);
    std::vector<double> some_density;
    Matrix<double> some = x.take(rows, &some_density);
    Matrix<double> some_from = &from == &x ? some : from.take(rows);
    where.emplace(objective, std::move(some), std::move(some_density), std::move(some_from), tau, used, ops,
                  team);
  };
  search_on(count);
  if (where->stiff() && count < x.rows() && objective.interaction.empty() && objective.divergence.empty()) {
    // What some particles leave open in a narrow axis, no gradient of the network will find in a wide one's units.
    search_on(std::max(count, 1048576 / (x.cols() * x.cols())));
  }
  Search& search = *where;
  std::vector<double> p = search.start();
  if (search.newton() <= used.negligible) return search.map(p.data());
  const std::vector<double> lower(p.size(), -std::numeric_limits<double>::infinity());
  const std::vector<double> metric(p.size(), 1.0);
  const BoundedProblem<double> problem{
      [&](const double* at, double* gradient) { return search.evaluate(at, gradient); }, lower, metric};
  // Where directions differ much, a decrease next to nothing in one is all that there is in another.
  const double tolerance = search.stiff() ? 1e-13 : 1e-3;
  const int evaluations = search.stiff() ? 4 * used.evaluations : used.evaluations;
  const LbfgsReport found = minimise(
      problem, {.evaluations = evaluations, .tolerance = tolerance, .window = 2, .first_step = 0.1}, p);
  AffineMap out = search.map(p.data());
  out.narrowest = search.narrowest();
  out.decrease = found.end == LbfgsReport::End::not_finite ? 0 : found.first - found.value;
  return out;
}

}  // namespace brenier
