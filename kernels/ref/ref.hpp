// SPDX-License-Identifier: MIT
// The operations of the reference backend; meanings and shapes are in kernels/operations.hpp.
#pragma once

#include "kernels/operations.hpp"

namespace brenier::ref {

/// log det of a symmetric (d, d) matrix by Cholesky, and its inverse (d, d) where not null. False, and NaN in
/// `log_det`, where the matrix is not positive definite.
bool cholesky_log_det(const double* h, Index d, double* log_det, double* inverse);

template <class T>
void evaluate(const Icnn& net, const T* theta, MatrixView<const T> x, const MapOutputs<T>& out, Team& team);

template <class T>
void hessian_vector(const Icnn& net, const T* theta, MatrixView<const T> x, MatrixView<const T> p,
                    MatrixView<T> out, Team& team);

template <class T>
CgReport solve_hessian(const Icnn& net, const T* theta, MatrixView<const T> x, MatrixView<const T> p,
                       MatrixView<T> z, const CgOptions& options, Team& team);

/// The same, and where `log_det` (N) is not null, the mean over the right-hand sides of p^T log(H) p by the
/// quadrature that belongs to the steps taken; 0 where there are none.
template <class T>
CgReport solve_log_det(const Icnn& net, const T* theta, MatrixView<const T> x, MatrixView<const T> p,
                       MatrixView<T> z, const CgOptions& options, double* log_det, Team& team);

template <class T>
void log_det_lanczos(const Icnn& net, const T* theta, MatrixView<const T> x, MatrixView<const T> p, int steps,
                     double* estimate, double* variance, Team& team);

template <class T>
void jet_gradient(const Icnn& net, const T* theta, MatrixView<const T> x, const JetSeeds<T>& seeds,
                  double* gradient, Team& team);

template <class T>
void evaluate_program(const Program& program, MatrixView<const T> x, T* value, MatrixView<T> gradient,
                      Team& team);

template <class T>
void interaction(const PairKernel& kernel, MatrixView<const T> y, double* energy, MatrixView<T> force,
                 Team& team);

template <class T>
SinkhornReport divergence(const DivergenceTerm& term, const WeightedCloud<T>& cloud, double* value,
                          MatrixView<T> force, DivergenceState* state, Team& team);

template <class T>
void objective_gradient(const InnerProblem<T>& problem, const T* theta, int iteration, double* gradient,
                        Team& team);

template <class T>
std::unique_ptr<StepObjective<T>> step_objective(const InnerProblem<T>& problem, Team& team);

template <class T>
InnerReport inner_loop(const InnerProblem<T>& problem, InnerState<T>& state, int until, Team& team);

}  // namespace brenier::ref
