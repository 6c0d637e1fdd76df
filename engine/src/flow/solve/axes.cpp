// SPDX-License-Identifier: MIT
#include "engine/src/flow/solve/axes.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "engine/src/flow/solve/affine.hpp"
#include "engine/src/flow/solve/scale.hpp"
#include "engine/src/flow/state.hpp"
#include "kernels/base/moments.hpp"
#include "kernels/base/subset.hpp"
#include "solvers/dense.hpp"

namespace brenier {
namespace {

constexpr Index kMostAxes = 128;  // beyond, covariances take longer than the step
/// Of clouds on a device: above it the matrices of one evaluation are more than may cross the bus for it.
constexpr Index kResidentAxes = 8;

/// Of one axis.
double share_of(double missed, double done, double floor) {
  return missed > floor ? missed / std::hypot(missed, done) : 0;
}

}  // namespace

Index axis_rows(Index d) {
  return std::min<Index>(4096, std::max<Index>(8 * d, 131072 / d));
}

Axes::Axes(const CloudView& cloud, const Objective& objective, std::uint64_t seed) {
  const double width = objective.internal.empty() ? kRoundedMove / kAxisFloor : 0;
  const Index d = cloud.cols();
  if (d > kMostAxes) return;
  double rounding = 0;
  if (cloud.resident()) {
    CloudView::Widths widths = cloud.widths();
    own = std::move(widths.deviation);
    for (const double one : widths.mean) rounding = std::max(rounding, std::abs(one));
    vectors = Matrix<double>(d, d);
    for (Index a = 0; a < d; ++a) vectors(a, a) = 1;
  } else {
    const Matrix<double> y = cloud.subset(axis_rows(d), seed);
    const std::vector<double> mean = moments(y).mean;
    double largest = 0;
    for (Index i = 0; i < y.rows(); ++i) {
      for (Index a = 0; a < d; ++a) {
        largest = std::max(largest, std::abs(y(i, a) - mean[a]));
        rounding = std::max(rounding, std::abs(y(i, a)));
      }
    }
    if (!(largest > 0) || !std::isfinite(largest)) return;
    dense::SymmetricEigen found = dense::symmetric_eigen(covariance(y, mean, largest), true);
    if (!found.converged) return;
    vectors = std::move(found.vectors);
    for (const double value : found.values) own.push_back(largest * std::sqrt(std::max(value, 0.0)));
  }
  double squares = 0;
  for (const double one : own) squares += one * one / static_cast<double>(d);
  // An axis without width, to the rounding of its coordinates.
  rounding *= 64 * std::numeric_limits<double>::epsilon();
  for (const double one : own)
    deviation.push_back(one > rounding && std::isfinite(one) ? std::max(one, width * std::sqrt(squares)) : 0);
}

double Axes::along(Index k, const double* v) const {
  double sum = 0;
  for (Index a = 0; a < size(); ++a) sum += vectors(a, k) * v[a];
  return sum;
}

void AlongAxes::add(const double* v, double weight) {
  weight_ += weight;
  for (Index k = 0; k < axes_->size(); ++k) {
    const double width = axes_->deviation[static_cast<std::size_t>(k)];
    const double part = width > 0 ? axes_->along(k, v) / width : 0;
    // Welford's update: a long way is no rounding of what is left without it.
    const double off = part - mean_[static_cast<std::size_t>(k)];
    mean_[static_cast<std::size_t>(k)] += weight / weight_ * off;
    square_[static_cast<std::size_t>(k)] += weight * off * (part - mean_[static_cast<std::size_t>(k)]);
  }
}

double AlongAxes::size(Index k) const {
  return weight_ > 0 ? std::sqrt(std::max(0.0, square_[static_cast<std::size_t>(k)] / weight_)) : 0;
}

double axis_share(const AlongAxes& missed, const AlongAxes& done, Index axes, double floor) {
  double worst = 0;
  for (Index k = 0; k < axes; ++k) worst = std::max(worst, share_of(missed.size(k), done.size(k), floor));
  return worst;
}

double axis_displacement(const Objective& objective, const JudgedStep& step, std::uint64_t seed,
                         const Operations<double>& ops, Team& team) {
  const Index n = step.y.rows(), d = step.y.cols();
  const Index count = std::min(n, affine_particles(objective, axis_rows(d)));
  if (count < 4 * d || d > (step.y.resident() ? kResidentAxes : kMostAxes)) return 0;
  const Axes axes(step.y, objective, seed);
  if (axes.size() == 0) return 0;
  const double noise = count < n ? 2 / std::sqrt(static_cast<double>(count)) : 0;
  const AffineMap more = best_affine(objective, step.y, step.base, step.tau,
                                     {.full = true,
                                      .least = 1e-6,
                                      .particles = axis_rows(d),
                                      .evaluations = 25,
                                      .negligible = (kAxisFloor + noise) / 3,
                                      .seed = seed},
                                     for_few_points(ops), team);
  Matrix<double> rest = more.matrix;
  for (Index a = 0; a < d; ++a) rest(a, a) -= 1;
  const Matrix<double> stretch = dense::congruent(dense::transposed(axes.vectors), rest);
  std::vector<double> missed;
  for (Index k = 0; k < d; ++k) {
    const double width = axes.deviation[static_cast<std::size_t>(k)];
    double squares = 0;
    for (Index j = 0; width > 0 && j < d; ++j)
      squares += square(stretch(k, j) * (axes.own[static_cast<std::size_t>(j)] / width));
    missed.push_back(std::sqrt(squares));
  }
  const double floor = kAxisFloor + noise;
  if (std::none_of(missed.begin(), missed.end(), [&](double one) { return one > floor; })) return 0;
  // How far the step went is known well enough by few of what would have to be brought here.
  const std::vector<Index> rows =
      spread(n, step.y.resident() ? std::max<Index>(32, 256 / d) : axis_rows(d), seed);
  const Matrix<double> y = step.y.take(rows), base = step.base.take(rows);
  std::vector<double> way(static_cast<std::size_t>(d));
  AlongAxes done(axes);
  for (Index i = 0; i < y.rows(); ++i) {
    for (Index a = 0; a < d; ++a) way[a] = y(i, a) - base(i, a);
    done.add(way.data(), 1);
  }
  double worst = 0;
  for (Index k = 0; k < d; ++k)
    worst = std::max(worst, share_of(missed[static_cast<std::size_t>(k)], done.size(k), floor));
  return worst;
}

}  // namespace brenier
