// SPDX-License-Identifier: MIT
// One JKO step as data: what goes into an inner loop and what comes out of it.
#pragma once

#include <atomic>
#include <cmath>
#include <cstdint>
#include <vector>

#include "brenier/base/portable.hpp"
#include "brenier/base/view.hpp"
#include "brenier/model/icnn.hpp"
#include "brenier/model/objective.hpp"
#include "brenier/options.hpp"

namespace brenier {

template <class T>
class ResidentParameters;

/// One JKO step to be solved: minimise over theta
///     F((grad u)# rho) + 1/(2 tau) E |grad u(x) - x|^2
/// with u(x) = S^2 u_theta((x - m)/S) + m.x, the network seen through normalised coordinates.
template <class T>
struct InnerProblem {
  const Icnn* net = nullptr;
  MatrixView<const T> x;                // (N, d): the cloud the step starts from, minus m: small numbers
                                        // keep their digits in T wherever the cloud lies
  const double* log_density = nullptr;  // (N): log rho(x_i); only where there are internal terms
  bool resident = false;  // x, without gaps between rows, and log_density lie on the backend's device
  ResidentParameters<T>* known =
      nullptr;                // of the network, on that device: these need not go there again; null: none
  std::vector<double> shift;  // m (d)
  double scale = 1;           // S > 0
  double tau = 1e-3;          // > 0, time units of the PDE
  const Objective* objective = nullptr;
  AdamOptions adam;
  int iterations = 400;  // n_u, also the length of the rate schedule
  Index minibatch = 0;   // particles drawn, with replacement, each iteration; 0 takes the cloud
  LogDetOptions log_det{.method = LogDetOptions::Method::exact};  // only where there are internal terms
  std::uint64_t seed = 0;                                         // of the minibatch draws and the probes
  std::uint32_t step = 0;
  double tolerance = 0;       // stop where |gradient| <= tolerance * gradient_scale; 0: never
  double gradient_scale = 0;  // 0: the gradient of the first iteration of this call
  // Ends the loop after the current iteration; on a device after those that are queued, a few dozen at most.
  const std::atomic<bool>* interrupt = nullptr;
};

/// What the inner loop changes: parameters and the moments of Adam, all of length net->parameters().
template <class T>
struct InnerState {
  std::vector<T> theta;
  std::vector<T> first_moment;
  std::vector<T> second_moment;
  int iteration = 0;  // iterations done; the loop goes on from here, up to `until`
  bool ends = false;  // nobody asks for the moments afterwards: they may be left as they are
};

/// How far an inner loop is. The gradient is that of the last iteration, with components that push a weight
/// below its bound left out; 2-norm.
struct LoopProgress {
  int iterations = 0;
  double first_gradient = 0;
  double gradient = 0;
  bool converged = false;  // by tolerance
  bool finite = true;      // false: the gradient was not finite; theta is from before that update

  /// The end of an iteration whose gradient has this norm; tolerance and scale as in InnerProblem. Whether its
  /// update takes place.
  BRENIER_HOST_DEVICE bool take(double norm, double tolerance, double gradient_scale) {
    gradient = norm;
    if (iterations == 0) first_gradient = norm;
    finite = std::isfinite(norm);
    if (!finite) return false;
    ++iterations;
    converged = tolerance > 0 && norm <= tolerance * (gradient_scale > 0 ? gradient_scale : first_gradient);
    return true;
  }
};

/// How an inner loop ended.
struct InnerReport : LoopProgress {
  bool interrupted = false;
  CgReport cg;  // of all solves of the loop
  SinkhornReport sinkhorn;
};

}  // namespace brenier
