// SPDX-License-Identifier: MIT
// Particles moved by themselves, to which the paper compares its flow: gradient descent (section 6 and appendix E.6) and
// Langevin dynamics (appendix D). No map, no density: new points have to be moved anew.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "brenier/export.h"
#include "brenier/functional.hpp"
#include "brenier/options.hpp"

namespace BRENIER_API brenier {

struct DescentOptions {
  enum class Method {
    sgd,   // x -= rate dF/dx
    adam,  // Kingma and Ba (ICLR 2015), per coordinate
    /// x -= rate grad(dF/drho) + sqrt(2 rate D) xi, xi normal: the unadjusted Langevin algorithm for F without its entropies,
    /// whose weights are D together (1/beta of the paper). `rate` is a time, in the unit of the PDE.
    langevin,
  };
  Method method = Method::adam;
  double rate = 0.1;           // > 0
  std::uint64_t seed = 0;      // of the noise
  std::string device = "cpu";  // see backend()
  int threads = 0;             // 0: all processors
};

/// Particles x_i of equal weight, moved along -dF/dx_i, F their energy: for a potential the mean of V, so
/// that dF/dx_i = grad V(x_i) / N. Double precision. The same bits for any number of threads.
class Descent {
 public:
  /// ValueError: no terms, a V that depends on time, an internal energy (particles alone have no density) but for entropies
  /// of langevin, no particles, particles that are not finite, the rate. ShapeError: dimensions.
  Descent(const Functional& functional, Matrix<double> x, DescentOptions options = {});
  ~Descent();
  Descent(Descent&&) noexcept;
  Descent& operator=(Descent&&) noexcept;

  /// One update of all particles. NumericalError, and nothing has moved, where the gradient is not finite.
  void step();

  int steps() const;
  const Matrix<double>& x() const;         // (N, d)
  const SinkhornReport& sinkhorn() const;  // of all gradients so far
  ObjectiveValue functional() const;       // without entropies
  /// The largest |eigenvalue| of the Hessian of dF/drho at the particles, entropies left out: what nine tenths of them are
  /// below, by power iteration on central differences of the gradient. Lower by some percent where eigenvalues lie close.
  /// Langevin dynamics is stable while rate * curvature < 2, and in a quadratic V its variance comes out too large by the
  /// factor 1/(1 - rate * curvature/2). NaN where gradients are not finite.
  double curvature() const;

 private:
  struct BRENIER_HIDDEN State;
  std::unique_ptr<State> state_;
};

}  // namespace brenier
