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
#include "engine/src/checks/shape_check.hpp"
#include "engine/src/device/device_memory.hpp"
#include "engine/src/flow/certificates.hpp"
#include "engine/src/flow/extrapolation.hpp"
#include "engine/src/flow/log_det.hpp"
#include "engine/src/flow/solve/affine.hpp"
#include "engine/src/flow/solve/affine_network.hpp"
#include "engine/src/flow/solve/coincident.hpp"
#include "engine/src/flow/solve/particles.hpp"
#include "engine/src/flow/solve/scale.hpp"
#include "engine/src/flow/state.hpp"
#include "kernels/base/moments.hpp"
#include "kernels/base/show.hpp"
#include "kernels/base/subset.hpp"
#include "kernels/cuda_devices.hpp"
#include "kernels/model/black_box.hpp"
#include "kernels/operations.hpp"
#include "kernels/resident_cloud.hpp"
#include "solvers/dense.hpp"

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

/// The particles of an inner problem where they are wanted: on the device, if the cloud lies there.
template <class T>
class InnerCloud {
 public:
  /// Gives them to the problem, which has its shift; this and `base` must outlive it.
  void give(const Trajectory::Base& base, InnerProblem<T>& problem) {
    if (base.resident) {
      resident_ = base.resident->centred<T>(problem.shift);
      problem.x = resident_.x;
      problem.log_density = base.resident->log_density();
      problem.resident = true;
      return;
    }
    x_ = centred<T>(base.x, problem.shift);
    problem.x = x_;
    problem.log_density = base.log_density.empty() ? nullptr : base.log_density.data();
  }

 private:
  Matrix<T> x_;
  ResidentCloud::Centred<T> resident_;
};

}  // namespace

template <class T>
Flow<T>::State::State(Functional f, Cloud initial, FlowOptions o)
    : functional(std::move(f)),
      options((o.validate(), std::move(o))),
      net(architecture(options, initial)),
      objective(functional.at(options.start_time).objective(options.mass)),
      ops(backend<T>(options.device)),
      exact(backend<double>(options.device)),
      team(options.threads),
      ranks(options.communicator && options.communicator->size() > 1
                ? std::make_unique<Ranks>(*options.communicator)
                : nullptr),
      cloud(carried(std::move(initial)), options.order == 2, net.smooth()),
      clock(options.start_time),
      last_length(options.tau),
      next_tau(options.tau),
      evaluation(objective, exact, options.seed) {
  cloud.run_on(exact);
  if (ranks) ranks->listen(&interrupted);
  check_functional();
}

/// Without the log-densities that the maps of this flow cannot carry.
template <class T>
Cloud Flow<T>::State::carried(Cloud given) const {
  if (!carries_density()) given.log_density.clear();
  return given;
}

template <class T>
void Flow<T>::State::check_functional() const {
  if (functional.needs_density()) check_smooth("flow: an internal energy", net);
  check_particles();
  if (functional.empty()) throw ValueError("flow: the functional has no terms");
  const int dim = functional.dimension();
  if (dim != 0 && dim != net.dim()) {
    throw ShapeError("flow: the functional is for dimension " + std::to_string(dim) +
                     ", the cloud has dimension " + std::to_string(net.dim()));
  }
  check_cloud(cloud);
  if (options.inner.minibatch == 1 && (!objective.interaction.empty() || !objective.divergence.empty())) {
    throw ValueError(
        "flow: inner.minibatch = 1 with interactions or distances, which one particle alone does not have; "
        "it must be "
        "0 (all particles) or at least 2");
  }
  if (!objective.black_box.empty() && !ops.host) {
    throw NotAvailable("flow: potential " + objective.black_box.front().name +
                       " is a function of this program, which the device \"" + options.device +
                       "\" cannot call; use device = \"cpu\", or write V as an expression");
  }
  if (ranks && resolved_device(options.device).starts_with("cuda") && !cuda::connects()) {
    throw NotAvailable("flow: " + std::to_string(ranks->size()) + " processes on the device \"" +
                       options.device +
                       "\", for which this build would need NCCL; use device = \"cpu\", or one process");
  }
  check_curvature();
}

/// What a cloud must have for the functional.
template <class T>
void Flow<T>::State::check_cloud(const Trajectory& given) const {
  if (functional.needs_density() && !given.has_density()) {
    throw ValueError(
        "flow: the functional has an internal energy, which needs the log-density of every initial particle; "
        "give "
        "the cloud its log-densities, or use an initial density that knows them");
  }
}

/// Refuses steps that have no minimum. A quadratic V with curvature -k makes a JKO step of length 1/k or more
/// unbounded below, a quadratic W likewise (about the mean, which it does not see), and so does a transport distance
/// of weight -k; an internal energy of negative weight makes every step so. A network would run away towards none.
template <class T>
void Flow<T>::State::check_curvature() const {
  for (const InternalTerm& term : objective.internal) {
    if (term.weight >= 0) continue;
    throw ValueError("flow: an internal energy has the weight " + show(term.weight) +
                     ": diffusion backwards in time, whose steps have no minimum; weights must be above 0");
  }
  const double tau = options.order == 2 ? problem_length(1) * options.tau : options.tau;
  const auto refuse = [&](double curvature, const std::string& what) {
    throw ValueError("flow: " + what + " by " + show(curvature) + " in some direction, and with tau = " +
                     show(options.tau) + " a step has no minimum; use tau below " +
                     show(options.tau / tau / -curvature) + ", or a functional that is bounded below");
  };
  for (const DivergenceTerm& term : objective.divergence) {
    if (term.form == DivergenceTerm::Form::sinkhorn && 1 / tau + term.weight <= 0)
      refuse(term.weight, "a transport distance of negative weight curves down");
  }
  double potential = 0;
  if (const std::optional<Functional::Gaussian> form = functional.gaussian(net.dim());
      form && !form->potential.hessian.empty()) {
    potential = smallest_eigenvalue(form->potential.hessian);
    if (1 / tau + potential <= 0) refuse(potential, "the potential curves down");
  }
  double pairs = 0;
  const double n = static_cast<double>(cloud.size());
  for (const InteractionTerm& term : objective.interaction) {
    if (term.kernel.form == PairKernel::Form::quadratic_log && n > 1)
      pairs += 2 * term.weight * term.kernel.quadratic * n / (n - 1);
  }
  const bool other = (objective.has_potential() && potential == 0) || !objective.black_box.empty();
  if (pairs < 0 && !other && 1 / tau + potential + pairs <= 0)
    refuse(potential + pairs, "the interaction curves down");
}

/// Refuses what falls without end as the cloud is blown up: quartics downwards. Black boxes are not asked that far
/// from all particles.
template <class T>
void Flow<T>::State::check_far(const InnerTask& task) const {
  const Matrix<double> some = task.cloud.subset(128, options.seed);
  if (!objective.internal.empty() || !objective.divergence.empty() || !objective.black_box.empty()) return;
  std::vector<double> mean;
  double scale = 1;
  location_and_scale(some, mean, scale);
  double before = 0, last = 0;
  for (const double factor : {1.0, 0x1p16, 0x1p18, 0x1p20}) {
    Matrix<double> y = some;
    double transport = 0;
    for (Index i = 0; i < y.rows(); ++i) {
      for (Index c = 0; c < y.cols(); ++c) {
        y(i, c) = mean[c] + factor * (some(i, c) - mean[c]);
        const double move = y(i, c) - some(i, c);
        transport += move * move / (2 * task.tau * static_cast<double>(y.rows()));
      }
    }
    const double now = value(y, 0).total() + transport;
    if (factor == 1.0) {
      before = last = now;
      continue;
    }
    if (!(now < last) || !(now < before)) return;
    last = now;
  }
  throw NumericalError("flow: step " + std::to_string(steps + 1) +
                       " has no minimum: F + W^2/(2 tau) falls without "
                       "end as the cloud grows, to " +
                       show(last) +
                       " at a million times its size; use a functional "
                       "that is bounded below, or grows downwards more slowly than |x|^2/(2 tau)");
}

template <class T>
Architecture Flow<T>::State::architecture(const FlowOptions& options, const Cloud& cloud) {
  Architecture a = options.network;
  a.dim = static_cast<int>(std::max<Index>(cloud.x.cols(), 1));
  return a;
}

/// F without the mass.
template <class T>
ObjectiveValue Flow<T>::State::value(const CloudView& some, Index pair_limit) const {
  return evaluation.value(some, pair_limit, team);
}

template <class T>
InnerProblem<T> Flow<T>::State::problem(const InnerTask& task, double rate) const {
  InnerProblem<T> out;
  out.net = &net;
  out.known = known_parameters.get();
  out.tau = task.tau;
  out.objective = &objective;
  out.adam = options.inner.adam;
  out.adam.rate = rate;
  if (gradient_scale > 0) out.adam.epsilon *= gradient_scale;
  out.iterations = options.inner.iterations;
  out.log_det = options.inner.log_det.resolved(net.dim(), uses_lbfgs());
  out.minibatch = options.inner.minibatch;
  out.seed = options.seed;
  out.step = task.number;
  out.tolerance = options.inner.tolerance;
  out.gradient_scale = gradient_scale;
  out.interrupt = &stop();
  out.shift.assign(net.dim(), 0.0);
  if (options.normalise) {
    Moments cloud_moments = task.cloud.moments();
    out.shift = std::move(cloud_moments.mean);
    out.scale = usable_scale(cloud_moments.deviation);
  }
  return out;
}

/// Whether steps are solved by L-BFGS first.
template <class T>
bool Flow<T>::State::uses_lbfgs() const {
  using Solver = InnerOptions::Solver;
  const InnerOptions& inner = options.inner;
  if (inner.solver != Solver::automatic) return inner.solver == Solver::lbfgs;
  if (!net.smooth()) return false;
  const bool noisy = inner.minibatch > 0 || inner.refresh > 0 ||
                     (!objective.internal.empty() &&
                      inner.log_det.resolved(net.dim(), true).method == LogDetOptions::Method::cg);
  // Plans that end before their marginals are met depend on those before: values of no function. And Adam measures
  // better there, on the paper's molecules 14 % of a step's decrease missed against 24.
  const bool plans =
      std::any_of(objective.divergence.begin(), objective.divergence.end(),
                  [](const DivergenceTerm& term) { return term.form == DivergenceTerm::Form::sinkhorn; });
  return !noisy && !plans;
}

/// The network near the identity that problem `number` starts from where there is nothing better.
template <class T>
std::vector<T> Flow<T>::State::identity(std::uint32_t number) const {
  const std::vector<double> first =
      initial_parameters(net, options.inner.initialisation, options.seed, number, options.inner.alpha);
  return {first.begin(), first.end()};
}

/// Where the step starts from: the map before with the best affine map after it, or, where there is none or it gains
/// nothing, the best affine map of the cloud; or the identity. The map before keeps what it has learned: a network that
/// starts anew near an affine map fits a small cloud by other bends in every step, and these add up.
template <class T>
typename Flow<T>::State::Start Flow<T>::State::start(const InnerTask& task, const BrenierMap& like,
                                                     const Trajectory& from, double before) const {
  const InnerProblem<T> inner = problem(task, options.inner.adam.rate);
  const auto map_of = [&](const std::vector<T>& parameters) {
    BrenierMap map = like;
    map.theta = denormalised(net, std::vector<double>(parameters.begin(), parameters.end()), inner.shift,
                             inner.scale);
    return map;
  };
  const auto finite = [](double value) {
    return std::isfinite(value) ? value : std::numeric_limits<double>::infinity();
  };
  const auto trial_of = [&](const std::vector<T>& parameters) {
    return trial(from, task.base, map_of(parameters), resident_map(parameters, inner).get());
  };
  const auto value_of = [&](const std::vector<T>& parameters) {
    return finite(trial_of(parameters).value());
  };
  const Architecture& a = net.architecture();
  const AffineOptions family{.full = a.learn_alpha && net.rank() >= net.dim(),
                             .stretches = a.learn_alpha,
                             .least = a.learn_alpha ? std::max(a.alpha_min, 1e-6) : 0,
                             .seed = options.seed};
  const bool affine = options.inner.initialisation == Initialisation::identity && options.normalise;
  Start best{identity(task.number), "identity", 0};
  const std::vector<T> first = best.theta;
  const bool warm = !theta.empty() && options.inner.warm_start;
  if (warm) {
    const Trial moved = trial_of(theta);
    best = {theta, "warm", finite(moved.value())};
    // Plans cost as much in the search as in the step itself.
    if (affine && std::isfinite(best.value) && objective.divergence.empty()) {
      const AffineMap more =
          best_affine(objective, moved.cloud, task.cloud, task.tau, family, for_few_points(exact), team);
      if (more.decrease > 0) {
        const std::vector<double> moved_theta =
            followed_by(net, std::vector<double>(theta.begin(), theta.end()), more,
                        mean_hessian(map_of(theta), resident_map(theta, inner).get(), task.cloud,
                                     options.seed, for_few_points(exact), team),
                        CloudView(moved.cloud).moments().mean, inner.shift, inner.scale);
        Start other{{moved_theta.begin(), moved_theta.end()}, "affine", 0};
        other.value = value_of(other.theta);
        if (other.value < best.value) best = std::move(other);
      }
    }
  } else {
    best.value = value_of(best.theta);
  }
  if (affine && !(warm && best.value < before)) {
    const AffineMap map =
        best_affine(objective, task.cloud, task.cloud, task.tau, family, for_few_points(exact), team);
    if (before - map.decrease < best.value) {
      const std::vector<double> precise(first.begin(), first.end());
      const std::vector<double> moved = with_affine(net, precise, map, inner.scale);
      Start other{{moved.begin(), moved.end()}, "affine", 0};
      other.value = value_of(other.theta);
      if (other.value < best.value) best = std::move(other);
    }
  }
  if (warm && !(best.value < before)) {
    Start other{first, "identity", value_of(first)};
    if (other.value < best.value) best = std::move(other);
  }
  return best;
}

/// A new cloud from rho_0, through all maps so far. Densities cost more than positions, and are left out
/// where no gradient depends on them: that of the entropy does not.
/// What a problem takes on the device with minibatches of n: a search has n particles and no others, and is asked for by
/// name; automatic flows take Adam then.
template <class T>
std::size_t Flow<T>::State::memory_with_minibatch(InnerProblem<T> problem, Index n) const {
  if (options.inner.solver == InnerOptions::Solver::lbfgs) {
    // They come from the host, wherever the cloud lies.
    const Matrix<T> x(n, problem.x.cols);
    const std::vector<double> log_density(problem.log_density ? static_cast<std::size_t>(n) : 0);
    problem.x = x;
    problem.log_density = log_density.empty() ? nullptr : log_density.data();
    problem.resident = false;
    return cuda::search_memory(problem);
  }
  problem.minibatch = n;
  return cuda::inner_loop_memory(problem);
}

/// Iterations on the flow's device.
template <class T>
InnerReport Flow<T>::State::iterate(const InnerProblem<T>& problem, InnerState<T>& state, int until) const {
  try {
    return ops.inner_loop(problem, state, until, team);
  } catch (const OutOfDeviceMemory& cause) {
    throw does_not_fit(problem, steps + 1, cause, cuda::inner_loop_memory(problem),
                       [&](Index n) { return memory_with_minibatch(problem, n); });
  }
}

/// The search of L-BFGS on the flow's device, from solution.theta.
template <class T>
LbfgsReport Flow<T>::State::search_from(const InnerProblem<T>& inner, const ParameterMetric<T>& parameters,
                                        const LbfgsOptions& search, Solution& solution) const {
  try {
    if (ops.search) {
      return ops.search(inner, {}, search, solution.theta, solution.inner.sinkhorn, team);
    }
    const std::unique_ptr<StepObjective<T>> step = ops.step_objective(inner, team);
    const BoundedProblem<T> bounded{
        [&](const T* at, double* gradient) { return step->evaluate(at, 0, gradient); }, parameters.lower,
        parameters.metric};
    const LbfgsReport found = minimise(bounded, search, solution.theta);
    solution.inner.sinkhorn = step->sinkhorn();
    return found;
  } catch (const OutOfDeviceMemory& cause) {
    throw does_not_fit(inner, steps + 1, cause, cuda::search_memory(inner),
                       [&](Index n) { return memory_with_minibatch(inner, n); });
  }
}

/// A solution's map in physical coordinates, here and where the cloud lies.
template <class T>
void Flow<T>::State::make_physical(Solution& solution, const InnerProblem<T>& inner) const {
  const std::vector<double> normalised(solution.theta.begin(), solution.theta.end());
  solution.physical = denormalised(net, normalised, inner.shift, inner.scale);
  solution.there = resident_map(solution.theta, inner);
}

/// Adam once, at one rate.
template <class T>
typename Flow<T>::State::Solution Flow<T>::State::adam(const InnerTask& task, const Start& from, double rate,
                                                       int iterations, StepReport& report) {
  InnerProblem<T> inner = problem(task, rate);
  inner.iterations = iterations;
  InnerState<T> state{from.theta, std::vector<T>(from.theta.size(), T(0)),
                      std::vector<T>(from.theta.size(), T(0)), 0};
  InnerCloud<T> particles;
  Trajectory::Base fresh;
  particles.give(task.base, inner);
  const int segment = options.inner.refresh > 0 ? options.inner.refresh : inner.iterations;
  Solution solution;
  for (bool first = true; state.iteration < inner.iterations; first = false) {
    if (!first) {
      fresh = fresh_base(task.kind, task.ratio);
      particles.give(fresh, inner);
    }
    const double first_gradient = solution.inner.first_gradient;
    const int until = std::min(state.iteration + segment, inner.iterations);
    state.ends = until == inner.iterations;
    solution.inner = iterate(inner, state, until);
    report.iterations += solution.inner.iterations;
    solution.iterations += solution.inner.iterations;
    report.cg.add(solution.inner.cg);
    report.sinkhorn.add(solution.inner.sinkhorn);
    if (!first) solution.inner.first_gradient = first_gradient;
    if (inner.gradient_scale == 0) inner.gradient_scale = solution.inner.first_gradient;
    if (!solution.inner.finite || solution.inner.converged || solution.inner.interrupted) break;
  }
  solution.theta = std::move(state.theta);
  make_physical(solution, inner);
  return solution;
}

/// The gradient at the network near the identity, its components that a bound holds left out; 2-norm. What gradients
/// of the flow are measured by.
template <class T>
double Flow<T>::State::first_gradient(const InnerTask& task) const {
  InnerProblem<T> inner = problem(task, options.inner.adam.rate);
  InnerCloud<T> particles;
  particles.give(task.base, inner);
  const std::vector<T> at = identity(task.number);
  std::vector<double> gradient(at.size());
  try {
    ops.objective_gradient(inner, at.data(), 0, gradient.data(), team);
  } catch (const OutOfDeviceMemory& cause) {
    throw does_not_fit(inner, steps + 1, cause, cuda::inner_loop_memory(inner),
                       [&](Index n) { return memory_with_minibatch(inner, n); });
  }
  double squares = 0;
  for (const ParameterTensor& tensor : net.tensors()) {
    for (Index k = tensor.offset; k < tensor.offset + tensor.size(); ++k) {
      if (tensor.rate == 0 || (at[k] <= static_cast<T>(tensor.lower) && gradient[k] > 0)) continue;
      squares += gradient[k] * gradient[k];
    }
  }
  return std::isfinite(squares) ? std::sqrt(squares) : 0;
}

/// L-BFGS once, on the cloud or on `minibatch` of its particles. `before`: F at the start of the step, and `noise`
/// what rounding does to values.
template <class T>
typename Flow<T>::State::Solution Flow<T>::State::lbfgs(const InnerTask& task, const Start& from,
                                                        int evaluations, double before, double noise,
                                                        StepReport& report) {
  InnerProblem<T> inner = problem(task, options.inner.adam.rate);
  Trajectory::Base some;
  const bool all = options.inner.minibatch == 0 || options.inner.minibatch >= task.cloud.rows();
  if (!all) {
    const std::vector<Index> rows =
        spread(task.cloud.rows(), options.inner.minibatch, options.seed + task.number);
    some.x = task.cloud.take(rows, &some.log_density);
  }
  inner.minibatch = 0;
  InnerCloud<T> particles;
  particles.give(all ? task.base : some, inner);

  const ParameterMetric<T> parameters(net, from.theta);
  Solution solution;
  solution.theta = from.theta;
  for (std::size_t k = 0; k < solution.theta.size(); ++k)
    solution.theta[k] = std::max(solution.theta[k], parameters.lower[k]);
  std::vector<double> mean;
  double scale = 1;
  task.cloud.location_and_scale(mean, scale);
  const double negligible = 1e-4 * square(kRoundedMove * scale) * net.dim() / (2 * task.tau);
  const bool noiseless = !std::is_same_v<T, float> && objective.internal.empty();
  const LbfgsOptions search{.evaluations = evaluations,
                            // More decrease is noise in float; of internal energies it fits particles,
                            // not their law; else it is worth having.
                            .tolerance = noiseless ? 1e-10 : 3e-8,
                            .reference = before,
                            // The objective has a constant of its own; F + transport is known here.
                            .start = from.value,
                            .noise = noise,
                            .negligible = negligible,
                            .gradient = options.inner.tolerance * gradient_scale,
                            .interrupt = &stop()};
  const LbfgsReport found = search_from(inner, parameters, search, solution);
  using End = LbfgsReport::End;
  solution.iterations = solution.inner.iterations = found.evaluations;
  solution.inner.first_gradient = found.first_gradient;
  solution.inner.gradient = found.last_gradient;
  solution.inner.finite = found.end != End::not_finite;
  solution.inner.converged = found.end == End::gradient;
  solution.inner.interrupted = found.end == End::interrupted;
  report.iterations += found.evaluations;
  report.sinkhorn.add(solution.inner.sinkhorn);
  make_physical(solution, inner);
  return solution;
}

/// The identity itself, where networks of this kind have it: without bends. Iterations are those of `other`.
template <class T>
std::optional<typename Flow<T>::State::Solution> Flow<T>::State::stay(const InnerTask& task,
                                                                      const Candidate& other) const {
  const Architecture& a = net.architecture();
  if (!a.learn_alpha && options.inner.alpha != 1) return std::nullopt;
  std::vector<double> at(other.solution.theta.begin(), other.solution.theta.end());
  at[net.alpha()] = 1;
  std::fill_n(at.begin() + net.factor(), Index{net.rank()} * net.dim(), 0.0);
  std::fill_n(at.begin() + net.output_input(), net.dim(), 0.0);
  scale_bends(net, 0, at);
  const InnerProblem<T> inner = problem(task, options.inner.adam.rate);
  Solution out = other.solution;
  out.theta.assign(at.begin(), at.end());
  out.physical = denormalised(net, at, inner.shift, inner.scale);
  out.there = resident_map(out.theta, inner);
  return out;
}

/// The first particle where V is not finite, or nothing to say.
template <class T>
void Flow<T>::State::check_finite(const Trajectory::Base& base, const ObjectiveValue& value) const {
  if (std::isfinite(value.total())) return;
  std::string what = "F is " + show(value.total()) + " before step " + std::to_string(steps + 1);
  if (!std::isfinite(value.potential)) {
    const CloudView seen(base);
    const Matrix<double>& x = seen.x();
    std::vector<double> v(static_cast<std::size_t>(x.rows()), 0.0);
    if (objective.has_potential()) exact.evaluate_program(objective.potential, x, v.data(), {}, team);
    for (const BlackBoxTerm& term : objective.black_box) {
      std::vector<double> one(v.size());
      evaluate_black_box(term, x, one.data(), {});
      for (std::size_t i = 0; i < v.size(); ++i) v[i] += term.weight * one[i];
    }
    for (Index i = 0; i < x.rows(); ++i) {
      if (std::isfinite(v[i])) continue;
      what += ": at particle " + std::to_string(i) + ", x = (";
      for (Index c = 0; c < x.cols() && c < 8; ++c) what += (c > 0 ? ", " : "") + show(x(i, c));
      what += x.cols() > 8 ? ", ...), V = " + show(v[i]) : "), V = " + show(v[i]);
      break;
    }
    throw NumericalError("flow: " + what + "; V must be finite wherever particles are");
  }
  if (!std::isfinite(value.interaction))
    throw NumericalError("flow: " + what + ": the interaction is " + show(value.interaction) +
                         "; W must be finite between all particles that are apart");
  throw NumericalError("flow: " + what + ": the internal energy is " + show(value.internal) +
                       " and the distances are " + show(value.divergence));
}

/// The map of normalised parameters, made on the device where its step's cloud lies there.
template <class T>
std::shared_ptr<const ResidentMap> Flow<T>::State::resident_map(const std::vector<T>& parameters,
                                                                const InnerProblem<T>& inner) const {
  return known_parameters ? known_parameters->map(parameters, inner.shift, inner.scale) : nullptr;
}

template <class T>
Trial Flow<T>::State::trial(const Trajectory& from, const Trajectory::Base& base, const BrenierMap& map,
                            const ResidentMap* there) const {
  Trial out{from, {}, 0};
  out.cloud.advance(map, base, team, there);
  out.functional = value(out.cloud, kPairLimit);
  out.transport = out.cloud.squares() / (2 * map.tau * static_cast<double>(out.cloud.size()));
  return out;
}

/// What the step reports of log det H.
template <class T>
void Flow<T>::State::check(const InnerTask& task, const std::vector<T>& solved, StepReport& report) const {
  if (objective.internal.empty()) return;
  InnerProblem<T> inner = problem(task, options.inner.adam.rate);
  report.log_det_method = inner.log_det.method;
  if (options.inner.log_det.method == LogDetOptions::Method::exact) return;
  const Matrix<T> x = centred<T>(task.cloud.take(log_det_rows(task.cloud.rows())), inner.shift);
  inner.x = x;
  const LogDetCheck found = check_log_det(for_few_points(ops), for_few_points(exact), inner, solved, team);
  report.log_det_error = found.error;
  report.log_det_deviation = found.deviation;
}

/// A solution's map on the cloud, and what it misses.
template <class T>
typename Flow<T>::State::Candidate Flow<T>::State::judge(const InnerTask& task, const Trajectory& from,
                                                         const BrenierMap& like, Solution solution,
                                                         double before) const {
  Candidate out{.solution = std::move(solution), .map = like};
  out.map.theta = out.solution.physical;
  out.moved = trial(from, task.base, out.map, out.solution.there.get());
  out.judged = judged;
  out.solved = true;
  Trajectory::Base judged_base;
  if (!judged.empty()) {
    judged_base = judged.base(out.map, team);
    out.judged.advance(out.map, team, out.solution.there.get());
  }
  const double decrease = before - out.moved.value();
  if (!options.certificates || !std::isfinite(decrease)) {
    out.solved = std::isfinite(decrease);
    return out;
  }
  out.missed = missed_share(
      objective, {task.cloud, out.moved.cloud, task.tau, decrease, task.noise, options.inner.accept},
      judged_base.resident ? judged.centres() : out.judged.centres_of(judged_base), out.judged, options.seed,
      exact, team);
  out.solved = out.missed.solved(options.inner.accept);
  return out;
}

/// Judges a solution, and keeps it where it is better than what was found before: solved, or missing less.
template <class T>
void Flow<T>::State::consider(Search& search, Solution solution, InnerOptions::Solver solver) const {
  search.laps.add_to(search.report.inner_seconds);
  if (!solution.inner.finite) return;
  Candidate found = judge(search.task, search.from, search.like, std::move(solution), search.before);
  found.solver = solver;
  search.laps.add_to(search.report.certificate_seconds);
  if (!std::isfinite(found.moved.value())) return;
  std::optional<Candidate>& best = search.best;
  const auto better = [&] {
    if (found.solved != best->solved) return found.solved;
    const auto share = [](const Missed& missed) {
      return std::isnan(missed.worst_share()) ? 1 : missed.worst_share();
    };
    const double mine = share(found.missed), other = share(best->missed);
    if (found.missed.basis == Missed::Basis::residual && mine != other) return mine < other;
    return found.moved.value() < best->moved.value();
  };
  if (!best || better()) best = std::move(found);
}

/// L-BFGS, and once more where that has not solved the step and `iterations` are left: after Adam from the start, or,
/// where Adam is not wanted, from the best. False where interrupted.
template <class T>
bool Flow<T>::State::search_lbfgs(Search& search) {
  using Solver = InnerOptions::Solver;
  const InnerTask& task = search.task;
  StepReport& report = search.report;
  // The first problem has further to go. More evaluations fit the particles rather than their law.
  const bool cold = theta.empty() || !options.inner.warm_start;
  int left = options.inner.iterations;
  const auto spend = [&](int evaluations) {
    evaluations = std::min(evaluations, left);
    left -= evaluations;
    return evaluations;
  };
  const int most = std::min(cold ? 100 : 60, left);
  Solution solution = lbfgs(task, search.first, most, search.before, task.noise, report);
  if (solution.inner.interrupted) return false;
  spend(solution.iterations);
  const bool ended = solution.iterations < most;
  if (!solution.inner.finite) search.reason = "the gradient of the inner problem was not finite at the start";
  consider(search, std::move(solution), Solver::lbfgs);
  const std::optional<Candidate>& best = search.best;
  // What a cloud without anything left to gain misses of its law, no gradient of it will find.
  if (left <= 10 || (best && (best->solved || best->missed.fitted))) return true;
  // Nor, where a search ended by itself, is it worth as much again to end a small part of what the particles leave open
  // anyway, late in a flow.
  const double worst = best ? best->missed.worst_share() : 1;
  if (ended && worst < 10 * options.inner.accept &&
      search.before - best->moved.value() < (1 - worst) * best->missed.floor)
    return true;
  if (options.inner.solver == Solver::automatic) {
    // Large and sharp networks, far from the solution: Adam from the start, then L-BFGS.
    report.retries += 1;
    Start from = search.first;
    const double rate = std::max(options.inner.adam.rate, 5e-3);
    solution = adam(task, from, rate, spend(std::min(100, left / 3)), report);
    if (solution.inner.interrupted) return false;
    if (solution.inner.finite) {
      BrenierMap map = search.like;
      map.theta = solution.physical;
      const double reached = trial(search.from, task.base, map, solution.there.get()).value();
      if (reached < from.value) from = {solution.theta, from.name, reached};
    }
    solution = lbfgs(task, from, left, search.before, task.noise, report);
    if (solution.inner.interrupted) return false;
    consider(search, std::move(solution), Solver::automatic);
  } else if (best) {
    report.retries += 1;
    const Start from{best->solution.theta, search.first.name, best->moved.value()};
    solution = lbfgs(task, from, left, search.before, task.noise, report);
    if (solution.inner.interrupted) return false;
    consider(search, std::move(solution), Solver::lbfgs);
  }
  return true;
}

/// Adam, and again at smaller rates where F + transport ends above `limit`: diverged. False where interrupted.
template <class T>
bool Flow<T>::State::search_adam(Search& search, double limit) {
  StepReport& report = search.report;
  double rate = options.inner.adam.rate;
  for (int attempts = 0; attempts <= options.inner.retries; ++attempts, rate /= 4) {
    Solution solution = adam(search.task, search.first, rate, options.inner.iterations, report);
    if (solution.inner.interrupted) return false;
    report.retries += attempts > 0;
    report.rate = rate;
    if (!solution.inner.finite) {
      search.reason = "the gradient of the inner problem was not finite at iteration " +
                      std::to_string(solution.iterations);
      continue;
    }
    consider(search, std::move(solution), InnerOptions::Solver::adam);
    std::optional<Candidate>& best = search.best;
    if (best && best->moved.value() <= limit) break;
    search.reason = "F + W^2/(2 tau) went from " + show(search.before) + " to " +
                    (best ? show(best->moved.value()) : "a value that is not finite");
    best.reset();
  }
  return true;
}

/// Makes the best that was found the flow's next state, and reports it.
template <class T>
void Flow<T>::State::keep(Search& search, Trajectory& next) {
  Candidate& taken = *search.best;
  const Solution& solution = taken.solution;
  StepReport& report = search.report;
  if (gradient_scale == 0) gradient_scale = solution.inner.first_gradient;
  known = taken.moved.functional;
  report.solver = taken.solver;
  report.functional = taken.moved.functional;
  report.transport = taken.moved.transport;
  report.decrease = search.before - taken.moved.value();
  report.residual = gradient_scale > 0 ? solution.inner.gradient / gradient_scale : 0;
  report.converged = solution.inner.converged;
  report.min_log_det = taken.moved.cloud.min_log_det();
  search.laps.add_to(report.cloud_seconds);
  if (options.certificates) {
    const MapCertificates checked =
        certify(taken.map, solution.there.get(), search.task.cloud, for_few_points(exact), team);
    report.min_eigenvalue = std::fmin(report.min_eigenvalue, checked.min_eigenvalue);
    report.round_trip = std::fmax(report.round_trip, checked.round_trip);
    describe(search.task, taken, search.before, report);
  }
  check(search.task, solution.theta, report);
  search.laps.add_to(report.certificate_seconds);
  theta = solution.theta;
  taken_map = solution.there;
  next = std::move(taken.moved.cloud);
  judged = std::move(taken.judged);
  maps.push_back(std::move(taken.map));
  ++problems;
}

/// Solves one inner problem from `base` and moves `next` through its map, with retries. `like` has all of the
/// map but its network. False where interrupted.
template <class T>
bool Flow<T>::State::take(Trajectory& next, const Trajectory::Base& base, const BrenierMap& like,
                          StepReport& report) {
  forget_parameters();
  if (base.resident && ops.know) known_parameters = ops.know(net);
  InnerTask task{base, like.base, like.ratio, like.tau, problems};
  Search search{task, next, like, 0, report};
  const bool same = like.base == MapBase::current && known;
  const ObjectiveValue parts = same ? *known : value(task.cloud, kPairLimit);
  check_finite(base, parts);
  search.before = parts.total();
  std::vector<double> mean;
  double scale = 1;
  task.cloud.location_and_scale(mean, scale);
  // Sums of that many terms of this size, each rounded in T.
  task.noise = static_cast<double>(std::numeric_limits<T>::epsilon()) *
               (std::abs(parts.potential) + std::abs(parts.interaction) + std::abs(parts.internal) +
                std::abs(parts.divergence)) /
               std::sqrt(static_cast<double>(task.cloud.rows()));
  if (!far_checked) check_far(task);
  far_checked = true;
  report.coincident = coincident<T>(objective, task.cloud, mean, for_few_points(exact), team);
  if (gradient_scale == 0) gradient_scale = first_gradient(task);
  search.laps.add_to(report.cloud_seconds);
  search.first = start(task, like, next, search.before);
  report.start = search.first.name;
  search.laps.add_to(report.inner_seconds);

  // A rise is a divergence where it is worth moving the cloud by 3 % of its size, a measure that does not see
  // constants in F. The start of the inner loop may lie above `before` as well: the first map is the identity
  // only nearly.
  const double slack = 1e-3 * scale * scale * static_cast<double>(task.cloud.cols()) / (2 * task.tau);
  const bool whole = uses_lbfgs() ? search_lbfgs(search)
                                  : search_adam(search, std::max(search.before + slack, search.first.value));
  if (!whole) return false;
  std::optional<Candidate>& best = search.best;
  if (best && best->moved.value() > search.before) {
    // Nothing to gain, or nothing that was found: to stay is better than to move.
    if (std::optional<Solution> still = stay(task, *best)) consider(search, std::move(*still), best->solver);
  }
  if (!best) {
    throw NumericalError("flow: step " + std::to_string(steps + 1) + " diverged: " + search.reason +
                         ", after " + std::to_string(report.retries) + " retries" +
                         (uses_lbfgs() ? std::string() : " down to the rate " + show(report.rate)) +
                         "; use a smaller inner rate or tau, or more particles");
  }
  keep(search, next);
  return true;
}

/// What the report says of how well the problem is solved: the worst of the step's problems.
template <class T>
void Flow<T>::State::describe(const InnerTask& task, const Candidate& taken, double before,
                              StepReport& report) {
  Missed missed = taken.missed;
  StepBasis basis = missed.basis == Missed::Basis::affine     ? StepBasis::affine
                    : missed.basis == Missed::Basis::residual ? StepBasis::residual
                                                              : StepBasis::none;
  bool solved = taken.solved;
  // Plans and pairs take many times as long as the step itself: some steps tell what the network can reach.
  const bool quick = objective.divergence.empty() && objective.interaction.empty();
  if (!solved && objective.internal.empty() && task.cloud.rows() <= kPairLimit &&
      (quick || report.step % 10 == 1)) {
    // Without an internal energy the step can be solved on the particles alone: what the network could reach at most.
    const ParticleStep optimum =
        solve_on_particles(objective, task.cloud.x(), task.tau, {.interrupt = &stop()}, exact, team);
    const double decrease = before - taken.moved.value();
    if (optimum.decrease > decrease) {
      report.particle_decrease = optimum.decrease;
      missed.share = (optimum.decrease - decrease) / std::max(optimum.decrease, missed.floor);
      basis = StepBasis::optimum;
    }
  }
  if (!solved && options.inner.on_unsolved == InnerOptions::OnUnsolved::stop) {
    throw NumericalError(
        "flow: step " + std::to_string(steps + 1) +
        " is not solved: " + missed.in_words(options.inner.accept) + "; " +
        (missed.fitted ? "the cloud itself has nothing left to gain: use more particles, or a smaller network"
                       : "use more inner iterations, a larger or sharper network, or a smaller tau"));
  }
  report.solved = report.solved && solved;
  report.fitted = report.fitted || (!solved && missed.fitted);
  const bool first = report.basis == StepBasis::none;
  if (first || missed.worst_share() > std::fmax(report.missed_share, report.missed_share_held_out)) {
    report.basis = basis;
    report.floor = missed.floor;
    report.missed_share = missed.share;
    report.missed_share_held_out = missed.held_out;
  }
  report.displacement_error = std::fmax(report.displacement_error, missed.displacement);
}

template struct Flow<float>::State;
template struct Flow<double>::State;

}  // namespace brenier
