// SPDX-License-Identifier: MIT
// How the solvers inside a step work, and what became of them: Adam, conjugate gradients, log-determinants,
// Sinkhorn's algorithm.
#pragma once

#include <cstddef>

#include "brenier/base/portable.hpp"
#include "brenier/base/view.hpp"
#include "brenier/export.h"

namespace BRENIER_API brenier {

/// Adam (Kingma and Ba, ICLR 2015) with a rate that falls along a half cosine from `rate` to
/// `rate * final_fraction` over the iterations of a JKO step.
struct AdamOptions {
  double rate = 1e-3;
  double final_fraction = 1.0;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
};

/// How long solve_hessian() iterates.
struct CgOptions {
  int iterations = 10;      // most steps of a solve, >= 0
  double tolerance = 0;     // ends a solve where |residual| <= tolerance |p|; 0: all steps. A residual below
                            // the rounding unit of T ends it in any case: more steps would not improve z
  bool warm_start = false;  // z holds first guesses; one that leaves more residual than 0 does is dropped
};

/// What became of all solves of a call. Residuals are those that the recursion carries: the true ones stop
/// falling at about (condition of H) times the rounding unit of T.
struct CgReport {
  int iterations = 0;         // most steps that a solve took
  double worst_residual = 0;  // largest |p - H z| / |p|; 0 where p = 0, infinite where p is not finite
  Index indefinite = 0;       // solves that met a direction s with s^T H s <= 0 (or NaN, or all but 0)
  Index unconverged = 0;      // solves that ended above the tolerance; 0 where the tolerance is 0

  /// Takes in the report of other solves.
  BRENIER_HOST_DEVICE void add(const CgReport& other) {
    iterations = other.iterations > iterations ? other.iterations : iterations;
    worst_residual = other.worst_residual > worst_residual ? other.worst_residual : worst_residual;
    indefinite += other.indefinite;
    unconverged += other.unconverged;
  }
};

/// How the gradient of an internal energy, that of -E[w log det H], is formed in an inner loop (the paper's
/// appendix B.4). Log-densities along the flow, and with them F, are exact in any case: they need log det H
/// once a step, not once an iteration. With cg the gradient is noisy: StepReport::residual stops falling at
/// its noise, and InnerOptions::tolerance below that does not end the loop.
struct LogDetOptions {
  enum class Method {
    exact,  // all second derivatives and a Cholesky factor of H: without noise
    cg,     // Hutchinson's estimator: mean of (H^{-1} e)^T (dH/dtheta) e over random signs e, z = H^{-1} e by
            // conjugate gradients. Without bias for the entropy, whose w is 1, as far as z is solved for;
            // other weights see log det H through the quadrature that the same steps give, and its variance s
            // biases w(xi) to second order: exp((m-1) log xi) by (m-1)^2 s/2, relatively
    automatic,  // exact below kStochasticDim dimensions, where it costs about the same; cg from there on.
                // With L-BFGS, which takes so few gradients and needs those of a function, from kLbfgsDim on
  };
  /// With hidden = {100, 20} and all 10 steps an iteration of cg then costs less than half of an exact one
  /// (level near d = 10; a third at d = 32, a tenth at d = 64), which pays for the noise; near the identity
  /// three steps are enough and it is a third.
  static constexpr int kStochasticDim = 24;
  /// Ornstein-Uhlenbeck from 1024 particles at d = 128: 8 to 12 exact gradients end 20 times closer than Adam
  /// with cg, in a fifth of its time.
  static constexpr int kLbfgsDim = 129;

  Method method = Method::automatic;
  int probes = 1;        // of cg, for each particle, fresh in each iteration, in [1, 1000]: noise falls as
                         // 1/sqrt(probes)
  int iterations = 10;   // of cg, most steps of a solve, in [1, 1000]; d of them solve in exact arithmetic
  double tolerance = 0;  // of cg, see CgOptions, in [0, 1)

  CgOptions cg() const { return {.iterations = iterations, .tolerance = tolerance}; }
  /// The same with the method that `automatic` means in `dim` dimensions.
  LogDetOptions resolved(int dim, bool lbfgs = false) const {
    LogDetOptions out = *this;
    if (method == Method::automatic) {
      out.method = dim < (lbfgs ? kLbfgsDim : kStochasticDim) ? Method::exact : Method::cg;
    }
    return out;
  }
};

/// Entropic optimal transport between clouds with the cost 1/2 |x - y|^2: Sinkhorn's algorithm on the
/// logarithms, epsilon lowered step by step (Feydy et al., AISTATS 2019; Schmitzer, SIAM J. Sci. Comput. 41,
/// 2019). The value is min <P, C> + epsilon KL(P | a x b) = <a, f> + <b, g>.
struct SinkhornOptions {
  double epsilon = 0.0025;  // > 0, in the unit of the cost; the square of a blur
  double scaling = 0.5;  // in (0, 1): sqrt(epsilon) falls by this factor, from a bound of the largest cost on
  int iterations = 100;  // most steps at the last epsilon, >= 1; a step updates f and g
  int warm_iterations = 10;  // the same where there are potentials of a call before, and no schedule; >= 1
  double tolerance = 1e-6;   // ends them where the marginals are met to this, in total variation; 0: all
                             // steps. 128 rounding units of T end them in any case
  bool debiased = false;     // less half of the two clouds' values with themselves (Sinkhorn divergence)
  std::ptrdiff_t storage = std::ptrdiff_t{1} << 30;  // bytes: most that the costs between two clouds take;
                                                     // see stores_costs()
};

/// What became of all Sinkhorn solves of a call.
struct SinkhornReport {
  int iterations = 0;         // most steps at the last epsilon that a solve took
  double marginal_error = 0;  // largest total variation between the first marginal of a plan and the weights,
                              // where the second is met
  Index solves = 0;
  Index schedules = 0;    // solves that lowered epsilon step by step
  Index unconverged = 0;  // solves that ended above the tolerance; 0 where the tolerance is 0

  /// Takes in the report of other solves.
  void add(const SinkhornReport& other);
};

}  // namespace brenier
