// SPDX-License-Identifier: MIT
#include "engine/src/flow/cloud_objective.hpp"

#include <cmath>
#include <limits>

#include "kernels/base/subset.hpp"
#include "kernels/model/black_box.hpp"
#include "kernels/operations.hpp"
#include "kernels/resident_cloud.hpp"

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
  for (const BlackBoxTerm& term : objective_.black_box) {
    std::vector<double> v(n);
    evaluate_black_box(term, x, v.data(), {});
    for (const double one : v) out.potential += term.weight * one * share;
  }
  Matrix<double> some;
  const bool pairs = !objective_.interaction.empty() || !objective_.divergence.empty();
  if (pair_limit > 0 && n > pair_limit && pairs) {
    some = subset(x, pair_limit, seed_);
  }
  add_pairs(some.empty() ? x : some, out, team);
  out.internal = internal(log_density, team).value;
  return out;
}

ObjectiveValue CloudObjective::value(const CloudView& cloud, Index pair_limit, Team& team) {
  if (!cloud.resident()) return value(cloud.x(), cloud.log_density(), pair_limit, team);
  ObjectiveValue out = cloud.resident()->value(objective_);
  if (objective_.interaction.empty() && objective_.divergence.empty()) return out;
  const bool all = pair_limit <= 0 || cloud.rows() <= pair_limit;
  add_pairs(all ? cloud.x() : cloud.subset(pair_limit, seed_), out, team);
  return out;
}

/// Interactions and divergences of particles x (n, d).
void CloudObjective::add_pairs(const Matrix<double>& x, ObjectiveValue& out, Team& team) {
  for (const InteractionTerm& term : objective_.interaction) {
    double energy = 0;
    ops_.interaction(term.kernel, x, &energy, {}, team);
    out.interaction += term.weight * energy;
  }
  for (std::size_t k = 0; k < objective_.divergence.size(); ++k) {
    // From no potentials: the value is not to depend on what was evaluated before.
    DivergenceState state;
    state.has_reference = states_[k].has_reference;
    state.reference_value = states_[k].reference_value;
    double value = 0;
    ops_.divergence(objective_.divergence[k], {x}, &value, {}, &state, team);
    out.divergence += objective_.divergence[k].weight * value;
    out.distances.push_back(value);
    states_[k].has_reference = state.has_reference;
    states_[k].reference_value = state.reference_value;
  }
}

CloudObjective::Internal CloudObjective::internal(const std::vector<double>& log_density, Team& team) const {
  Internal out;
  if (objective_.internal.empty()) return out;
  const Index n = static_cast<Index>(log_density.size());
  const double share = 1.0 / static_cast<double>(n);
  out.per_score.assign(log_density.size(), 0.0);
  out.surrogate.assign(log_density.size(), 0.0);
  for (const InternalTerm& term : objective_.internal) {
    // E[f(rho)/rho]; a particle where rho = 0 has measure 0 and counts f(0) = 0.
    std::vector<double> density, f, w;
    Matrix<double> slope;  // of w(t) = f'(t) - f(t)/t; t w'(t) + w(t) = t f''(t)
    if (term.form == InternalTerm::Form::general) {
      f.resize(log_density.size());
      w.resize(log_density.size());
      slope = Matrix<double>(n, 1);
      for (const double log_rho : log_density) density.push_back(std::exp(log_rho));
      ops_.evaluate_program(term.program, {density.data(), n, 1}, f.data(), {}, team);
      ops_.evaluate_program(term.surrogate, {density.data(), n, 1}, w.data(), slope, team);
    }
    double sum = 0, pressure = 0;
    for (Index i = 0; i < n; ++i) {
      const double log_rho = log_density[i];
      if (log_rho == -std::numeric_limits<double>::infinity()) continue;
      double value = 0, surrogate = 0, per_score = 0;
      switch (term.form) {
        case InternalTerm::Form::entropy:
          value = log_rho;
          surrogate = per_score = 1;
          break;
        case InternalTerm::Form::power:
          surrogate = std::exp((term.exponent - 1) * log_rho);
          value = surrogate / (term.exponent - 1);
          per_score = term.exponent * surrogate;
          break;
        case InternalTerm::Form::general:
          if (!(density[i] > 0)) break;
          value = f[i] / density[i];
          surrogate = w[i];
          per_score = density[i] * slope(i, 0) + w[i];
          break;
      }
      sum += value;
      pressure += surrogate;
      out.per_score[i] += term.weight * per_score;
      out.surrogate[i] += term.weight * surrogate;
    }
    out.value += term.weight * sum * share;
    out.pressure += term.weight * pressure * share;
  }
  return out;
}

SinkhornReport CloudObjective::force(MatrixView<const double> x, MatrixView<double> force, Team& team,
                                     double* value) {
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
  if (value) *value = 0;
  std::vector<double> energies(value ? static_cast<std::size_t>(n) : 0);
  double* const energy_of = value ? energies.data() : nullptr;
  if (objective_.has_potential()) {
    ops_.evaluate_program(objective_.potential, x, energy_of, part, team);
    for (const double energy : energies) *value += energy / static_cast<double>(n);
    add(1);
  }
  for (const NetworkTerm& term : objective_.network) {
    std::vector<double> theta(term.theta->size());
    write_as_force(*term.net, *term.theta, {}, theta);
    MapOutputs<double> outputs;
    outputs.displacement = part;
    outputs.potential = energy_of;  // with |x|^2/2 added
    ops_.evaluate(*term.net, theta.data(), x, outputs, team);
    for (Index i = 0; value && i < n; ++i) {
      double half = 0;
      for (Index c = 0; c < d; ++c) half += x(i, c) * x(i, c) / 2;
      *value += term.weight * (energies[static_cast<std::size_t>(i)] - half) / static_cast<double>(n);
    }
    add(term.weight);
  }
  for (const BlackBoxTerm& term : objective_.black_box) {
    evaluate_black_box(term, x, energy_of, part);
    for (const double energy : energies) *value += term.weight * energy / static_cast<double>(n);
    add(term.weight);
  }
  for (const InteractionTerm& term : objective_.interaction) {
    double energy = 0;
    ops_.interaction(term.kernel, x, value ? &energy : nullptr, part, team);
    if (value) *value += term.weight * energy;
    add(term.weight);
  }
  for (std::size_t k = 0; k < objective_.divergence.size(); ++k) {
    double distance = 0;
    report.add(
        ops_.divergence(objective_.divergence[k], {x}, value ? &distance : nullptr, part, &states_[k], team));
    if (value) *value += objective_.divergence[k].weight * distance;
    add(objective_.divergence[k].weight);
  }
  return report;
}

}  // namespace brenier
