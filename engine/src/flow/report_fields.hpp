// SPDX-License-Identifier: MIT
// The fields of a report by their names, for interfaces of other languages.
#pragma once

#include "brenier/flow.hpp"

namespace brenier {

inline const char* name_of(InnerOptions::Solver solver) {
  switch (solver) {
    case InnerOptions::Solver::automatic:
      return "auto";
    case InnerOptions::Solver::lbfgs:
      return "lbfgs";
    case InnerOptions::Solver::adam:
      return "adam";
  }
  return "";
}

/// field(name, value) for F and its parts.
template <class Field>
void for_each_part(const ObjectiveValue& f, const Field& field) {
  field("functional", f.total());
  field("potential", f.potential);
  field("interaction", f.interaction);
  field("internal", f.internal);
  field("divergence", f.divergence);
}

/// field(name, value) for the others: numbers, truth values and texts, in the order of StepReport.
template <class Field>
void for_each_field(const StepReport& r, const Field& field) {
  field("step", r.step);
  field("time", r.time);
  field("tau", r.tau);
  field("order", r.order);
  field("transport", r.transport);
  field("decrease", r.decrease);
  field("iterations", r.iterations);
  field("solver", name_of(r.solver));
  field("start", r.start);
  field("floor", r.floor);
  field("missed_share", r.missed_share);
  field("missed_share_held_out", r.missed_share_held_out);
  field("displacement_error", r.displacement_error);
  field("solved", r.solved);
  field("fitted", r.fitted);
  field("particle_decrease", r.particle_decrease);
  field("coincident", r.coincident);
  field("residual", r.residual);
  field("min_log_det", r.min_log_det);
  field("time_error", r.time_error);
  field("rejected", r.rejected);
  field("min_eigenvalue", r.min_eigenvalue);
  field("round_trip", r.round_trip);
  field("log_det_error", r.log_det_error);
  field("log_det_deviation", r.log_det_deviation);
  field("sinkhorn_error", r.sinkhorn.marginal_error);
  field("sinkhorn_unconverged", r.sinkhorn.unconverged);
  field("rate", r.rate);
  field("retries", r.retries);
  field("seconds", r.seconds);
  field("inner_seconds", r.inner_seconds);
  field("cloud_seconds", r.cloud_seconds);
  field("certificate_seconds", r.certificate_seconds);
}

}  // namespace brenier
