// SPDX-License-Identifier: MIT
// A cloud as a step sees it, wherever it lies. For .cpp files only.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "brenier/base/error.hpp"
#include "brenier/map.hpp"
#include "kernels/base/moments.hpp"

namespace brenier {

/// What body() makes on a device, or nothing where no memory for it is left there: what is also done here, from some rows, ends
/// no step.
template <class Body>
auto where_there_is_room(const Body& body) -> std::optional<decltype(body())> {
  try {
    return body();
  } catch (const OutOfDeviceMemory&) {
    return std::nullopt;
  }
}

/// Particles in host memory, or on the flow's device, from where only what is asked for comes: some rows, sums, and
/// all of them where there is no other way. Refers to what it is made of.
class CloudView {
 public:
  CloudView(const Matrix<double>& x) : x_(&x) {}
  CloudView(const Trajectory::Base& base)
      : x_(&base.x), log_density_(&base.log_density), resident_(base.resident.get()) {}
  CloudView(const Trajectory& cloud);
  explicit CloudView(const ResidentCloud& cloud) : resident_(&cloud) {}

  Index rows() const;
  Index cols() const;
  /// The cloud on the device; null where it lies here.
  const ResidentCloud* resident() const { return resident_; }

  /// Some rows, and, where they are wanted, their log-densities, if there are any.
  Matrix<double> take(const std::vector<Index>& rows, std::vector<double>* log_density = nullptr) const;
  /// As subset() of kernels/base/subset.hpp.
  Matrix<double> subset(Index count, std::uint64_t seed) const;

  /// All of it: brought here by the first call.
  const Matrix<double>& x() const;
  const std::vector<double>& log_density() const;

  Moments moments() const;
  /// As in engine/src/flow/solve/scale.hpp.
  void location_and_scale(std::vector<double>& mean, double& scale) const;
  /// Mean and standard deviation of each coordinate, (d).
  struct Widths {
    std::vector<double> mean, deviation;
  };
  Widths widths() const;

 private:
  struct Mirror {
    Matrix<double> x;
    std::vector<double> log_density;
  };
  void bring() const;

  const Trajectory* trajectory_ = nullptr;  // keeps what was brought
  const Matrix<double>* x_ = nullptr;
  const std::vector<double>* log_density_ = nullptr;
  const ResidentCloud* resident_ = nullptr;
  mutable std::shared_ptr<Mirror> mirror_;
};

}  // namespace brenier
