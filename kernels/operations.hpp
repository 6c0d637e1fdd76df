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

#include <memory>
#include <span>
#include <vector>

#include "brenier/base/team.hpp"
#include "brenier/base/view.hpp"
#include "brenier/model/icnn.hpp"
#include "brenier/model/objective.hpp"
#include "brenier/options.hpp"
#include "kernels/model/divergence.hpp"
#include "kernels/model/lbfgs.hpp"
#include "kernels/model/step.hpp"

#if defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__
#error \
    "-ffast-math or -ffinite-math-only: NaN and infinity mean something here; compile with -fno-finite-math-only"
#endif

namespace brenier {

class ResidentCloud;
template <class T>
class ResidentParameters;

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

/// The objective of one inner problem, for solvers that evaluate it at one theta after another: memory is
/// taken once, and divergences start from the plans of the evaluation before. The problem must outlive it.
template <class T>
class StepObjective {
 public:
  virtual ~StepObjective() = default;

  /// gradient (net.parameters()), overwritten. Returns what it is the gradient of, up to a constant that does
  /// not depend on theta: F((grad u)# rho) + 1/(2 tau) E |grad u(x) - x|^2, particles of density 0 without an
  /// internal energy. NaN where log det H is stochastic, or some H is not positive definite.
  virtual double evaluate(const T* theta, int iteration, double* gradient) = 0;

  /// Of all solves so far.
  virtual CgReport cg() const = 0;
  virtual SinkhornReport sinkhorn() const = 0;
};

/// Where the parameters of an inner problem may be, and how far they are expected to move. Empty: the bounds of the network,
/// and squared_length() of kernels/model/metric.hpp.
template <class T>
struct SearchBounds {
  std::span<const T> lower;        // (net.parameters()); -inf: no bound
  std::span<const double> metric;  // likewise: see BoundedProblem (solvers/lbfgs.hpp)
};

/// The table of operations of one backend.
template <class T>
struct Operations {
  const char* name;
  /// Whether it computes in host memory. Objectives may then have black boxes, which only the host's own code can call.
  bool host = false;
  /// Brings a cloud x (N, d) with its log-densities (N), or null, to the backend's device, where it may stay from step to
  /// step (kernels/resident_cloud.hpp). Null where the device's memory is the host's.
  std::shared_ptr<const ResidentCloud> (*reside)(MatrixView<const double> x,
                                                 const double* log_density) = nullptr;

  /// The same from a host program's arrays on that device; they may change afterwards. Shapes agree. ValueError: an address
  /// that is not of the device, coordinates that are not finite, log-densities that are NaN or +inf.
  std::shared_ptr<const ResidentCloud> (*gather)(const DeviceCloud& cloud) = nullptr;

  /// What the backend's device will know of a network's parameters (kernels/resident_cloud.hpp); the network must outlive it.
  /// Null as reside is.
  std::unique_ptr<ResidentParameters<T>> (*know)(const Icnn& net) = nullptr;

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

  /// The same with its value, to be evaluated many times.
  std::unique_ptr<StepObjective<T>> (*step_objective)(const InnerProblem<T>& problem, Team& team);

  /// L-BFGS over step_objective() from theta, which is within its bounds, to the lowest point that was accepted: what
  /// minimise() of solvers/lbfgs.hpp does, where the backend does it better by itself; else null. Minibatches and
  /// stochastic log-determinants have no place here. Adds what divergences report to `transports`.
  LbfgsReport (*search)(const InnerProblem<T>& problem, const SearchBounds<T>& bounds,
                        const LbfgsOptions& options, std::vector<T>& theta, SinkhornReport& transports,
                        Team& team) = nullptr;

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
/// Whether several processes can compute one flow on them, a device each.
bool connects();
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
