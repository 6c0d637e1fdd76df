// SPDX-License-Identifier: MIT
#include "engine/src/flow/origins.hpp"

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "engine/src/flow/extrapolation.hpp"
#include "solvers/dense.hpp"

namespace brenier {
namespace {

using Vector = Eigen::VectorXd;
using VectorView = Eigen::Map<const Vector>;

constexpr double kDecrease = 1e-4;     // of |T(x_0) - y|, relative to what a linear T promises
constexpr double kShortest = 0x1p-16;  // of a step, relative to Newton's
constexpr int kPatience = 6;           // steps on end that take less than a tenth off: a fold is in the way
constexpr double kLongest = 10;        // of a step, in lengths of the problem
constexpr int kAttempts = 3;           // particles that a point starts from

/// The particles with the smallest distances to y, nearest first, as far as they are admissible.
std::vector<Index> nearest(const Carried& carried, const double* y) {
  std::vector<std::pair<double, Index>> best;
  const Index d = carried.x.cols();
  for (Index i = 0; i < carried.x.rows(); ++i) {
    if (!carried.admissible[i]) continue;
    const double distance = (VectorView(carried.x.row(i), d) - VectorView(y, d)).squaredNorm();
    if (static_cast<int>(best.size()) == kAttempts && !(distance < best.back().first)) continue;
    const std::pair<double, Index> entry(distance, i);
    best.insert(std::upper_bound(best.begin(), best.end(), entry), entry);
    if (static_cast<int>(best.size()) > kAttempts) best.pop_back();
  }
  std::vector<Index> out;
  for (const auto& [distance, i] : best) out.push_back(i);
  return out;
}

/// A point on the way to its origin.
struct Shot {
  Index row = 0;
  Vector y, x, step, trial;
  std::vector<Index> starts;  // particles not tried yet, nearest first
  double residual = std::numeric_limits<double>::infinity();
  double limit = 0;
  double length = 1;
  int iterations = 0, idle = 0;
  bool ended = false;
  InverseStatus status = InverseStatus::unconverged;

  void end(InverseStatus how) {
    status = how;
    ended = true;
  }
};

class Shooting {
 public:
  Shooting(Maps maps, const Matrix<double>& from, const Carried& carried, const OriginOptions& options,
           Team& team)
      : maps_(maps), from_(from), carried_(carried), options_(options), team_(team) {}

  void solve(std::vector<Shot>& shots) {
    std::vector<Shot*> active;
    for (Shot& shot : shots) active.push_back(&shot);
    for_each(active, [&](Index, Shot& shot) {
      shot.starts = nearest(carried_, shot.y.data());
      restart(shot);
    });
    std::erase_if(active, [](const Shot* shot) { return shot->ended; });
    while (!active.empty()) {
      round(active);
      std::erase_if(active, [](const Shot* shot) { return shot->ended; });
    }
  }

 private:
  Index dim() const { return from_.cols(); }

  template <class Body>
  void for_each(const std::vector<Shot*>& shots, const Body& body) {
    team_.for_each(static_cast<Index>(shots.size()), [&](Index i) { body(i, *shots[i]); });
  }

  void restart(Shot& shot) const {
    if (shot.starts.empty()) {
      shot.end(InverseStatus::unconverged);
      return;
    }
    const Index i = shot.starts.front();
    shot.starts.erase(shot.starts.begin());
    shot.x = VectorView(from_.row(i), dim());
    shot.iterations = shot.idle = 0;
    const Vector difference = VectorView(carried_.x.row(i), dim()) - shot.y;
    shot.residual = difference.norm();
    set_out(shot, difference, carried_.jacobian.row(i));
  }

  /// Ends where `difference` = T(x) - y is small, and takes the Newton step otherwise.
  void set_out(Shot& shot, const Vector& difference, const double* jacobian) const {
    shot.step = -difference;
    dense::lu_solve({jacobian, dim(), dim()}, shot.step.data(), shot.step.data());
    const double length = shot.step.norm();
    if (!std::isfinite(length)) {
      restart(shot);
      return;
    }
    if (shot.residual <= shot.limit) {
      if (length <= 1e-6 * options_.scale) shot.x += shot.step;
      shot.end(InverseStatus::converged);
      return;
    }
    if (shot.iterations >= options_.iterations || shot.idle >= kPatience) {
      restart(shot);
      return;
    }
    const double longest = kLongest * (options_.scale + shot.x.norm());
    if (length > longest) shot.step *= longest / length;
    shot.length = 1;
    shot.trial = shot.x + shot.step;
  }

  void round(const std::vector<Shot*>& active) {
    const Index n = static_cast<Index>(active.size());
    Matrix<double> trial(n, dim());
    for (Index i = 0; i < n; ++i) std::copy_n(active[i]->trial.data(), dim(), trial.row(i));
    const Carried end = carry(maps_, std::move(trial), *options_.ops, team_);
    for_each(active, [&](Index i, Shot& shot) {
      const Vector difference = VectorView(end.x.row(i), dim()) - shot.y;
      const double residual = difference.norm();
      if (end.admissible[i] && residual <= (1 - kDecrease * shot.length) * shot.residual) {
        shot.idle = residual > 0.9 * shot.residual ? shot.idle + 1 : 0;
        shot.x = shot.trial;
        shot.residual = residual;
        ++shot.iterations;
        set_out(shot, difference, end.jacobian.row(i));
        return;
      }
      shot.length /= 2;
      if (shot.length < kShortest) {
        restart(shot);
      } else {
        shot.trial = shot.x + shot.length * shot.step;
      }
    });
  }

  Maps maps_;
  const Matrix<double>& from_;
  const Carried& carried_;
  const OriginOptions& options_;
  Team& team_;
};

Matrix<double> rows(MatrixView<const double> from, const std::vector<Index>& which) {
  Matrix<double> out(static_cast<Index>(which.size()), from.cols);
  for (std::size_t i = 0; i < which.size(); ++i) {
    std::copy_n(from.row(which[i]), from.cols, out.row(static_cast<Index>(i)));
  }
  return out;
}

/// Points that the last map does not reach have no origin, whatever came before it.
void find_outside(const BrenierMap& last, MatrixView<const double> y, std::vector<InverseStatus>& status,
                  const OriginOptions& options, Team& team) {
  std::vector<Index> open;
  for (Index i = 0; i < y.rows; ++i) {
    if (status[i] == InverseStatus::unconverged) open.push_back(i);
  }
  if (open.empty()) return;
  const Matrix<double> target = rows(y, open);
  Matrix<double> x(target.rows(), target.cols());
  const NewtonOptions newton{
      .tolerance = options.tolerance, .scale = options.scale, .iterations = options.iterations};
  const NewtonReport report = last.inverse(target, x, newton, team, *options.ops);
  for (std::size_t i = 0; i < open.size(); ++i) {
    if (report.status[i] == InverseStatus::outside) status[open[i]] = InverseStatus::outside;
  }
}

}  // namespace

Carried carry(Maps maps, Matrix<double> start, const Operations<double>& ops, Team& team) {
  const Index n = start.rows();
  const Index d = start.cols();
  Carried out;
  out.jacobian = Matrix<double>(n, d * d);
  out.admissible.assign(n, 1);
  for (Index i = 0; i < n; ++i) {
    for (Index c = 0; c < d; ++c) out.jacobian(i, c * (d + 1)) = 1;
  }
  Trajectory cloud(Cloud{std::move(start), {}}, true, true);
  cloud.run_on(ops);
  for (const BrenierMap& map : maps) {
    const Matrix<double>& r = cloud.jacobian();
    const Trajectory::Base base = cloud.base(map, team);
    if (!base.admissible) {
      team.run([&](int rank) {
        const auto [begin, end] = team.share(n, rank);
        ExtrapolationJacobian e(d, map.ratio);
        for (Index i = begin; i < end; ++i) {
          e.evaluate(r.row(i));
          if (!e.monotone()) out.admissible[i] = 0;
        }
      });
    }
    cloud.advance(map, base, team);
    if (!map.closes_step) continue;
    team.run([&](int rank) {
      const auto [begin, end] = team.share(n, rank);
      Matrix<double> before(d, d);
      for (Index i = begin; i < end; ++i) {
        const MatrixView<double> j(out.jacobian.row(i), d, d);
        std::copy_n(j.data, d * d, before.data());
        dense::multiply({cloud.jacobian().row(i), d, d}, before, j);
      }
    });
  }
  out.x = cloud.x();
  for (Index i = 0; i < n; ++i) {
    if (!VectorView(out.x.row(i), d).allFinite() || !VectorView(out.jacobian.row(i), d * d).allFinite()) {
      out.admissible[i] = 0;
    }
  }
  return out;
}

std::vector<InverseStatus> origins_by_map(Maps maps, MatrixView<const double> y, MatrixView<double> x,
                                          const OriginOptions& options, Team& team) {
  std::vector<InverseStatus> status(y.rows, InverseStatus::converged);
  std::vector<Index> open(y.rows);
  for (Index i = 0; i < y.rows; ++i) open[i] = i;
  Matrix<double> at = rows(y, open);
  const NewtonOptions newton{
      .tolerance = options.tolerance, .scale = options.scale, .iterations = options.iterations};
  for (auto map = maps.rbegin(); map != maps.rend() && !open.empty(); ++map) {
    Matrix<double> before(at.rows(), at.cols());
    const NewtonReport report = map->inverse(at, before, newton, team, *options.ops);
    std::vector<Index> still, kept;
    for (std::size_t i = 0; i < open.size(); ++i) {
      status[open[i]] = report.status[i];
      if (report.status[i] != InverseStatus::converged) continue;
      kept.push_back(static_cast<Index>(i));
      still.push_back(open[i]);
    }
    at = rows(before, kept);
    open = std::move(still);
  }
  for (std::size_t i = 0; i < open.size(); ++i) {
    std::copy_n(at.row(static_cast<Index>(i)), at.cols(), x.row(open[i]));
  }
  return status;
}

std::vector<InverseStatus> origins_by_trajectory(Maps maps, const Matrix<double>& from,
                                                 const Carried& carried, MatrixView<const double> y,
                                                 MatrixView<double> x, const OriginOptions& options,
                                                 Team& team) {
  std::vector<InverseStatus> status(y.rows, InverseStatus::outside);
  std::vector<Shot> shots;
  for (Index i = 0; i < y.rows; ++i) {
    Shot shot;
    shot.row = i;
    shot.y = VectorView(y.row(i), y.cols);
    shot.limit = options.tolerance * (options.scale + shot.y.norm());
    if (std::isfinite(shot.limit)) shots.push_back(std::move(shot));
  }
  Shooting(maps, from, carried, options, team).solve(shots);
  for (const Shot& shot : shots) {
    status[shot.row] = shot.status;
    if (shot.status == InverseStatus::converged) std::copy_n(shot.x.data(), x.cols, x.row(shot.row));
  }
  find_outside(maps.back(), y, status, options, team);
  return status;
}

}  // namespace brenier
