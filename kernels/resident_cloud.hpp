// SPDX-License-Identifier: MIT
// Clouds that stay in the memory of a device from step to step. Operations<double>::reside makes them, for backends with
// a memory of their own.
//
//   crosses   what a function says that it brings: parameters to the device, sums from it
//   changes   never: a map makes another cloud, so that copies are shared
//   device    the one that was current when it was made has to be current whenever it is used, but for downloads
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "brenier/base/view.hpp"
#include "brenier/model/icnn.hpp"
#include "brenier/model/objective.hpp"
#include "kernels/model/step.hpp"

namespace brenier {

/// The parameters of a map in double precision and physical coordinates.
class ResidentMap {
 public:
  virtual ~ResidentMap() = default;
};

/// What a device knows of the parameters of one network: the last few of those that it was given or has found itself. Where they
/// are asked for, by their values, they need not go there again. Not for two threads at once.
template <class T>
class ResidentParameters {
 public:
  virtual ~ResidentParameters() = default;
  /// S^2 u((x - m)/S) + m.x with u of theta (net.parameters()), as denormalised() has it; theta is brought where it is not
  /// known, and m (d).
  virtual std::shared_ptr<const ResidentMap> map(const std::vector<T>& theta,
                                                 const std::vector<double>& shift, double scale) = 0;
};

/// Positions x (N, d) and log-densities (N), in double precision.
class ResidentCloud {
 public:
  virtual ~ResidentCloud() = default;

  virtual Index rows() const = 0;
  virtual Index cols() const = 0;
  virtual bool has_density() const = 0;
  /// Whether its device is the current one.
  virtual bool reachable() const = 0;

  /// Brings all of it to the host: x (N, d) and log-densities (N), or null.
  virtual void download(MatrixView<double> x, double* log_density) const = 0;
  /// Brings some rows, x (rows.size(), d) and their log-densities, or null.
  virtual void download(std::span<const Index> rows, MatrixView<double> x, double* log_density) const = 0;

  /// Rounds positions and log-densities into a host program's arrays on its device, each where it is given, of the shapes of
  /// this cloud, no element in the place of another. Does not wait; the program's stream does. ValueError: an address that is
  /// not of the device.
  virtual void write(const DeviceResults& to) const = 0;

  /// Of each coordinate; brings them.
  struct Spread {
    std::vector<double> mean;     // (d)
    std::vector<double> squares;  // (d): sum of squares about the mean
    double largest = 0;           // largest |x|; NaN where a coordinate is not finite
  };
  virtual Spread spread() const = 0;

  /// The cloud after y = grad u(x), log rho(y) = log rho(x) - log det H(x).
  struct Image {
    std::shared_ptr<const ResidentCloud> cloud;
    double least_log_det = 0;  // NaN where one of them is; 0 without densities
    double squares = 0;        // sum of |y - x|^2
  };
  virtual Image image(const Icnn& net, const double* theta) const = 0;
  /// The same without parameters that cross.
  virtual Image image(const ResidentMap& map) const = 0;

  /// The parts of F that particles have by themselves: potentials and internal energies; black boxes are the host's.
  virtual ObjectiveValue value(const Objective& objective) const = 0;

  /// x - shift in T without gaps between rows, on the device, for an InnerProblem: `x` and `log_density` point there
  /// as long as this and the cloud live.
  template <class T>
  struct Centred {
    std::shared_ptr<void> memory;
    MatrixView<const T> x;
  };
  virtual Centred<float> centred_float(const std::vector<double>& shift) const = 0;
  virtual Centred<double> centred_double(const std::vector<double>& shift) const = 0;
  template <class T>
  Centred<T> centred(const std::vector<double>& shift) const {
    if constexpr (std::is_same_v<T, float>)
      return centred_float(shift);
    else
      return centred_double(shift);
  }
  /// On the device; null without densities.
  virtual const double* log_density() const = 0;
};

}  // namespace brenier
