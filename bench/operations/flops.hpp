// SPDX-License-Identifier: MIT
// Floating-point operations per particle that each operation of kernels/operations.hpp needs, counted from
// formulas: two for a multiply-add of a product of matrices or of the sums named below, nothing for
// activations, copies and Adam. For a plain network with widths h_0 .. h_{L-1}:
//
//     C = sum_{l>0} h_{l-1} h_l          hidden weights
//     F = C + d sum_l h_l                all weights: one pass of one stream, in multiply-adds
//     s = d(d+1)/2                       entries of the Hessian
//
//     operation                   multiply-adds a particle
//     map                         2 F                                   forward, and its adjoint
//     map and log det             2 F + J + d^3/6                       Cholesky
//     Hessian-vector product      4 F                                   two more streams
//     H z = p, m steps of CG      2 F + m (2 F + 5 d)                   map once; product, dots and updates a
//     step log det, m Lanczos steps    2 F + m (2 F + 2 (m + 1) d)           re-orthogonalised twice jet
//     gradient, v             5 F + C       map; stream of v; its adjoint; two outer products per matrix jet
//     gradient, metric M      5 F + C + J + 2 h_0 s + 2 d C + sum_{l>0} h_l (d^2 + d) jet gradient, K
//     directions  5 F + C + K (2 F + C)                 pairs: 2K in place of K JKO iteration               5
//     F + C, or with an internal energy that with metric + d^3/2 (factor and inverse)
//
// with J = h_0 s + d C + sum_{l>0} h_l (s + d), the Jacobians of the layers and H = sum_l J_l^T diag(.) J_l,
// where J_0 = A_0 is shared by all particles.
#pragma once

#include "brenier/model/icnn.hpp"
#include "brenier/model/objective.hpp"

namespace brenier::bench {

/// Counts for one network, in operations (twice the multiply-adds above). Residual networks are not counted.
class Flops {
 public:
  explicit Flops(const Icnn& net) : d_(net.dim()) {
    double before = 0;
    for (const Layer& layer : net.layers()) {
      const double h = layer.width;
      chain_ += before * h;
      pass_ += before * h + d_ * h;
      if (before == 0) {
        first_ = h;
      } else {
        rest_ += h;
      }
      before = h;
    }
  }

  double map() const { return 2 * (2 * pass_); }
  double map_log_det() const { return 2 * (2 * pass_ + jacobians() + d_ * d_ * d_ / 6); }
  double hessian_vector() const { return 2 * (4 * pass_); }
  double solve(int steps) const { return 2 * (2 * pass_ + steps * (2 * pass_ + 5 * d_)); }
  double lanczos(int steps) const { return 2 * (2 * pass_ + steps * (2 * pass_ + 2 * (steps + 1) * d_)); }
  double jet() const { return 2 * (5 * pass_ + chain_); }
  double jet_metric() const {
    return jet() + 2 * (jacobians() + 2 * first_ * entries() + 2 * d_ * chain_ + rest_ * (d_ * d_ + d_));
  }
  double jet_directions(int streams) const { return jet() + 2 * streams * (2 * pass_ + chain_); }
  double iteration(bool internal) const { return internal ? jet_metric() + d_ * d_ * d_ : jet(); }
  /// With P probes of m steps of CG each: pairs, the map is that of the jet.
  double iteration_cg(int probes, int steps) const {
    return jet_directions(2 * probes) + probes * (solve(steps) - map());
  }

 private:
  double entries() const { return d_ * (d_ + 1) / 2; }
  double jacobians() const { return first_ * entries() + d_ * chain_ + rest_ * (entries() + d_); }

  double d_;
  double chain_ = 0;  // C
  double pass_ = 0;   // F
  double first_ = 0;  // h_0
  double rest_ = 0;   // sum_{l>0} h_l
};

/// Operations of a program for one argument: one for each element that arithmetic or a function produces.
inline double program_flops(const Program& program) {
  double total = 0;
  for (const Instruction& step : program.code) {
    switch (step.op) {
      case OpCode::constant:
      case OpCode::input:
      case OpCode::component:
      case OpCode::scatter:
      case OpCode::broadcast:
        break;
      case OpCode::sum:
        total += program.code[step.a].size;
        break;
      case OpCode::dot:
        total += 2.0 * program.code[step.a].size;
        break;
      case OpCode::matvec:
        total += 2.0 * step.size * program.code[step.a].size;
        break;
      default:
        total += step.size;
    }
  }
  return total;
}

/// Operations for one pair of particles and its force: difference, r^2, W'(r)/r, and the sum. The quadratic
/// part of quadratic_log goes through moments and costs nothing a pair.
inline double pair_flops(const PairKernel& kernel, int dim) {
  switch (kernel.form) {
    case PairKernel::Form::quadratic_log:
      return kernel.log_coefficient == 0 ? 0 : 5.0 * dim + 1;
    case PairKernel::Form::radial:
      return 5.0 * dim + 2 + program_flops(kernel.program);
    case PairKernel::Form::vector:
      return 2.0 * dim + program_flops(kernel.program);
  }
  return 0;
}

/// Operations for one ordered pair of particles and its logarithm: difference, r^2, the logarithm, and the sum.
inline double pair_energy_flops(int dim) {
  return 3.0 * dim + 1;
}

}  // namespace brenier::bench
