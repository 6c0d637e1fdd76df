// SPDX-License-Identifier: MIT
// Clouds carried by maps, with densities. Second order needs Jacobians along trajectories: with E that of the
// extrapolation (engine/src/flow/extrapolation.hpp), the step makes R_{n+1} = dx_{n+1}/dx_n = H E. For d > 1 none
// of these but H is symmetric.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <utility>

#include "brenier/base/error.hpp"
#include "brenier/map.hpp"
#include "engine/src/checks/shape_check.hpp"
#include "engine/src/device/device_arrays.hpp"
#include "engine/src/flow/extrapolation.hpp"
#include "kernels/base/show.hpp"
#include "kernels/operations.hpp"
#include "kernels/resident_cloud.hpp"

namespace brenier {
namespace {

constexpr Index kBlock = 16384;  // particles at a time, to bound the memory for Hessians

/// Whether points of dimension d can be mapped, with log-determinants.
void check_map(const BrenierMap& map, Index d, bool log_det) {
  if (d != map.net.dim()) {
    throw ShapeError("map: points have dimension " + std::to_string(d) + ", the map is of dimension " +
                     std::to_string(map.net.dim()));
  }
  check_parameters("map", map.net, map.theta);
  if (log_det) check_smooth("map: a log-determinant", map.net);
}

}  // namespace

void BrenierMap::evaluate(MatrixView<const double> x, MatrixView<double> displacement, double* log_det,
                          MatrixView<double> hessian, Team& team, const Operations<double>& ops) const {
  check_map(*this, x.cols, log_det != nullptr);
  check_result("map: displacements", displacement, x.rows, x.cols);
  check_result("map: Hessians", hessian, x.rows, x.cols * x.cols);
  MapOutputs<double> out;
  out.displacement = displacement;
  out.log_det = log_det;
  out.hessian = hessian;
  ops.evaluate(net, theta.data(), x, out, team);
}

NewtonReport BrenierMap::inverse(MatrixView<const double> y, MatrixView<double> x,
                                 const NewtonOptions& options, Team& team,
                                 const Operations<double>& ops) const {
  if (y.cols != net.dim() || x.cols != y.cols || x.rows != y.rows) {
    throw ShapeError("map: the inverse at " + std::to_string(y.rows) + " points of dimension " +
                     std::to_string(y.cols) + ", into " + std::to_string(x.rows) + " of dimension " +
                     std::to_string(x.cols) + "; the map is of dimension " + std::to_string(net.dim()));
  }
  check_parameters("map", net, theta);
  check_smooth("map: the inverse", net);
  return invert_gradient(ops, net, theta.data(), y, x, false, options, team);
}

Trajectory::Trajectory(Cloud start, bool second_order, std::optional<bool> jacobians)
    : x_(std::move(start.x)),
      log_density_(std::move(start.log_density)),
      rows_(x_.rows()),
      cols_(x_.cols()),
      second_order_(second_order),
      jacobians_(second_order && jacobians.value_or(!log_density_.empty())),
      density_(!log_density_.empty()) {
  if (x_.rows() < 1 || x_.cols() < 1) throw ValueError("cloud: no particles; at least one is needed");
  if (!log_density_.empty() && static_cast<Index>(log_density_.size()) != x_.rows()) {
    throw ShapeError("cloud: " + std::to_string(log_density_.size()) + " log-densities for " +
                     std::to_string(x_.rows()) + " particles");
  }
  if (second_order && !jacobians_ && has_density()) {
    throw ValueError("trajectory: densities of second-order steps need Jacobians");
  }
  for (Index i = 0; i < x_.rows(); ++i) {
    for (Index c = 0; c < x_.cols(); ++c) {
      if (std::isfinite(x_(i, c))) continue;
      throw ValueError("cloud: particle " + std::to_string(i) + " has the coordinate " + show(x_(i, c)) +
                       "; all coordinates must be finite");
    }
    if (has_density() &&
        (std::isnan(log_density_[i]) || log_density_[i] == std::numeric_limits<double>::infinity())) {
      throw ValueError("cloud: particle " + std::to_string(i) + " has the log-density " +
                       show(log_density_[i]) +
                       "; log-densities must be finite, or -inf where the density vanishes");
    }
  }
}

void Trajectory::run_on(const Operations<double>& ops) {
  if (operations_ == &ops) return;
  if (!here_) bring();
  resident_.reset();
  operations_ = &ops;
}

Trajectory Trajectory::on(const Operations<double>& ops, std::shared_ptr<const ResidentCloud> cloud) {
  Trajectory out;
  out.rows_ = cloud->rows();
  out.cols_ = cloud->cols();
  out.density_ = cloud->has_density();
  out.resident_ = std::move(cloud);
  out.here_ = false;
  out.operations_ = &ops;
  return out;
}

void Trajectory::write(const DeviceResults& to) const {
  check_device_arrays(to, rows_, cols_);
  if (!operations_ || !operations_->reside)
    throw ValueError("trajectory: arrays on a device, and its maps are applied on the host; see run_on()");
  if (to.log_density && !density_)
    throw ValueError("flow: the log-densities of this cloud are not known: it was given without");
  if (resident_ && resident_->reachable()) {
    resident_->write(to);
  } else {
    operations_->reside(x(), density_ ? log_density().data() : nullptr)->write(to);
  }
}

void Trajectory::bring() const {
  x_ = Matrix<double>(rows_, cols_);
  if (density_) log_density_.resize(static_cast<std::size_t>(rows_));
  resident_->download(x_, density_ ? log_density_.data() : nullptr);
  here_ = true;
}

Trajectory::Base Trajectory::base(MapBase kind, double ratio, Team& team) const {
  if (operations_ && operations_->reside && !second_order_ && kind == MapBase::current) {
    if (resident_ && !resident_->reachable()) {  // the flow has moved to another device
      if (!here_) bring();
      resident_.reset();
    }
    if (!resident_) resident_ = operations_->reside(x_, density_ ? log_density_.data() : nullptr);
    return {{}, {}, true, resident_};
  }
  Base out{x_, log_density_, true};
  if (kind == MapBase::current) return out;
  if (!has_previous()) throw ValueError("trajectory: an extrapolated step needs a step before it");
  const Index d = x_.cols();
  const double share = extrapolation(ratio);
  for (std::size_t k = 0; k < out.x.elements().size(); ++k) {
    out.x.elements()[k] += share * (x_.elements()[k] - previous_.elements()[k]);
  }
  if (!jacobians_) return out;
  std::atomic<bool> admissible = true;
  team.run([&](int rank) {
    const auto [begin, end] = team.share(x_.rows(), rank);
    ExtrapolationJacobian e(d, ratio);
    for (Index i = begin; i < end; ++i) {
      e.evaluate(jacobian_.row(i));
      if (!e.monotone()) admissible.store(false, std::memory_order_relaxed);
      if (has_density()) out.log_density[i] -= std::log(std::abs(e.determinant()));
    }
  });
  out.admissible = admissible;
  return out;
}

void Trajectory::advance(const BrenierMap& map, const Base& from, Team& team, const ResidentMap* there) {
  if (from.resident) {
    check_map(map, from.resident->cols(), density_);
    ResidentCloud::Image image =
        there ? from.resident->image(*there) : from.resident->image(map.net, map.theta.data());
    resident_ = std::move(image.cloud);
    min_log_det_ = image.least_log_det;
    squares_ = image.squares;
    here_ = false;
    x_ = {};
    log_density_ = {};
    return;
  }
  const Index n = x_.rows();
  const Index d = x_.cols();
  squares_ = 0;
  Matrix<double> displacement(std::min(n, kBlock), d);
  std::vector<double> squares(static_cast<std::size_t>(std::min(n, kBlock)));
  std::vector<double> log_det(has_density() ? std::min(n, kBlock) : 0);
  Matrix<double> hessian(jacobians_ ? std::min(n, kBlock) : 0, d * d);
  // R before this map is folded in: of the extrapolation, of earlier start-up maps, or the identity.
  const bool pending = !pending_jacobian_.empty();
  if (second_order_ && step_start_.empty()) step_start_ = x_;
  Matrix<double> r = jacobians_ ? Matrix<double>(n, d * d) : Matrix<double>();
  min_log_det_ = has_density() ? std::numeric_limits<double>::infinity() : 0;
  for (Index begin = 0; begin < n; begin += kBlock) {
    const Index count = std::min(kBlock, n - begin);
    const MatrixView<const double> x = from.x.view().rows_from(begin, count);
    map.evaluate(x, displacement.view().rows_from(0, count), has_density() ? log_det.data() : nullptr,
                 jacobians_ ? hessian.view().rows_from(0, count) : MatrixView<double>(), team,
                 operations_ ? *operations_ : backend<double>("cpu"));
    team.run([&](int rank) {
      const auto [first, last] = team.share(count, rank);
      for (Index i = first; i < last; ++i) {
        double square = 0;
        for (Index c = 0; c < d; ++c) {
          const double before = from.x(begin + i, c);
          const double after = before + displacement(i, c);
          x_(begin + i, c) = after;
          const double step = after - before;
          square += step * step;
        }
        squares[static_cast<std::size_t>(i)] = square;
      }
    });
    for (Index i = 0; i < count; ++i) {
      squares_ += squares[static_cast<std::size_t>(i)];
      if (!has_density()) continue;
      const Index particle = begin + i;
      log_density_[particle] = from.log_density[particle] - log_det[i];
      min_log_det_ = std::isnan(log_det[i]) ? log_det[i] : std::min(min_log_det_, log_det[i]);
    }
    if (!jacobians_) continue;
    team.run([&](int rank) {
      const auto [first, last] = team.share(count, rank);
      ExtrapolationJacobian e(d, map.ratio);
      for (Index i = first; i < last; ++i) {
        const MatrixView<const double> h(hessian.row(i), d, d);
        const MatrixView<double> out(r.row(begin + i), d, d);
        if (map.base == MapBase::extrapolated) {
          e.evaluate(jacobian_.row(begin + i));
          dense::multiply(h, e.value(), out);
        } else if (pending) {
          dense::multiply(h, {pending_jacobian_.row(begin + i), d, d}, out);
        } else {
          std::copy_n(h.data, d * d, out.data);
        }
      }
    });
  }
  if (!second_order_) return;
  if (map.closes_step) {
    previous_ = std::move(step_start_);
    step_start_ = {};
    jacobian_ = std::move(r);
    pending_jacobian_ = {};
  } else {
    pending_jacobian_ = std::move(r);
  }
}

Trajectory Trajectory::restore(Matrix<double> x, std::vector<double> log_density, Matrix<double> previous,
                               Matrix<double> jacobian, bool second_order) {
  const auto fits = [&](const Matrix<double>& m, Index cols, const char* name) {
    if (!m.empty() && (m.rows() != x.rows() || m.cols() != cols)) {
      throw ShapeError(std::string("trajectory: ") + name + " is " + std::to_string(m.rows()) + " x " +
                       std::to_string(m.cols()) + " for " + std::to_string(x.rows()) +
                       " particles in dimension " + std::to_string(x.cols()));
    }
  };
  fits(previous, x.cols(), "the previous cloud");
  fits(jacobian, x.cols() * x.cols(), "the Jacobian");
  const bool jacobians = previous.empty() || !jacobian.empty();
  Trajectory out(Cloud{std::move(x), std::move(log_density)}, second_order, jacobians);
  out.previous_ = std::move(previous);
  out.jacobian_ = std::move(jacobian);
  return out;
}

}  // namespace brenier
