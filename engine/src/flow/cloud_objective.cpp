// SPDX-License-Identifier: MIT
#include "engine/src/flow/cloud_objective.hpp"

#include <cmath>
#include <limits>

#include "kernels/base/subset.hpp"
#include "kernels/operations.hpp"

namespace brenier {

ObjectiveValue CloudObjective::value(const Matrix<double>& x, const std::vector<double>& log_density,
                                     Index pair_limit, Team& team) {
  ObjectiveValue out;
  const Index n = x.rows();
  const double share = 1.0 / static_cast<double>(n);
  if (objective_.has_potential()) {
    std::vector<double> v(n);
    ops_.evaluate_program(objective_.potential, x, v.data(), {}, team);
    for (const double term : v) out.potential += term * share;
  }
  for (const NetworkTerm& term : objective_.network) {
    std::vector<double> v(n);
    MapOutputs<double> outputs;
    outputs.potential = v.data();
    ops_.evaluate(*term.net, term.theta->data(), x, outputs, team);
    for (const double one : v) out.potential += term.weight * one * share;
  }
  Matrix<double> some;
  const bool pairs = !objective_.interaction.empty() || !objective_.divergence.empty();
  if (pair_limit > 0 && n > pair_limit && pairs) {
    some = subset(x, pair_limit, seed_);
  }
  for (const InteractionTerm& term : objective_.interaction) {
    double energy = 0;
    ops_.interaction(term.kernel, some.empty() ? x : some, &energy, {}, team);
    out.interaction += term.weight * energy;
  }
  for (std::size_t k = 0; k < objective_.divergence.size(); ++k) {
    // From no potentials: the value is not to depend on what was evaluated before.
    DivergenceState state;
    state.has_reference = states_[k].has_reference;
    state.reference_value = states_[k].reference_value;
    double value = 0;
    ops_.divergence(objective_.divergence[k], {some.empty() ? x : some}, &value, {}, &state, team);
    out.divergence += objective_.divergence[k].weight * value;
    out.distances.push_back(value);
    states_[k].has_reference = state.has_reference;
    states_[k].reference_value = state.reference_value;
  }
  for (const InternalTerm& term : objective_.internal) {
    // E[f(rho)/rho]; a particle where rho = 0 has measure 0 and counts f(0) = 0.
    std::vector<double> density, f;
    if (term.form == InternalTerm::Form::general) {
      f.resize(n);
      for (const double log_rho : log_density) density.push_back(std::exp(log_rho));
      ops_.evaluate_program(term.program, {density.data(), n, 1}, f.data(), {}, team);
    }
    double sum = 0;
    for (Index i = 0; i < n; ++i) {
      const double log_rho = log_density[i];
      if (log_rho == -std::numeric_limits<double>::infinity()) continue;
      switch (term.form) {
        case InternalTerm::Form::entropy:
          sum += log_rho;
          break;
        case InternalTerm::Form::power:
          sum += std::exp((term.exponent - 1) * log_rho) / (term.exponent - 1);
          break;
        case InternalTerm::Form::general:
          sum += density[i] > 0 ? f[i] / density[i] : 0;
          break;
      }
    }
    out.internal += term.weight * sum * share;
  }
  return out;
}

SinkhornReport CloudObjective::force(MatrixView<const double> x, MatrixView<double> force, Team& team) {
  const Index n = x.rows, d = x.cols;
  SinkhornReport report;
  Matrix<double> part(n, d);
  for (Index i = 0; i < n; ++i) {
    for (Index c = 0; c < d; ++c) force(i, c) = 0;
  }
  const auto add = [&](double weight) {
    for (Index i = 0; i < n; ++i) {
      for (Index c = 0; c < d; ++c) force(i, c) += weight * part(i, c);
    }
  };
  if (objective_.has_potential()) {
    ops_.evaluate_program(objective_.potential, x, nullptr, part, team);
    add(1);
  }
  for (const NetworkTerm& term : objective_.network) {
    std::vector<double> theta(term.theta->size());
    write_as_force(*term.net, *term.theta, {}, theta);
    MapOutputs<double> outputs;
    outputs.displacement = part;
    ops_.evaluate(*term.net, theta.data(), x, outputs, team);
    add(term.weight);
  }
  for (const InteractionTerm& term : objective_.interaction) {
    ops_.interaction(term.kernel, x, nullptr, part, team);
    add(term.weight);
  }
  for (std::size_t k = 0; k < objective_.divergence.size(); ++k) {
    report.add(ops_.divergence(objective_.divergence[k], {x}, nullptr, part, &states_[k], team));
    add(objective_.divergence[k].weight);
  }
  return report;
}

}  // namespace brenier
