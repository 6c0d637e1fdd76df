// SPDX-License-Identifier: MIT
// Potentials that are functions of the host program, as steps ask them. Nothing here is inline: sources for one
// instruction set include it.
#pragma once

#include <exception>
#include <vector>

#include "brenier/base/team.hpp"
#include "brenier/base/view.hpp"
#include "brenier/model/objective.hpp"

namespace brenier {

/// V (N) and its gradient (N, d) at the rows of x, without the weight; either may be left out. What V throws goes
/// through. NumericalError: a NaN, with the point.
void evaluate_black_box(const BlackBoxTerm& term, MatrixView<const double> x, double* value,
                        MatrixView<double> gradient);

/// All black boxes of an objective at the n images of an inner problem, asked by threads that must not throw between
/// barriers.
class BlackBoxForces {
 public:
  /// `values`: of V are wanted too.
  BlackBoxForces(const Objective& objective, Index n, bool values);
  ~BlackBoxForces();
  BlackBoxForces(const BlackBoxForces&) = delete;
  BlackBoxForces& operator=(const BlackBoxForces&) = delete;

  /// What the fields below point to: nothing where there are no terms.
  double* x = nullptr;      // (n, d): images, to be filled by the caller
  double* force = nullptr;  // (n, d): sum of weight * grad V
  double* value = nullptr;  // (n): sum of weight * V; only where values are wanted
  /// Of the last call, or one before: set by one thread, read by all after a barrier.
  bool failed = false;

  /// Every thread of the team calls it between two barriers, for particles first .. last, and fails where V does. One of
  /// them asks functions that are not thread-safe; results do not depend on the number of threads.
  void evaluate(int rank, const Team& team, Index first, Index last) noexcept;
  /// Throws again what V threw, outside the threads.
  void rethrow();

 private:
  void add(const BlackBoxTerm& term, Index begin, Index end);
  void fail() noexcept;

  const Objective& objective_;
  Index d_;
  std::vector<double> x_, force_, value_, part_force_, part_value_;
  struct Failure;
  Failure* failure_;
};

}  // namespace brenier
