// SPDX-License-Identifier: MIT
// JKO steps on the particles themselves, for functionals without internal energies: no network and no map.
#include <cmath>
#include <limits>

#include "brenier/base/error.hpp"
#include "brenier/device.hpp"
#include "engine/src/flow/solve/coincident.hpp"
#include "engine/src/flow/solve/particles.hpp"
#include "engine/src/flow/state.hpp"
#include "kernels/base/show.hpp"
#include "kernels/base/wall_clock.hpp"

namespace brenier {

template <class T>
void Flow<T>::State::check_particles() const {
  if (options.method != FlowOptions::Method::particles) return;
  if (functional.needs_density())
    throw ValueError(
        "flow: method = particles with an internal energy, which is one of a density, and particles alone "
        "have none; "
        "use method = network");
  if (resolved_device(options.device).starts_with("cuda") && options.device != "auto")
    throw NotAvailable("flow: method = particles on " + options.device + "; use device = \"cpu\"");
}

/// Lowest F + |y - x|^2/(2 tau) over the images y of the particles. False where interrupted.
template <class T>
bool Flow<T>::State::move_particles(Trajectory& next, StepReport& report) {
  const double begin = now();
  const Trajectory::Base base{next.x(), {}, true};
  const InnerTask task{base, MapBase::current, 1, report.tau, problems};
  const ObjectiveValue parts = known ? *known : value(base.x, kPairLimit);
  check_finite(base, parts);
  if (!far_checked) check_far(task);
  far_checked = true;
  report.coincident = coincident<double>(objective, base, std::vector<double>(base.x.cols(), 0.0),
                                         for_few_points(exact), team);
  report.start = "identity";
  report.solver = InnerOptions::Solver::lbfgs;
  ParticleOptions search{.evaluations = options.inner.iterations, .tolerance = 1e-8, .interrupt = &stop()};
  ParticleStep found = solve_on_particles(objective, base.x, report.tau, search, exact, team);
  if (found.interrupted) return false;
  report.inner_seconds = now() - begin;
  if (!std::isfinite(found.decrease))
    throw NumericalError("flow: step " + std::to_string(steps + 1) +
                         " diverged: F + W^2/(2 tau) is not finite along the search; use a smaller tau");
  report.iterations = found.evaluations;
  report.sinkhorn = found.sinkhorn;
  report.converged = found.converged;
  next = Trajectory::restore(std::move(found.y), {}, {}, {}, false);
  report.functional = value(next, kPairLimit);
  for (std::size_t k = 0; k < base.x.elements().size(); ++k) {
    const double move = next.x().elements()[k] - base.x.elements()[k];
    report.transport += move * move / (2 * report.tau * static_cast<double>(base.x.rows()));
  }
  report.decrease = report.particle_decrease = parts.total() - report.functional.total() - report.transport;
  const double checked = now();
  report.cloud_seconds = checked - begin - report.inner_seconds;
  if (options.certificates) {
    const double noise =
        std::numeric_limits<double>::epsilon() *
        (std::abs(parts.potential) + std::abs(parts.interaction) + std::abs(parts.divergence));
    // At single particles: no displacement is too rough for them.
    const Missed missed =
        missed_share(objective, {base, next, report.tau, report.decrease, noise, options.inner.accept}, {},
                     {}, options.seed, exact, team);
    report.basis = StepBasis::residual;
    report.floor = missed.floor;
    report.missed_share = missed.share;
    report.displacement_error = missed.displacement;
    report.solved = missed.solved(options.inner.accept);
    if (!report.solved && options.inner.on_unsolved == InnerOptions::OnUnsolved::stop)
      throw NumericalError("flow: step " + std::to_string(steps + 1) +
                           " is not solved: " + missed.in_words(options.inner.accept) +
                           "; use more inner iterations or a smaller tau");
    report.certificate_seconds = now() - checked;
  }
  known = report.functional;
  ++problems;
  return true;
}

template void Flow<float>::State::check_particles() const;
template void Flow<double>::State::check_particles() const;
template bool Flow<float>::State::move_particles(Trajectory&, StepReport&);
template bool Flow<double>::State::move_particles(Trajectory&, StepReport&);

}  // namespace brenier
