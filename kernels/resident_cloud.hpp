// SPDX-License-Identifier: MIT
// Clouds that stay in the memory of a device from step to step. Operations<double>::reside makes them, for backends with
// a memory of their own.
//
//   crosses   what a function says that it brings: parameters to the device, sums from it
//   changes   never: a map makes another cloud, so that copies are shared
//   device    the one that was current when it was made has to be current whenever it is used, but for downloads
#pragma once

#include <cstdint>
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

/// Displacements of a cloud with these means and standard deviations (d): translations by a deviation and stretches about the
/// mean along each axis, and for each wave k (count, d), one after the other, k sin(k.(x - m))/|k|^2 and k cos(k.(x - m))/|k|^2.
struct SmoothWaves {
  std::span<const double> mean, deviation, wave;
};

/// Whether all terms of an objective are of those that Affine and slopes() below know: expressions and internal energies.
inline bool has_residuals(const Objective& objective) {
  return objective.network.empty() && objective.black_box.empty() && objective.interaction.empty() &&
         objective.divergence.empty();
}

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
  /// Brings some rows, x (rows.size(), d) and their log-densities, or null; rows that have been asked for lately do not cross again.
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

  /// Rows of it as a cloud, those of spread() (kernels/base/subset.hpp).
  virtual std::shared_ptr<const ResidentCloud> subset(Index count, std::uint64_t seed) const = 0;

  /// Of a map's Hessians at the particles: their mean (d*d), and the smallest of their eigenvalues, NaN where one is no number.
  /// Hessians stay on the device; for a few thousand numbers in each dimension.
  virtual std::vector<double> mean_hessian(const ResidentMap& map) const = 0;
  virtual double least_eigenvalue(const ResidentMap& map) const = 0;

  /// For particles in groups of 1 + 2d, each with its neighbours x + h_c, x - h_c for c = 0, ..., d - 1: the gradient of
  /// log rho from their differences, (N/(1 + 2d), d). Brings it alone.
  virtual void scores(MatrixView<double> score) const = 0;

  /// J(A, t) = F + 1/(2 tau) E |y - from|^2 at y = m + A (x - m) + t, A symmetric with this log-determinant, and what its
  /// gradient needs, with r = grad V(y) + (y - from)/tau. A call sends A and t, and brings these.
  class Affine {
   public:
    virtual ~Affine() = default;
    struct Sums {
      double value;               // J
      double pressure;            // E[f'(rho) - f(rho)/rho]
      std::vector<double> shift;  // E r (d)
      Matrix<double> matrix;      // E[r (x - m)^T + (x - m) r^T] (d, d)
    };
    virtual Sums at(const Matrix<double>& matrix, const std::vector<double>& shift, double log_det) = 0;
  };
  /// `from` of as many rows, m the centre; has_residuals(objective).
  virtual std::unique_ptr<Affine> affine(const Objective& objective,
                                         const std::shared_ptr<const ResidentCloud>& from,
                                         const std::vector<double>& centre, double tau) const = 0;

  /// With r = grad V(x) + (x - from)/tau, E[r.xi - (f'(rho) - f(rho)/rho) div xi] for each of those displacements.
  /// has_residuals(objective). Brings them; sends the displacements.
  virtual std::vector<double> slopes(const Objective& objective, const ResidentCloud& from, double tau,
                                     const SmoothWaves& waves) const = 0;

  /// E[f'(rho) - f(rho)/rho] of the internal energies.
  virtual double pressure(const Objective& objective) const = 0;

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
