// SPDX-License-Identifier: MIT
// The inner problem of a JKO step: F, normalised coordinates, the loop with redrawn clouds, and roll-back
// with smaller rates.
#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "brenier/base/error.hpp"
#include "brenier/device.hpp"
#include "brenier/oracles.hpp"
#include "engine/src/device/device_memory.hpp"
#include "engine/src/flow/certificates.hpp"
#include "engine/src/flow/extrapolation.hpp"
#include "engine/src/flow/log_det.hpp"
#include "engine/src/flow/state.hpp"
#include "kernels/base/moments.hpp"
#include "kernels/base/show.hpp"
#include "kernels/base/wall_clock.hpp"
#include "kernels/operations.hpp"

namespace brenier {
namespace {

/// x - shift, rounded to T after the difference.
template <class T>
Matrix<T> centred(const Matrix<double>& x, const std::vector<double>& shift) {
  Matrix<T> out(x.rows(), x.cols());
  for (Index i = 0; i < x.rows(); ++i) {
    for (Index c = 0; c < x.cols(); ++c) out(i, c) = static_cast<T>(x(i, c) - shift[c]);
  }
  return out;
}

}  // namespace

template <class T>
Flow<T>::State::State(Functional f, Cloud initial, FlowOptions o)
    : functional(std::move(f)),
      options((o.validate(), std::move(o))),
      net(architecture(options, initial)),
      objective(functional.at(options.start_time).objective(options.mass)),
      ops(backend<T>(options.device)),
      team(options.threads),
      cloud(std::move(initial), options.order == 2, true),
      next_tau(options.tau),
      evaluation(objective, cpu::operations<double>(), options.seed) {
  if (functional.empty()) throw ValueError("flow: the functional has no terms");
  const int dim = functional.dimension();
  if (dim != 0 && dim != net.dim()) {
    throw ShapeError("flow: the functional is for dimension " + std::to_string(dim) +
                     ", the cloud has dimension " + std::to_string(net.dim()));
  }
  if (functional.needs_density() && !cloud.has_density()) {
    throw ValueError(
        "flow: the functional has an internal energy, which needs the log-density of every initial particle; "
        "give "
        "the cloud its log-densities, or use an initial density that knows them");
  }
  check_curvature();
}

/// A quadratic V with curvature -k makes a JKO step of length 1/k or more unbounded below: no minimum exists,
/// and a network would run away towards none.
template <class T>
void Flow<T>::State::check_curvature() const {
  const std::optional<Functional::Gaussian> form = functional.gaussian(net.dim());
  if (!form || form->potential.hessian.empty()) return;
  const double curvature = smallest_eigenvalue(form->potential.hessian);
  const double tau = options.order == 2 ? problem_length(1) * options.tau : options.tau;
  if (1 / tau + curvature > 0) return;
  throw ValueError("flow: the potential curves down by " + show(curvature) +
                   " in some direction, and with tau = " + show(options.tau) +
                   " a step has no minimum; use tau below " + show(options.tau / tau / -curvature) +
                   ", or a potential that is bounded below");
}

template <class T>
Architecture Flow<T>::State::architecture(const FlowOptions& options, const Cloud& cloud) {
  Architecture a = options.network;
  a.dim = static_cast<int>(std::max<Index>(cloud.x.cols(), 1));
  return a;
}

/// F without the mass.
template <class T>
ObjectiveValue Flow<T>::State::value(const Matrix<double>& x, const std::vector<double>& log_density,
                                     Index pair_limit) const {
  return evaluation.value(x, log_density, pair_limit, team);
}

template <class T>
InnerProblem<T> Flow<T>::State::problem(const InnerTask& task, double rate) const {
  InnerProblem<T> out;
  out.net = &net;
  out.tau = task.tau;
  out.objective = &objective;
  out.adam = options.inner.adam;
  out.adam.rate = rate;
  out.iterations = options.inner.iterations;
  out.log_det = options.inner.log_det.resolved(net.dim());
  out.minibatch = options.inner.minibatch;
  out.seed = options.seed;
  out.step = task.number;
  out.tolerance = options.inner.tolerance;
  out.gradient_scale = gradient_scale;
  out.interrupt = &interrupted;
  out.shift.assign(net.dim(), 0.0);
  if (options.normalise) {
    Moments cloud_moments = moments(task.base.x);
    out.shift = std::move(cloud_moments.mean);
    out.scale = usable_scale(cloud_moments.deviation);
  }
  return out;
}

/// The warm or cold start of an inner problem.
template <class T>
InnerState<T> Flow<T>::State::start(std::uint32_t number) const {
  InnerState<T> out;
  out.theta = theta;
  if (theta.empty() || !options.inner.warm_start) {
    const std::vector<double> first =
        initial_parameters(net, options.inner.initialisation, options.seed, number, options.inner.alpha);
    out.theta.assign(first.begin(), first.end());
  }
  out.first_moment.assign(net.parameters(), T(0));
  out.second_moment.assign(net.parameters(), T(0));
  return out;
}

/// A new cloud from rho_0, through all maps so far. Densities cost more than positions, and are left out
/// where no gradient depends on them: that of the entropy does not.
template <class T>
Trajectory::Base Flow<T>::State::fresh_base(MapBase kind, double ratio) {
  Cloud drawn = source(++draws);
  if (drawn.x.cols() != cloud.x().cols() || drawn.log_density.empty() == cloud.has_density()) {
    throw ShapeError(
        "flow: a redrawn cloud differs from the initial one in dimension or in having log-densities");
  }
  const bool entropies =
      std::all_of(objective.internal.begin(), objective.internal.end(),
                  [](const InternalTerm& term) { return term.form == InternalTerm::Form::entropy; });
  if (entropies) drawn.log_density.clear();
  Trajectory fresh(std::move(drawn), options.order == 2, !entropies);
  for (const BrenierMap& map : maps) fresh.advance(map, team);
  Trajectory::Base out = fresh.base(kind, ratio, team);
  if (entropies && cloud.has_density()) out.log_density.assign(out.x.rows(), 0.0);  // any
  return out;
}

/// Iterations on the flow's device. The host program's own CUDA device is current again afterwards.
template <class T>
InnerReport Flow<T>::State::iterate(const InnerProblem<T>& problem, InnerState<T>& state, int until) const {
  const DeviceScope scope(options.device);
  try {
    return ops.inner_loop(problem, state, until, team);
  } catch (const OutOfDeviceMemory& cause) {
    throw does_not_fit(problem, steps + 1, cause);
  }
}

/// The inner loop once, at one rate.
template <class T>
typename Flow<T>::State::Solution Flow<T>::State::attempt(const InnerTask& task, double rate,
                                                          StepReport& report) {
  InnerProblem<T> inner = problem(task, rate);
  InnerState<T> state = start(task.number);
  Matrix<T> x;
  Trajectory::Base fresh;
  const auto use = [&](const Trajectory::Base& base) {
    x = centred<T>(base.x, inner.shift);
    inner.x = x;
    inner.log_density = base.log_density.empty() ? nullptr : base.log_density.data();
  };
  use(task.base);
  const int segment = options.inner.refresh > 0 ? options.inner.refresh : inner.iterations;
  Solution solution;
  for (bool first = true; state.iteration < inner.iterations; first = false) {
    if (!first) {
      fresh = fresh_base(task.kind, task.ratio);
      use(fresh);
    }
    const double first_gradient = solution.inner.first_gradient;
    solution.inner = iterate(inner, state, std::min(state.iteration + segment, inner.iterations));
    report.iterations += solution.inner.iterations;
    solution.iterations += solution.inner.iterations;
    report.cg.add(solution.inner.cg);
    report.sinkhorn.add(solution.inner.sinkhorn);
    if (!first) solution.inner.first_gradient = first_gradient;
    if (inner.gradient_scale == 0) inner.gradient_scale = solution.inner.first_gradient;
    if (!solution.inner.finite || solution.inner.converged || solution.inner.interrupted) break;
  }
  solution.theta = std::move(state.theta);
  const std::vector<double> normalised(solution.theta.begin(), solution.theta.end());
  solution.physical = denormalised(net, normalised, inner.shift, inner.scale);
  return solution;
}

template <class T>
Trial Flow<T>::State::trial(const Trajectory& from, const Trajectory::Base& base,
                            const BrenierMap& map) const {
  Trial out{from, {}, 0};
  out.cloud.advance(map, base, team);
  out.functional = value(out.cloud.x(), out.cloud.log_density(), kPairLimit);
  double squares = 0;
  for (std::size_t k = 0; k < base.x.elements().size(); ++k) {
    const double step = out.cloud.x().elements()[k] - base.x.elements()[k];
    squares += step * step;
  }
  out.transport = squares / (2 * map.tau * static_cast<double>(base.x.rows()));
  return out;
}

/// What the step reports of log det H.
template <class T>
void Flow<T>::State::check(const InnerTask& task, const std::vector<T>& solved, StepReport& report) const {
  if (objective.internal.empty()) return;
  InnerProblem<T> inner = problem(task, options.inner.adam.rate);
  report.log_det_method = inner.log_det.method;
  if (options.inner.log_det.method == LogDetOptions::Method::exact) return;
  const Matrix<T> x = centred<T>(task.base.x, inner.shift);
  inner.x = x;
  const DeviceScope scope(options.device);
  const LogDetCheck found = check_log_det(ops, inner, solved, team);
  report.log_det_error = found.error;
  report.log_det_deviation = found.deviation;
}

/// Solves one inner problem from `base` and moves `next` through its map, with retries. `like` has all of the
/// map but its network. False where interrupted.
template <class T>
bool Flow<T>::State::take(Trajectory& next, const Trajectory::Base& base, const BrenierMap& like,
                          StepReport& report) {
  double mark = now();
  const auto lap = [&mark](double& seconds) {
    const double end = now();
    seconds += end - mark;
    mark = end;
  };
  const double tau = like.tau;
  const InnerTask task{base, like.base, like.ratio, tau, static_cast<std::uint32_t>(maps.size())};
  const bool same = like.base == MapBase::current && known;
  const double before = (same ? *known : value(base.x, base.log_density, kPairLimit)).total();
  // A rise is a divergence where it is worth moving the cloud by 3 % of its size, a measure that does not see
  // constants in F. The start of the inner loop may lie above `before` as well: the first map is the identity
  // only nearly.
  const double scale = usable_scale(moments(base.x).deviation);
  const double slack = 1e-3 * scale * scale * static_cast<double>(base.x.cols()) / (2 * tau);
  double rate = options.inner.adam.rate;
  std::string reason;
  for (int attempts = 0; attempts <= options.inner.retries; ++attempts, rate /= 4) {
    lap(report.cloud_seconds);
    const Solution solution = attempt(task, rate, report);
    lap(report.inner_seconds);
    if (solution.inner.interrupted) return false;
    report.retries += attempts > 0;
    report.rate = rate;
    if (!solution.inner.finite) {
      reason = "the gradient of the inner problem was not finite at iteration " +
               std::to_string(solution.iterations);
      continue;
    }
    BrenierMap map = like;
    map.theta = solution.physical;
    Trial moved = trial(next, base, map);
    double limit = before + slack;
    if (moved.value() > limit) {
      BrenierMap first = map;
      const InnerProblem<T> inner = problem(task, rate);
      const std::vector<T> start_theta = start(task.number).theta;
      first.theta = denormalised(net, std::vector<double>(start_theta.begin(), start_theta.end()),
                                 inner.shift, inner.scale);
      limit = std::max(limit, trial(next, base, first).value());
    }
    if (!std::isfinite(moved.value()) || moved.value() > limit) {
      reason = "F + W^2/(2 tau) went from " + show(before) + " to " + show(moved.value());
      continue;
    }
    if (gradient_scale == 0) gradient_scale = solution.inner.first_gradient;
    lap(report.cloud_seconds);
    known = moved.functional;
    report.functional = moved.functional;
    report.transport = moved.transport;
    report.decrease = before - moved.value();
    report.residual = gradient_scale > 0 ? solution.inner.gradient / gradient_scale : 0;
    report.converged = solution.inner.converged;
    report.min_log_det = moved.cloud.min_log_det();
    if (options.certificates) {
      const MapCertificates checked = certify(map, base.x, team);
      report.min_eigenvalue = std::fmin(report.min_eigenvalue, checked.min_eigenvalue);
      report.round_trip = std::fmax(report.round_trip, checked.round_trip);
    }
    check(task, solution.theta, report);
    lap(report.certificate_seconds);
    theta = solution.theta;
    next = std::move(moved.cloud);
    maps.push_back(std::move(map));
    return true;
  }
  throw NumericalError("flow: step " + std::to_string(steps + 1) + " diverged: " + reason + ", after " +
                       std::to_string(options.inner.retries) + " retries down to the rate " + show(rate * 4) +
                       "; use a smaller inner rate or tau, or more particles");
}

template struct Flow<float>::State;
template struct Flow<double>::State;

}  // namespace brenier
