// SPDX-License-Identifier: MIT
// Every operation of the engine, declared once. A backend is a filled-in table `Operations<T>`: one that
// drifts from these signatures does not compile.
//
//   ref   plain loops on one thread; the oracle the others are tested against, never optimised
//   cpu   particles in lanes, vectorised and threaded
//   cuda  kernels written in the device dialect, for a GPU or its emulator
//
// Clouds are (N, d) row-major with any row distance; theta has the layout of Icnn. Shapes are checked by the
// engine before it calls an operation; operations trust them.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "brenier/base/portable.hpp"
#include "brenier/base/team.hpp"
#include "brenier/base/view.hpp"
#include "brenier/model/divergence.hpp"
#include "brenier/model/icnn.hpp"
#include "brenier/model/objective.hpp"

namespace brenier {

/// What evaluate() may compute at each x_i; outputs that are not wanted stay empty.
template <class T>
struct MapOutputs {
  T* potential = nullptr;      // (N): u(x_i)
  MatrixView<T> displacement;  // (N, d): grad u(x_i) - x_i, formed without cancellation
  MatrixView<T> hessian;       // (N, d*d): row-major symmetric Hessian of u
  double* log_det = nullptr;   // (N): log det of the Hessian, NaN where it is not positive definite
};

/// Coefficients of S(theta) = sum_i [ a_i u(x_i) + v_i . grad u(x_i) + second-order terms ]. The second-order
/// terms are sum_k p_ik^T H(x_i) q_ik (K directions, p = q where p is empty) or trace(M_i H(x_i)); not both.
template <class T>
struct JetSeeds {
  const T* a = nullptr;        // (N)
  MatrixView<const T> v;       // (N, d)
  int directions = 0;          // K
  MatrixView<const T> q;       // (N, K*d): q_i1, ..., q_iK side by side
  MatrixView<const T> p;       // (N, K*d), or empty
  MatrixView<const T> metric;  // (N, d*d): symmetric M_i
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

/// How the gradient of -E[w log det H] is formed (the paper's appendix B.4).
struct LogDetOptions {
  enum class Method {
    exact,  // all second derivatives and a Cholesky factor of H
    cg,     // Hutchinson's estimator: mean of (H^{-1} e)^T (dH/dtheta) e over random signs e, z = H^{-1} e by
            // conjugate gradients. Without bias for the entropy, whose w is 1, as far as z is solved for;
            // other weights see log det H through the quadrature that the same steps give, and its variance s
            // biases w(xi) to second order: exp((m-1) log xi) by (m-1)^2 s/2, relatively
  };
  Method method = Method::exact;
  int probes = 1;        // P >= 1, for each particle, fresh in each iteration: RademacherProbes
  int iterations = 10;   // most steps of a solve, >= 1; d of them solve in exact arithmetic
  double tolerance = 0;  // see CgOptions, in [0, 1)

  CgOptions cg() const { return {.iterations = iterations, .tolerance = tolerance}; }
};

/// Adam (Kingma and Ba, ICLR 2015) with a rate that falls along a half cosine from `rate` to
/// `rate * final_fraction` over the iterations of a JKO step.
struct AdamOptions {
  double rate = 1e-3;
  double final_fraction = 1.0;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;

  /// Rate of iteration k (from 0) of n.
  BRENIER_HOST_DEVICE double rate_at(int k, int n) const;  // defined in kernels/model/adam.hpp
};

/// One JKO step to be solved: minimise over theta
///     F((grad u)# rho) + 1/(2 tau) E |grad u(x) - x|^2
/// with u(x) = S^2 u_theta((x - m)/S) + m.x, the network seen through normalised coordinates.
template <class T>
struct InnerProblem {
  const Icnn* net = nullptr;
  MatrixView<const T> x;                // (N, d): the cloud the step starts from, minus m: small numbers
                                        // keep their digits in T wherever the cloud lies
  const double* log_density = nullptr;  // (N): log rho(x_i); only where there are internal terms
  std::vector<double> shift;            // m (d)
  double scale = 1;                     // S > 0
  double tau = 1e-3;                    // > 0, time units of the PDE
  const Objective* objective = nullptr;
  AdamOptions adam;
  int iterations = 400;    // n_u, also the length of the rate schedule
  Index minibatch = 0;     // particles drawn, with replacement, each iteration; 0 takes the cloud
  LogDetOptions log_det;   // only where there are internal terms
  std::uint64_t seed = 0;  // of the minibatch draws and the probes
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
};

/// How an inner loop ended. The gradient is that of the last iteration, with components that push a weight
/// below its bound left out; 2-norm.
struct InnerReport {
  int iterations = 0;
  double first_gradient = 0;
  double gradient = 0;
  bool converged = false;  // by tolerance
  bool finite = true;      // false: the gradient was not finite; theta is from before that update
  bool interrupted = false;
  CgReport cg;  // of all solves of the loop
  SinkhornReport sinkhorn;
};

/// The table of operations of one backend.
template <class T>
struct Operations {
  const char* name;

  /// u, grad u, Hessian and log-determinant at every particle.
  void (*evaluate)(const Icnn& net, const T* theta, MatrixView<const T> x, const MapOutputs<T>& out,
                   Team& team);

  /// out_i = H(x_i) p_i; p and out (N, d).
  void (*hessian_vector)(const Icnn& net, const T* theta, MatrixView<const T> x, MatrixView<const T> p,
                         MatrixView<T> out, Team& team);

  /// z_ik ~ H(x_i)^{-1} p_ik by conjugate gradients (Hestenes and Stiefel 1952), each right-hand side for
  /// itself; p and z (N, P*d): p_i1, ..., p_iP side by side. The network is evaluated once a particle, a step
  /// costs one product with H. A solve that meets non-positive curvature keeps its last iterate, and is
  /// counted: z is finite for any network and any x.
  CgReport (*solve_hessian)(const Icnn& net, const T* theta, MatrixView<const T> x, MatrixView<const T> p,
                            MatrixView<T> z, const CgOptions& options, Team& team);

  /// log det H(x_i) by stochastic Lanczos quadrature (Ubaru, Chen and Saad, SIAM J. Matrix Anal. Appl. 38,
  /// 2017): `steps` >= 1 Lanczos steps with full re-orthogonalisation on each of the probes p_i1, ..., p_iP
  /// (N, P*d), P >= 1, whose entries have mean 0 and covariance I, e.g. +-1. estimate (N) is the mean over
  /// the probes of p^T log(H) p as the quadrature sees it, exact from d steps on; variance (N), or null, that
  /// of one probe's value about the mean: / (P - 1), NaN for P = 1; variance / P is that of the estimate. A
  /// Krylov space that ends early is taken as it is: the quadrature is exact there. NaN where H is seen not
  /// to be positive definite.
  void (*log_det_lanczos)(const Icnn& net, const T* theta, MatrixView<const T> x, MatrixView<const T> p,
                          int steps, double* estimate, double* variance, Team& team);

  /// gradient = dS/dtheta (net.parameters()), overwritten.
  void (*jet_gradient)(const Icnn& net, const T* theta, MatrixView<const T> x, const JetSeeds<T>& seeds,
                       double* gradient, Team& team);

  /// Values (N) and gradients (N, input_size) of a program at the rows of x; either may be left out.
  void (*evaluate_program)(const Program& program, MatrixView<const T> x, T* value, MatrixView<T> gradient,
                           Team& team);

  /// Interaction of a cloud: energy = 1/(2 N (N-1)) sum_{i != j} W(y_i - y_j), and the gradient of its first
  /// variation, force_i = 1/(N-1) sum_{j != i} grad W(y_i - y_j). Either output may be left out. Pairs at
  /// distance 0 are left out of log kernels.
  void (*interaction)(const PairKernel& kernel, MatrixView<const T> y, double* energy, MatrixView<T> force,
                      Team& team);

  /// D(cloud, reference) of a term, its weight left out, and the gradient of its first variation: force_i
  /// (N, d) is dD/dx_i divided by the weight of the particle. For entropic transport that is
  /// x_i - sum_j P_ij y_j / a_i by the envelope theorem (Feydy et al., AISTATS 2019, section 3.2), exact
  /// where the marginals are met. Either output may be left out. With a `state`, a call starts from the
  /// potentials that the last one left there; without one, and where they are of other sizes or come out
  /// worse than the schedule of epsilons did, from nothing. (The cuda backend keeps potentials within an
  /// inner loop only: it takes no notice of `state`.) Forces are not finite where the cloud is not.
  SinkhornReport (*divergence)(const DivergenceTerm& term, const WeightedCloud<T>& cloud, double* value,
                               MatrixView<T> force, DivergenceState* state, Team& team);

  /// Gradient (net.parameters()) of the objective of `problem` at theta, for iteration `iteration`.
  void (*objective_gradient)(const InnerProblem<T>& problem, const T* theta, int iteration, double* gradient,
                             Team& team);

  /// Iterations state.iteration .. until of Algorithm 1's inner loop.
  InnerReport (*inner_loop)(const InnerProblem<T>& problem, InnerState<T>& state, int until, Team& team);
};

namespace ref {
template <class T>
const Operations<T>& operations();
}  // namespace ref

namespace cuda {
/// Whether the kernels of kernels/cuda are part of this program, and how many devices they can run on.
bool compiled();
int devices();
/// NotAvailable where they are not.
template <class T>
const Operations<T>& operations();
/// How products of matrices may be formed, the default first: "tf32x3" (float: tensor cores, three terms) or
/// "fma" (double), then "cublas" (whole layers; what the first does where a network has no room in shared
/// memory); and the operations of one of them.
template <class T>
std::vector<const char*> variants();
template <class T>
const Operations<T>& operations(const char* variant);
}  // namespace cuda

namespace cpu {
/// The variant for the widest instruction set that this processor has.
template <class T>
const Operations<T>& operations();
/// Names of the variants this processor can run, best first, e.g. {"avx512", "avx2", "sse2"}.
std::vector<const char*> variants();
/// One variant by name; throws NotAvailable where the processor cannot run it.
template <class T>
const Operations<T>& operations(const char* variant);
}  // namespace cpu

}  // namespace brenier
