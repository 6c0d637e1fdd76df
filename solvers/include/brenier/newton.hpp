// SPDX-License-Identifier: MIT
// The inverse of x -> grad u(x), by Newton's method on many points at once.
#pragma once

#include <cstdint>
#include <vector>

#include "brenier/base/team.hpp"
#include "brenier/base/view.hpp"
#include "brenier/export.h"
#include "brenier/model/icnn.hpp"

namespace BRENIER_API brenier {

template <class T>
struct Operations;  // of a backend: see backend()

/// How a point of an inversion ended.
enum class InverseStatus : std::uint8_t {
  converged,
  outside,      // no preimage: the point is not in the image of grad u, and the iterates went to infinity
  unconverged,  // out of iterations, or rounding lets no step make progress
};

/// How Newton's method ends, and how it solves for its steps.
struct NewtonOptions {
  double tolerance = 1e-12;  // end where |grad u(x) - y| <= tolerance (scale + |y|); 1e-4 suits maps in float
  double scale = 0;          // a length of the problem, such as the deviation of the cloud; 0: the root mean
                             // square of |y| over the call
  int iterations = 100;      // Newton steps at most, >= 0
  int direct_dim = 64;       // Hessians and Cholesky factors up to this dimension, conjugate gradients above
  double far = 1e8;          // outside: the iterates are that many lengths from y, and still not there
};

/// One entry for each point.
struct NewtonReport {
  std::vector<InverseStatus> status;
  std::vector<int> iterations;   // Newton steps taken
  std::vector<double> residual;  // |grad u(x) - y|, at the last x that was evaluated

  Index count(InverseStatus which) const;
};

/// x_i = argmin u(x) - y_i . x, so that grad u(x_i) = y_i; u strictly convex, y and x (N, d). Starts at x =
/// y, or with `guess` from what x holds. Damped Newton steps: of the full length near the solution, where
/// they converge quadratically (superlinearly with conjugate gradients, whose forcing term is min(1/2, sqrt
/// of the relative residual): Nocedal and Wright, Numerical Optimization, section 7.1). Elsewhere they are
/// halved until the objective falls by Armijo's rule, or by the rule of Hager and Zhang (SIAM J. Optim. 16,
/// 2005) where the fall is below its rounding. After convergence x moves by one more step, which has cost
/// nothing.
///
/// A network with alpha > 0 or B^T B positive definite reaches all of R^d. The image of another one is a part
/// of it; points off that part are `outside`, and so are points that are not finite. x_i of a point that has
/// not converged is its last iterate. Results do not depend on the number of threads.
NewtonReport invert_gradient(const Operations<double>& operations, const Icnn& net, const double* theta,
                             MatrixView<const double> y, MatrixView<double> x, bool guess,
                             const NewtonOptions& options, Team& team);

}  // namespace brenier
