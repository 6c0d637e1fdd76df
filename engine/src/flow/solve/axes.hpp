// SPDX-License-Identifier: MIT
// Steps judged in each principal axis of the cloud. Decreases of F add up over all axes, so that those of one say nothing
// where those of another are much larger. For .cpp files only.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/src/flow/solve/missed.hpp"

namespace brenier {

/// What a step may miss in a single axis, of the cloud's deviation there: less is not looked at.
constexpr double kAxisFloor = 0.01;

/// Particles that axes are judged on: covariances take as many times d^2.
Index axis_rows(Index d);

/// The principal axes of a cloud, by some of its particles.
struct Axes {
  Matrix<double> vectors;         // (d, d), in columns; empty where the particles are in one place
  std::vector<double> own;        // (d): deviations along them
  std::vector<double> deviation;  // what axes are judged in; 0: of no width

  Axes() = default;
  /// Up to 128 dimensions, none above. Without internal energies nothing keeps an axis wide: kRoundedMove of the cloud is then exact enough in each.
  /// Of particles on a device the axes are those of the coordinates, whose deviations are known there.
  Axes(const CloudView& y, const Objective& objective, std::uint64_t seed);

  Index size() const { return static_cast<Index>(deviation.size()); }
  /// v (d) along axis k.
  double along(Index k, const double* v) const;
};

/// Displacements by axis without translation, in deviations of the cloud along each.
class AlongAxes {
 public:
  explicit AlongAxes(const Axes& axes) : axes_(&axes), mean_(axes.deviation.size(), 0.0), square_(mean_) {}

  void add(const double* v, double weight);
  /// Root mean square along axis k.
  double size(Index k) const;

 private:
  const Axes* axes_;
  std::vector<double> mean_, square_;
  double weight_ = 0;
};

/// The largest share of the way that is left in an axis, of what is missed and done there. Where no more than `floor` is missed
/// it is 0.
double axis_share(const AlongAxes& missed, const AlongAxes& done, Index axes, double floor);

/// The same of the best affine map after the step, which needs no scores and is exact in every unit. 0 above 128 dimensions,
/// above 8 for clouds on a device, and of fewer particles than four times the dimension.
double axis_displacement(const Objective& objective, const JudgedStep& step, std::uint64_t seed,
                         const Operations<double>& ops, Team& team);

}  // namespace brenier
