// SPDX-License-Identifier: MIT
// Algorithm 1 of the paper, at both orders, with steps of equal or adaptive length and held-out clouds.
#include "brenier/flow.hpp"

#include <cmath>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "brenier/base/error.hpp"
#include "brenier/checksum.hpp"
#include "brenier/oracles.hpp"
#include "brenier/version.hpp"
#include "engine/src/checks/shape_check.hpp"
#include "engine/src/device/device_arrays.hpp"
#include "engine/src/device/device_memory.hpp"
#include "engine/src/flow/extrapolation.hpp"
#include "engine/src/flow/options.hpp"
#include "engine/src/flow/solve/scale.hpp"
#include "engine/src/flow/state.hpp"
#include "engine/src/flow/time_stepping.hpp"
#include "kernels/base/show.hpp"
#include "kernels/base/wall_clock.hpp"
#include "kernels/model/keys.hpp"
#include "kernels/resident_cloud.hpp"

namespace brenier {
namespace {

ObjectiveValue times(double mass, const ObjectiveValue& value) {
  return {mass * value.potential, mass * value.interaction, mass * value.internal, mass * value.divergence,
          value.distances};
}

void add(Checksum& sum, const Trajectory& cloud) {
  sum.update(std::as_bytes(std::span(cloud.x().elements())));
  sum.update(std::as_bytes(std::span(cloud.log_density())));
}

std::uint64_t number_of(const Checksum& sum) {
  return std::stoull(sum.text(), nullptr, 16);
}

constexpr int kMostRejected = 20;  // steps in turn, each at most 0.9 times as long as the one before

NumericalError no_step_length(const StepReport& report, double tolerance, int rejected) {
  return NumericalError(
      "flow: step " + std::to_string(report.step) + ": no length meets the tolerance " + show(tolerance) +
      ": after " + std::to_string(rejected) + (rejected == 1 ? " shorter one" : " shorter ones") +
      ", tau = " + show(report.tau) + " has the error " + show(report.time_error) +
      "; use a larger tolerance (flow.tolerance of a configuration, adaptive.tolerance in C++)" +
      (report.step == 1 ? ", a shorter first step (flow.first_tau, tau in C++)" : "") +
      ", or more inner iterations and particles: their noise in the velocities counts as error");
}

/// ValueError: a minibatch of more particles than there are.
void check_minibatch(const FlowOptions& options, Index particles) {
  if (options.inner.minibatch <= particles || particles == 0) return;
  throw ValueError("flow: inner.minibatch = " + std::to_string(options.inner.minibatch) +
                   "; it must be at most the number of particles, " + std::to_string(particles) +
                   ", and 0 takes all of them");
}

/// A host program's cloud on the current device, which is that of `ops`.
std::shared_ptr<const ResidentCloud> gathered(const DeviceCloud& cloud, const Operations<double>& ops,
                                              const std::string& device) {
  if (!ops.gather) throw not_on_a_device(device);
  if (!cloud.x || cloud.x.rows < 1 || cloud.x.cols < 1)
    throw ValueError("cloud: no particles; at least one is needed");
  check_device_arrays(cloud, cloud.x.rows, cloud.x.cols);
  return ops.gather(cloud);
}

Cloud brought(const ResidentCloud& resident) {
  Cloud out{Matrix<double>(resident.rows(), resident.cols()), {}};
  if (resident.has_density()) out.log_density.resize(static_cast<std::size_t>(resident.rows()));
  resident.download(out.x, resident.has_density() ? out.log_density.data() : nullptr);
  return out;
}
Cloud brought(const DeviceCloud& cloud, const FlowOptions& options) {
  try {
    const Operations<double>& ops = backend<double>(options.device);
    const DeviceScope scope(options.device);
    return brought(*gathered(cloud, ops, options.device));
  } catch (...) {
    Ranks::tell(options.communicator.get());
    throw;
  }
}

/// The root mean square of |x_i - y_i|.
double root_mean_square_distance(const Matrix<double>& x, const Matrix<double>& y) {
  double squares = 0;
  for (std::size_t k = 0; k < x.elements().size(); ++k) {
    const double change = x.elements()[k] - y.elements()[k];
    squares += change * change;
  }
  return std::sqrt(squares / static_cast<double>(x.rows()));
}

/// See rounding_of_place().
template <class T>
double place_rounding(const Matrix<double>& x) {
  std::vector<double> mean;
  double scale = 1;
  location_and_scale(x, mean, scale);
  return rounding_of_place(mean, scale, std::numeric_limits<T>::epsilon());
}

/// Whether a step moved the cloud by more than a network in T rounds.
template <class T>
bool resolved(const Matrix<double>& x, double moved) {
  constexpr double kRounding = 16 * static_cast<double>(std::numeric_limits<T>::epsilon());
  std::vector<double> mean;
  double scale = 1;
  location_and_scale(x, mean, scale);
  return moved > kRounding * scale;
}

}  // namespace

template <class T>
double Flow<T>::State::time() const {
  if (!adaptive()) return options.start_time + steps * options.tau;
  return clock;
}

/// F as it is at a time. Between steps that is the flow's own; a JKO problem has the F of the time it ends at.
template <class T>
void Flow<T>::State::set_time(double time) {
  if (!functional.depends_on_time()) return;
  objective = functional.at(time).objective(options.mass);
  known.reset();
}

/// The first step of order 2, which has none before it: short ones of order 1.
template <class T>
bool Flow<T>::State::start_up(Trajectory& next, StepReport& report) {
  BrenierMap map{.net = net, .theta = {}};
  map.step = report.step;
  map.time = report.time;
  map.tau = report.tau / startup_steps;
  const Matrix<double> start = next.x();
  Matrix<double> second, last;
  for (int k = 1; k <= startup_steps; ++k) {
    map.closes_step = k == startup_steps;
    set_time(report.time - (startup_steps - k) * map.tau);
    if (map.closes_step) last = next.x();
    if (!take(next, next.base(map, team), map, report)) return false;
    if (k == 1) second = next.x();
  }
  // The velocity of the first of them against that of the last, seven of their lengths later.
  Matrix<double> end = second;
  for (std::size_t k = 0; k < end.elements().size(); ++k)
    end.elements()[k] += next.x().elements()[k] - last.elements()[k];
  const ThreeTimes ends{start, second, end, map.tau, map.tau, place_rounding<T>(start)};
  report.time_error = startup_steps * order_difference(map.tau, ends.acceleration() / (startup_steps - 1));
  return true;
}

/// All inner problems of one step of length report.tau.
template <class T>
bool Flow<T>::State::advance(Trajectory& next, StepReport& report) {
  if (options.method == FlowOptions::Method::particles) {
    set_time(report.time);
    return move_particles(next, report);
  }
  if (options.order == 2 && !next.has_previous()) return start_up(next, report);
  BrenierMap map{.net = net, .theta = {}};
  map.step = report.step;
  map.time = report.time;
  map.tau = report.tau;
  report.order = 1;
  const double before = adaptive() ? last_length : options.tau;
  Trajectory::Base base;
  if (options.order == 2) {
    const double ratio = adaptive() ? report.tau / before : 1;
    base = next.base(MapBase::extrapolated, ratio, team);
    if (base.admissible) {
      map.base = MapBase::extrapolated;
      map.ratio = ratio;
      map.tau = problem_length(ratio) * report.tau;
      report.order = 2;
    }
  }
  if (map.base == MapBase::current) base = next.base(map, team);
  set_time(report.time);
  if (!take(next, base, map, report)) return false;
  if (options.order == 2) {
    const ThreeTimes last{cloud.previous(), cloud.x(),  next.x(),
                          before,           report.tau, place_rounding<T>(cloud.x())};
    report.time_error = order_difference(report.tau, last.acceleration());
  }
  return true;
}

/// Refuses a step whose outcome is another one on another process.
template <class T>
void Flow<T>::State::check_together(const Trajectory& next) const {
  if (!ranks) return;
  Checksum sum;
  add(sum, next);
  sum.update(std::as_bytes(std::span(theta)));
  if (ranks->same(number_of(sum))) return;
  throw RankError(
      "flow: the ranks have come apart in step " + std::to_string(steps + 1) + ": this one computes with \"" +
      ops.name +
      "\"; processors of several kinds need device = \"cpu:VARIANT\" with one that all have, and the same "
      "build");
}

/// Refuses an argument that is another one on another process.
template <class T>
void Flow<T>::State::check_same_cloud(const Trajectory& given) const {
  if (!ranks) return;
  Checksum sum;
  add(sum, given);
  if (!ranks->same(number_of(sum)))
    throw RankError("flow: the ranks were given different clouds, here of " + std::to_string(given.size()) +
                    " particles; all must make the same calls with the same arguments");
}

/// Refuses a call that is another one on another process, or that is made of another state: what comes after it would wait
/// for ever, or take messages for others.
template <class T>
void Flow<T>::State::check_same_call(const char* call) const {
  Checksum sum;
  const std::string text = call + (" " + functional.describe());
  sum.update(std::as_bytes(std::span(text)));
  add(sum, cloud);
  for (const Trajectory& held_out : tracked) add(sum, held_out);
  const double numbers[] = {static_cast<double>(steps),
                            static_cast<double>(problems),
                            clock,
                            static_cast<double>(tracked.size()),
                            static_cast<double>(maps.size()),
                            static_cast<double>(cloud.size())};
  sum.update(std::as_bytes(std::span(numbers)));
  sum.update(std::as_bytes(std::span(theta)));
  if (ranks->same(number_of(sum))) return;
  throw RankError(
      "flow: the ranks have come apart: this one calls " + std::string(call) + "() after step " +
      std::to_string(steps) + " at time " + show(time()) + ", with " + std::to_string(cloud.size()) +
      " particles, " + std::to_string(tracked.size()) + " held-out clouds and " +
      std::to_string(maps.size()) +
      " maps, and another makes another call, or has another cloud, "
      "functional or checkpoint; all must make the same calls with the same arguments, and a call that has "
      "failed on one must be made again on that one or on none");
}

/// Refuses processes that were given different flows.
template <class T>
void Flow<T>::State::check_alike() const {
  Checksum sum;
  const std::vector<T> first = identity(0);
  const std::string text = std::string(BRENIER_VERSION) + functional.describe() + ops.name +
                           texts_of(flow_keys(), options) + texts_of(network_keys(), options) +
                           texts_of(architecture_keys(), options.network) + texts_of(inner_keys(), options);
  const double numbers[] = {options.mass, options.certificates ? 1.0 : 0.0,
                            static_cast<double>(options.seed)};
  sum.update(std::as_bytes(std::span(text)));
  sum.update(std::as_bytes(std::span(numbers)));
  add(sum, cloud);
  sum.update(std::as_bytes(std::span(first)));
  if (ranks->same(number_of(sum))) return;
  throw ValueError(
      "flow: the ranks were given different flows: the cloud, the functional, the options (the seed too) and "
      "the device, "
      "here \"" +
      std::string(ops.name) + "\", must be the same on all");
}

template <class T>
Flow<T>::Flow(Functional functional, Cloud initial, FlowOptions options) {
  const std::shared_ptr<Communicator> all = options.communicator;
  try {
    check_minibatch(options, initial.x.rows());
    state_ = std::make_unique<State>(std::move(functional), std::move(initial), std::move(options));
  } catch (...) {
    Ranks::tell(all.get());
    throw;
  }
  if (!state_->ranks) return;
  state_->together(nullptr, [&] {
    state_->check_alike();
    return true;
  });
}
template <class T>
Flow<T>::Flow(Functional functional, const DeviceCloud& initial, FlowOptions options)
    : Flow(std::move(functional), brought(initial, options), options) {}
template <class T>
Flow<T>::~Flow() = default;
template <class T>
Flow<T>::Flow(Flow&&) noexcept = default;
template <class T>
Flow<T>& Flow<T>::operator=(Flow&&) noexcept = default;

template <class T>
std::optional<StepReport> Flow<T>::step() {
  return state_->together("step", [&] {
    try {
      return take_step();
    } catch (const InnerProblemTooLarge&) {
      throw;
    } catch (const OutOfDeviceMemory& cause) {
      throw evaluation_does_not_fit(trajectory().size(), trajectory().dim(), steps() + 1, cause);
    }
  });
}

template <class T>
std::optional<StepReport> Flow<T>::take_step() {
  State& s = *state_;
  if (s.options.inner.refresh > 0 && !s.source) {
    throw ValueError("flow: inner.refresh = " + std::to_string(s.options.inner.refresh) +
                     " takes new clouds, and there is no source of them; see set_source()");
  }
  const double start = now();
  struct Forget {
    State& state;
    ~Forget() { state.forget_parameters(); }
  } forget{s};
  const Checkpoint before = checkpoint();
  const std::size_t first_map = s.maps.size();
  const JudgedParticles judged_before = s.judged;
  const auto undo = [&] {
    s.maps.erase(s.maps.begin() + static_cast<std::ptrdiff_t>(first_map), s.maps.end());
    s.theta.assign(before.theta.begin(), before.theta.end());
    s.gradient_scale = before.gradient_scale;
    s.draws = before.draws;
    s.next_tau = before.next_tau;
    s.problems = before.problems;
    s.judged = judged_before;
    s.pool.clear();
    s.known.reset();
    s.set_time(s.time());
  };
  const AdaptiveOptions& adaptive = s.options.adaptive;
  if (s.adaptive() && !(s.time() < adaptive.end_time)) return std::nullopt;
  StepReport report;
  Trajectory next;
  int rejected = 0;
  double expected = 0;  // of a step that is tried again: how far, at the speed of the longer one
  for (double tau = s.next_tau;; ++rejected) {
    if (adaptive.longest > 0) tau = std::min(tau, adaptive.longest);
    if (s.adaptive()) tau = fitted_length(tau, s.time(), adaptive.end_time);
    report = {};
    report.step = s.steps + 1;
    report.tau = tau;
    report.time = s.adaptive() ? s.time() + tau : s.options.start_time + report.step * tau;
    if (tau == adaptive.end_time - s.time()) report.time = adaptive.end_time;
    if (s.adaptive() && !(report.time > s.time())) {
      throw NumericalError("flow: step " + std::to_string(report.step) + ": tau = " + show(tau) +
                           " is lost in the rounding of the time " + show(s.time()) +
                           "; use a larger tolerance (flow.tolerance of a configuration, "
                           "adaptive.tolerance in C++), or let the time begin at 0");
    }
    report.order = s.options.order;
    next = s.cloud;
    try {
      if (!s.advance(next, report)) {
        undo();
        s.forget_interrupt();  // not where a step is rejected: an interrupt may have come meanwhile
        return std::nullopt;
      }
      if (!s.adaptive()) break;
      const double proposed = next_length(tau, report.time_error, adaptive.tolerance);
      // The first step is several, of which the last may stand still where the others went all the way.
      const double moved = s.cloud.has_previous() ? std::sqrt(2 * tau * report.transport)
                                                  : root_mean_square_distance(s.cloud.x(), next.x());
      // Two orders that agree to less than T rounds agree about nothing, nor do two that both stand still: the network
      // does not resolve steps as short as these. Where it would have resolved this one at the speed of the longer one before,
      // nothing moves the cloud yet.
      const bool rests = report.solved && resolved<T>(s.cloud.x(), expected);
      const bool unresolved =
          rejected > 0 && (adaptive.tolerance < static_cast<double>(std::numeric_limits<T>::epsilon()) ||
                           !(rests || resolved<T>(s.cloud.x(), moved)));
      if (report.time_error <= adaptive.tolerance && !unresolved) {
        s.next_tau = proposed;
        break;
      }
      if (rejected == kMostRejected || unresolved) throw no_step_length(report, adaptive.tolerance, rejected);
      expected = moved * proposed / tau;
      tau = proposed;
      undo();
    } catch (...) {
      undo();
      s.forget_interrupt();
      throw;
    }
  }
  report.rejected = rejected;
  const double begin = now();
  std::vector<Trajectory> tracked;
  try {
    tracked = s.tracked;
    for (Trajectory& held_out : tracked) {
      for (std::size_t m = first_map; m < s.maps.size(); ++m)
        held_out.advance(s.maps[m], s.team, m + 1 == s.maps.size() ? s.taken_map.get() : nullptr);
    }
    s.check_together(next);
  } catch (...) {  // no memory, or ranks that disagree
    undo();
    throw;
  }
  s.cloud = std::move(next);
  s.tracked = std::move(tracked);
  s.last_length = report.time - s.clock;
  s.clock = report.time;
  if (!s.options.keep_maps) s.maps.clear();
  ++s.steps;
  const double mass = s.options.mass;
  report.functional = times(mass, report.functional);
  report.transport *= mass;
  report.decrease *= mass;
  report.particle_decrease *= mass;
  report.cloud_seconds += now() - begin;
  report.seconds = now() - start;
  return report;
}

template <class T>
void Flow<T>::interrupt() noexcept {
  state_->interrupted.store(true, std::memory_order_relaxed);
}

template <class T>
int Flow<T>::steps() const {
  return state_->steps;
}
template <class T>
double Flow<T>::time() const {
  return state_->time();
}
template <class T>
const FlowOptions& Flow<T>::options() const {
  return state_->options;
}
template <class T>
const Icnn& Flow<T>::network() const {
  return state_->net;
}
template <class T>
const Trajectory& Flow<T>::trajectory() const {
  return state_->cloud;
}
template <class T>
const std::vector<BrenierMap>& Flow<T>::maps() const {
  return state_->maps;
}
template <class T>
Team& Flow<T>::team() const {
  return state_->team;
}

template <class T>
ObjectiveValue Flow<T>::functional() const {
  return functional_of(state_->cloud);
}

template <class T>
ObjectiveValue Flow<T>::functional_of(const Trajectory& cloud, Index pair_limit) const {
  return state_->together("functional_of", [&] {
    if (cloud.dim() != state_->net.dim()) {
      throw ShapeError("flow: a cloud of dimension " + std::to_string(cloud.dim()) +
                       " in a flow of dimension " + std::to_string(state_->net.dim()));
    }
    if (state_->functional.needs_density() && !cloud.has_density()) {
      throw ValueError("flow: the functional needs log-densities, and this cloud has none");
    }
    return times(state_->options.mass, state_->value(cloud, pair_limit));
  });
}

template <class T>
std::size_t Flow<T>::track(Cloud held_out) {
  return state_->together("track", [&] {
    if (state_->options.method == FlowOptions::Method::particles)
      throw ValueError(
          "flow: a held-out cloud with method = particles, whose steps are no maps; use method = network");
    Trajectory cloud(state_->carried(std::move(held_out)), state_->options.order == 2);
    cloud.run_on(state_->exact);
    if (cloud.x().cols() != state_->net.dim()) {
      throw ShapeError("flow: a held-out cloud of dimension " + std::to_string(cloud.x().cols()) +
                       " in a flow of dimension " + std::to_string(state_->net.dim()));
    }
    if (!state_->options.keep_maps && state_->steps > state_->first_step) {
      throw ValueError("flow: a held-out cloud after " + std::to_string(state_->steps - state_->first_step) +
                       " steps whose maps were not kept; track it before the first, or set keep_maps");
    }
    state_->check_same_cloud(cloud);
    for (const BrenierMap& map : state_->maps) cloud.advance(map, state_->team);
    state_->tracked.reserve(state_->tracked.size() + 1);
    state_->agree();
    state_->tracked.push_back(std::move(cloud));
    return state_->tracked.size() - 1;
  });
}

template <class T>
const Trajectory& Flow<T>::tracked(std::size_t number) const {
  if (number >= state_->tracked.size()) {
    throw ValueError("flow: cloud " + std::to_string(number) + " was asked for; " +
                     std::to_string(state_->tracked.size()) + " are tracked, from 0");
  }
  return state_->tracked[number];
}

template <class T>
void Flow<T>::set_initial_density(const Density& initial) {
  State& s = *state_;
  if (initial.dim() != s.net.dim()) {
    throw ShapeError("flow: an initial density of dimension " + std::to_string(initial.dim()) +
                     " in a flow of dimension " + std::to_string(s.net.dim()));
  }
  if (s.steps > s.first_step)
    throw ValueError("flow: the initial density was given after " + std::to_string(s.steps - s.first_step) +
                     " steps");
  s.law = initial;
  if (!s.replaced) s.first_law = initial;
  // Without maps nothing carries other particles.
  if (!s.options.certificates || s.options.method == FlowOptions::Method::particles) return;
  s.judged = JudgedParticles(initial, s.cloud.x(), !s.objective.internal.empty(),
                             !s.objective.interaction.empty(), s.options.order == 2, s.options.seed);
  s.judged.run_on(s.exact);
}

/// Whether another cloud can take the place of this one.
template <class T>
void Flow<T>::State::check_replaced(Index dim) const {
  if (dim != net.dim()) {
    throw ShapeError("flow: a cloud of dimension " + std::to_string(dim) + " in a flow of dimension " +
                     std::to_string(net.dim()));
  }
  if (options.inner.refresh > 0) {
    throw ValueError("flow: another cloud with inner.refresh = " + std::to_string(options.inner.refresh) +
                     "; clouds that are drawn again are of the initial density, so it must be 0");
  }
}

template <class T>
void Flow<T>::State::replace(Trajectory given) {
  check_cloud(given);
  check_minibatch(options, given.size());
  given.run_on(exact);
  cloud = std::move(given);
  tracked.clear();
  maps.clear();
  judged = {};
  law.reset();
  known.reset();
  first_step = steps;
  replaced = true;
}

template <class T>
void Flow<T>::set_cloud(Cloud cloud) {
  State& s = *state_;
  s.check_replaced(cloud.x.cols());
  s.replace(Trajectory(s.carried(std::move(cloud)), s.options.order == 2, s.net.smooth()));
}

template <class T>
void Flow<T>::set_cloud(const DeviceCloud& cloud) {
  State& s = *state_;
  s.check_replaced(cloud.x.cols);
  const DeviceScope scope(s.options.device);
  DeviceCloud used = cloud;
  if (!s.carries_density()) used.log_density = {};
  std::shared_ptr<const ResidentCloud> given = gathered(used, s.exact, s.options.device);
  if (s.options.order == 1) {
    s.replace(Trajectory::on(s.exact, std::move(given)));
  } else {
    s.replace(Trajectory(brought(*given), true, s.net.smooth()));
  }
}

template <class T>
void Flow<T>::get_cloud(const DeviceResults& to) const {
  const State& s = *state_;
  if (!s.exact.reside) throw not_on_a_device(s.options.device);
  const DeviceScope scope(s.options.device);
  s.cloud.write(to);
}

template <class T>
bool Flow<T>::has_initial_cloud() const {
  return !state_->replaced;
}

template <class T>
void Flow<T>::set_functional(Functional functional) {
  State& s = *state_;
  Objective objective = functional.at(s.time()).objective(s.options.mass);
  std::swap(s.functional, functional);
  std::swap(s.objective, objective);
  try {
    s.check_functional();
  } catch (...) {
    std::swap(s.functional, functional);
    std::swap(s.objective, objective);
    throw;
  }
  s.evaluation.reset();
  s.known.reset();
  s.gradient_scale = 0;
  s.far_checked = false;
  s.pool.clear();  // of which the other functional may need more
  // Certificates of internal energies need scores, and of interactions the law, which those particles may not have.
  if ((!s.objective.internal.empty() && !s.judged.has_scores()) ||
      (!s.objective.interaction.empty() && !s.judged.has_law()))
    s.judged = {};
}

template <class T>
void Flow<T>::set_source(std::function<Cloud(std::uint32_t)> draw) {
  state_->source = std::move(draw);
  state_->pool.clear();
}

template <class T>
typename Flow<T>::Checkpoint Flow<T>::checkpoint() const {
  return {{state_->theta.begin(), state_->theta.end()},
          state_->gradient_scale,
          state_->draws,
          state_->next_tau,
          state_->steps,
          state_->problems,
          state_->clock,
          state_->last_length};
}

template <class T>
void Flow<T>::restore(Trajectory cloud, std::vector<BrenierMap> maps, const Checkpoint& checkpoint) {
  State& s = *state_;
  s.together("restore", [&] {
    const Index parameters = s.net.parameters();
    if (cloud.x().cols() != s.net.dim()) throw ShapeError("flow: the restored cloud has another dimension");
    if (!checkpoint.theta.empty() && static_cast<Index>(checkpoint.theta.size()) != parameters) {
      throw ShapeError("flow: the checkpoint has " + std::to_string(checkpoint.theta.size()) +
                       " parameters, the network has " + std::to_string(parameters));
    }
    for (const BrenierMap& map : maps) check_parameters("flow: a restored map", map.net, map.theta);
    if (s.functional.needs_density() && !cloud.has_density()) {
      throw ValueError("flow: the restored cloud has no log-densities, and the functional needs them");
    }
    s.agree();
    s.cloud = std::move(cloud);
    s.cloud.run_on(s.exact);
    s.maps = std::move(maps);
    s.steps = s.maps.empty() ? checkpoint.step : s.maps.back().step;
    s.first_step = s.maps.empty() ? (s.options.keep_maps ? s.steps : 0) : s.maps.front().step - 1;
    if (checkpoint.problems > 0) {
      s.problems = checkpoint.problems;
      s.clock = checkpoint.time;
      s.last_length = checkpoint.last_length;
    } else if (!s.maps.empty()) {  // that of a file
      double last = s.options.start_time;
      for (const BrenierMap& map : s.maps) last = map.step < s.steps ? map.time : last;
      s.problems = static_cast<std::uint32_t>(s.maps.size());
      s.clock = s.maps.back().time;
      s.last_length = s.clock - last;
    }
    s.far_checked = true;
    s.theta.assign(checkpoint.theta.begin(), checkpoint.theta.end());
    s.gradient_scale = checkpoint.gradient_scale;
    s.draws = checkpoint.draws;
    s.pool.clear();
    s.known.reset();
    s.set_time(s.time());
    if (s.adaptive() && checkpoint.next_tau > 0) s.next_tau = checkpoint.next_tau;
    for (const BrenierMap& map : s.maps) {
      if (!s.judged.empty()) s.judged.advance(map, s.team);
      for (Trajectory& held_out : s.tracked) held_out.advance(map, s.team);
    }
    return true;
  });
  if (!s.options.keep_maps) s.maps.clear();
}

template class Flow<float>;
template class Flow<double>;

}  // namespace brenier
