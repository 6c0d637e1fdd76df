// SPDX-License-Identifier: MIT
// Direct optimisation: gradient descent on the particles themselves, to which the paper compares its flow
// (section 6 and appendix E.6). No map, no density: new points have to be optimised anew.
#pragma once

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
  };
  Method method = Method::adam;
  double rate = 0.1;           // > 0
  std::string device = "cpu";  // see backend()
  int threads = 0;             // 0: all processors
};

/// Particles x_i of equal weight, moved along -dF/dx_i, F their energy: for a potential the mean of V, so
/// that dF/dx_i = grad V(x_i) / N. Double precision.
class Descent {
 public:
  /// ValueError: no terms, an internal energy (particles alone have no density), no particles, particles that
  /// are not finite, the rate. ShapeError: dimensions.
  Descent(const Functional& functional, Matrix<double> x, DescentOptions options = {});
  ~Descent();
  Descent(Descent&&) noexcept;
  Descent& operator=(Descent&&) noexcept;

  /// One update of all particles. NumericalError, and nothing has moved, where the gradient is not finite.
  void step();

  int steps() const;
  const Matrix<double>& x() const;         // (N, d)
  const SinkhornReport& sinkhorn() const;  // of all gradients so far
  ObjectiveValue functional() const;

 private:
  struct BRENIER_HIDDEN State;
  std::unique_ptr<State> state_;
};

}  // namespace brenier
