// SPDX-License-Identifier: MIT
#include "engine/src/flow/cloud/cloud_view.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/src/flow/solve/scale.hpp"
#include "kernels/base/subset.hpp"
#include "kernels/resident_cloud.hpp"

namespace brenier {

CloudView::CloudView(const Trajectory& cloud) {
  if (cloud.resident() && cloud.resident()->reachable()) {
    trajectory_ = &cloud;
    resident_ = cloud.resident();
    return;
  }
  x_ = &cloud.x();
  log_density_ = &cloud.log_density();
}

Index CloudView::rows() const {
  return resident_ ? resident_->rows() : x_->rows();
}

Index CloudView::cols() const {
  return resident_ ? resident_->cols() : x_->cols();
}

Matrix<double> CloudView::take(const std::vector<Index>& rows, std::vector<double>* log_density) const {
  Matrix<double> out(static_cast<Index>(rows.size()), cols());
  if (log_density) log_density->clear();
  if (resident_) {
    const bool both = log_density && resident_->has_density();
    if (both) log_density->resize(rows.size());
    resident_->download(rows, out, both ? log_density->data() : nullptr);
    return out;
  }
  for (Index i = 0; i < out.rows(); ++i) std::copy_n(x_->row(rows[i]), cols(), out.row(i));
  if (!log_density || !log_density_ || log_density_->empty()) return out;
  for (const Index i : rows) log_density->push_back((*log_density_)[static_cast<std::size_t>(i)]);
  return out;
}

Matrix<double> CloudView::subset(Index count, std::uint64_t seed) const {
  return take(spread(rows(), count, seed));
}

void CloudView::bring() const {
  if (mirror_) return;
  mirror_ = std::make_shared<Mirror>();
  mirror_->x = Matrix<double>(rows(), cols());
  if (resident_->has_density()) mirror_->log_density.resize(static_cast<std::size_t>(rows()));
  resident_->download(mirror_->x, mirror_->log_density.empty() ? nullptr : mirror_->log_density.data());
}

const Matrix<double>& CloudView::x() const {
  if (!resident_) return *x_;
  if (trajectory_) return trajectory_->x();
  bring();
  return mirror_->x;
}

const std::vector<double>& CloudView::log_density() const {
  static const std::vector<double> none;
  if (!resident_) return log_density_ ? *log_density_ : none;
  if (trajectory_) return trajectory_->log_density();
  bring();
  return mirror_->log_density;
}

Moments CloudView::moments() const {
  if (!resident_) return brenier::moments(*x_);
  ResidentCloud::Spread of = resident_->spread();
  double sum = 0;
  for (const double squares : of.squares) sum += squares;
  return {std::move(of.mean), std::sqrt(sum / static_cast<double>(rows() * cols()))};
}

void CloudView::location_and_scale(std::vector<double>& mean, double& scale) const {
  if (!resident_) return brenier::location_and_scale(*x_, mean, scale);
  ResidentCloud::Spread of = resident_->spread();
  // Relative to the largest coordinate, as there.
  double sum = 0;
  for (const double squares : of.squares) sum += squares / of.largest / of.largest;
  mean = std::move(of.mean);
  scale = of.largest > 0 ? of.largest * std::sqrt(sum / static_cast<double>(rows() * cols())) : 0;
  if (!(scale > 16 * std::numeric_limits<double>::epsilon() * of.largest))
    scale = of.largest > 0 ? of.largest : 1;
}

CloudView::Widths CloudView::widths() const {
  Widths out;
  if (resident_) {
    const double share = 1 / static_cast<double>(rows());
    ResidentCloud::Spread of = resident_->spread();
    out.mean = std::move(of.mean);
    for (const double squares : of.squares) out.deviation.push_back(std::sqrt(share * squares));
    return out;
  }
  for (Index c = 0; c < cols(); ++c) {
    double mean = 0;
    for (Index i = 0; i < rows(); ++i) mean += (*x_)(i, c) / static_cast<double>(rows());
    out.mean.push_back(mean);
    out.deviation.push_back(deviation(*x_, c));
  }
  return out;
}

}  // namespace brenier
