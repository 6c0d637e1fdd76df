// SPDX-License-Identifier: MIT
// The value of a JKO step's objective, particle by particle, after the kernel of its gradient has left
// displacements and log-determinants: transport, potential and internal energies. What sees all particles at
// once is added by others (kernels/cuda/cloud/value.hpp).
#pragma once

#include <limits>

#include "kernels/cuda/cloud/value.hpp"
#include "kernels/cuda/step/step_kernel.hpp"

namespace brenier::cuda {

/// weight * f(xi)/xi of one term. A particle where the density vanishes counts f(0) = 0; one whose log det H
/// is NaN gives NaN. `rows`: workspace of the program.
BRENIER_DEVICE inline double internal_energy(const InternalView& term, double log_xi, double* rows,
                                             Index stride) {
  if (log_xi == -std::numeric_limits<double>::infinity()) return 0;
  switch (term.form) {
    case InternalTerm::Form::entropy:
      return term.weight * log_xi;
    case InternalTerm::Form::power:
      return term.weight * exp((term.exponent - 1) * log_xi) / (term.exponent - 1);
    case InternalTerm::Form::general:
      break;
  }
  const double xi = exp(log_xi);
  if (!(xi > 0)) return xi;
  run_program<double>(term.program, {&xi}, rows, stride);
  return term.weight * rows[term.program.value * stride] / xi;
}

/// Elements of a sum, one a particle of the batch.
template <class T>
struct ParticleEnergies {
  StepArgs<T> step;                     // of the gradient; displacements and log-determinants are there
  const InternalView* terms = nullptr;  // step.internal_terms, with the programs of f
  double inertia = 0;                   // S^2/(2 tau)
  T* rows = nullptr;                    // (d + rows of the potential, threads)
  double* internal_rows = nullptr;      // (rows of a program f, threads)

  BRENIER_DEVICE double operator()(Index i, const SumThread& thread) const {
    const int d = step.tile.net.dim;
    const int particle = particle_of(step, static_cast<int>(i));
    const T* x = step.tile.x + Index{particle} * d;
    const Index kept = step.kept.place(static_cast<int>(i), step.tile.blocks);
    const T* move = step.tile.displacement + kept * d;
    double squares = 0;
    for (int c = 0; c < d; ++c) {
      squares = fma(static_cast<double>(move[c]), static_cast<double>(move[c]), squares);
    }
    double energy = inertia * squares;
    if (step.has_potential) {
      T* const y = rows + thread.index;
      T* const program = y + d * thread.count;
      for (int c = 0; c < d; ++c) y[c * thread.count] = x[c] + step.scale * move[c] + step.shift[c];
      run_program<T>(step.potential, {y, static_cast<int>(thread.count)}, program, thread.count);
      energy += static_cast<double>(program[step.potential.value * thread.count]);
    }
    for (int k = 0; k < step.internal_terms; ++k) {
      energy += internal_energy(terms[k], step.log_density[particle] - step.tile.log_det[kept],
                                internal_rows + thread.index, thread.count);
    }
    return energy;
  }
};

}  // namespace brenier::cuda
