// SPDX-License-Identifier: MIT
// Reference: interactions, the gradient of a JKO step's objective, and the inner loop of Algorithm 1.
#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "brenier/base/philox.hpp"
#include "kernels/model/adam.hpp"
#include "kernels/model/black_box.hpp"
#include "kernels/model/number_math.hpp"
#include "kernels/model/surrogate.hpp"
#include "kernels/ref/cloud/program.hpp"
#include "kernels/ref/ref.hpp"

namespace brenier {

namespace ref {
namespace {

/// W and its gradient at z; the gradient is 0 and a singular value is left out at z = 0.
template <class T>
T pair_energy(const PairKernel& kernel, const std::vector<T>& z, std::vector<T>& gradient,
              std::vector<T>& workspace) {
  T r2 = 0;
  for (const T c : z) r2 += c * c;
  std::fill(gradient.begin(), gradient.end(), T(0));
  T value = 0;
  if (kernel.form == PairKernel::Form::quadratic_log) {
    value = T(kernel.constant) + T(kernel.quadratic) * r2;
    if (r2 > 0 && kernel.log_coefficient != 0) value += T(kernel.log_coefficient) * std::log(r2) / 2;
    if (r2 > 0) {
      for (std::size_t c = 0; c < z.size(); ++c) {
        gradient[c] = (2 * T(kernel.quadratic) + T(kernel.log_coefficient) / r2) * z[c];
      }
    }
    return value;
  }
  if (kernel.form == PairKernel::Form::radial) {
    const T r = std::sqrt(r2);
    T slope = 0;
    evaluate(kernel.program, &r, workspace.data(), &value, &slope);
    if (r > 0) {
      for (std::size_t c = 0; c < z.size(); ++c) gradient[c] = slope / r * z[c];
    }
  } else {
    evaluate(kernel.program, z.data(), workspace.data(), &value, gradient.data());
    if (!(r2 > 0)) std::fill(gradient.begin(), gradient.end(), T(0));
  }
  return r2 > 0 || std::isfinite(value) ? value : T(0);
}

/// The weight of log det H, all internal terms together.
double surrogate_weight(const Objective& objective, double log_xi) {
  double weight = 0;
  for (const InternalTerm& term : objective.internal) {
    double w = brenier::surrogate_weight(term.form, term.exponent, log_xi, NumberMath());
    if (surrogate_is_program(term.form, w)) {
      const double xi = w;
      std::vector<double> workspace(term.surrogate.workspace());
      evaluate<double>(term.surrogate, &xi, workspace.data(), &w, nullptr);
    }
    weight += term.weight * w;
  }
  return weight;
}

/// f(xi)/xi summed over all internal terms; a particle where the density vanishes counts f(0) = 0.
double internal_energy(const Objective& objective, double log_xi) {
  double energy = 0;
  for (const InternalTerm& term : objective.internal) {
    const double xi = std::exp(log_xi);
    if (log_xi == -std::numeric_limits<double>::infinity()) continue;
    if (term.form == InternalTerm::Form::entropy) {
      energy += term.weight * log_xi;
    } else if (term.form == InternalTerm::Form::power) {
      energy += term.weight * std::exp((term.exponent - 1) * log_xi) / (term.exponent - 1);
    } else if (xi > 0) {
      std::vector<double> workspace(term.program.workspace());
      double f = 0;
      evaluate<double>(term.program, &xi, workspace.data(), &f, nullptr);
      energy += term.weight * f / xi;
    } else {
      energy += xi;  // 0, or NaN
    }
  }
  return energy;
}

/// Second-order seeds of -E[w log det H], w held constant: matrices, or probes e and -w/P H^{-1} e.
template <class T>
struct LogDetSeeds {
  Matrix<T> metric, probes, solutions;
  double energy = std::numeric_limits<double>::quiet_NaN();  // the sum of f(xi)/xi, where H is known
  CgReport report;
};

template <class T>
LogDetSeeds<T> exact_seeds(const Objective& objective, const Matrix<T>& hessian,
                           const std::vector<double>& log_density, Index d) {
  LogDetSeeds<T> out;
  const Index n = hessian.rows();
  out.metric = Matrix<T>(n, d * d);
  out.energy = 0;
  std::vector<double> h(d * d), inverse(d * d);
  for (Index b = 0; b < n; ++b) {
    for (Index k = 0; k < d * d; ++k) h[k] = double(hessian(b, k));
    double log_det = 0;
    const bool definite = cholesky_log_det(h.data(), d, &log_det, inverse.data());
    const double weight = surrogate_weight(objective, log_density[b] - log_det);
    out.energy += internal_energy(objective, log_density[b] - log_det);
    for (Index k = 0; k < d * d; ++k) {
      out.metric(b, k) =
          definite ? static_cast<T>(-weight * inverse[k]) : std::numeric_limits<T>::quiet_NaN();
    }
  }
  return out;
}

template <class T>
LogDetSeeds<T> stochastic_seeds(const InnerProblem<T>& problem, const T* theta, int iteration,
                                const Matrix<T>& x_hat, const std::vector<double>& log_density, Team& team) {
  const LogDetOptions& options = problem.log_det;
  const Index n = x_hat.rows();
  const Index d = x_hat.cols();
  LogDetSeeds<T> out;
  out.probes = Matrix<T>(n, options.probes * d);
  out.solutions = Matrix<T>(n, options.probes * d);
  const RademacherProbes signs(problem.seed, problem.step, static_cast<std::uint32_t>(iteration),
                               static_cast<int>(d));
  for (Index b = 0; b < n; ++b) {
    for (int k = 0; k < options.probes; ++k) {
      for (int c = 0; c < d; ++c) {
        out.probes(b, k * d + c) = signs.negative(static_cast<std::uint64_t>(b), k, c) ? T(-1) : T(1);
      }
    }
  }
  std::vector<double> log_det(n);
  out.report = solve_log_det<T>(*problem.net, theta, x_hat, out.probes, out.solutions, options.cg(),
                                log_det.data(), team);
  for (Index b = 0; b < n; ++b) {
    const double weight = surrogate_weight(*problem.objective, log_density[b] - log_det[b]);
    for (Index k = 0; k < options.probes * d; ++k) {
      out.solutions(b, k) *= static_cast<T>(-weight / options.probes);
    }
  }
  return out;
}

/// What the solves of an iteration report, and what its divergences leave for the next.
struct Solves {
  CgReport cg;
  SinkhornReport sinkhorn;
  std::vector<DivergenceState> states;
};

/// The gradient of one iteration. Returns the value where `wants_value`, else NaN.
template <class T>
double gradient_of(const InnerProblem<T>& problem, const T* theta, int iteration, double* gradient,
                   bool wants_value, Solves& solves, Team& team);

}  // namespace

template <class T>
void evaluate_program(const Program& program, MatrixView<const T> x, T* value, MatrixView<T> gradient,
                      Team&) {
  std::vector<T> workspace(program.workspace());
  for (Index i = 0; i < x.rows; ++i) {
    evaluate(program, x.row(i), workspace.data(), value ? value + i : nullptr,
             gradient ? gradient.row(i) : nullptr);
  }
}

template <class T>
void interaction(const PairKernel& kernel, MatrixView<const T> y, double* energy, MatrixView<T> force,
                 Team&) {
  const Index n = y.rows;
  const Index d = y.cols;
  std::vector<T> z(d), gradient(d), workspace(kernel.program.workspace());
  double total = 0;
  for (Index i = 0; i < n; ++i) {
    std::vector<double> sum(d, 0.0);
    for (Index j = 0; j < n; ++j) {
      if (j == i) continue;
      for (Index c = 0; c < d; ++c) z[c] = y(i, c) - y(j, c);
      total += double(pair_energy(kernel, z, gradient, workspace));
      for (Index c = 0; c < d; ++c) sum[c] += double(gradient[c]);
    }
    if (force) {
      for (Index c = 0; c < d; ++c) force(i, c) = n > 1 ? static_cast<T>(sum[c] / double(n - 1)) : T(0);
    }
  }
  if (energy) *energy = n > 1 ? total / (2.0 * double(n) * double(n - 1)) : 0.0;
}

template <class T>
void objective_gradient(const InnerProblem<T>& problem, const T* theta, int iteration, double* gradient,
                        Team& team) {
  Solves solves;
  gradient_of(problem, theta, iteration, gradient, false, solves, team);
}

namespace {

template <class T>
double gradient_of(const InnerProblem<T>& problem, const T* theta, int iteration, double* gradient,
                   bool wants_value, Solves& solves, Team& team) {
  const Objective& objective = *problem.objective;
  const Index d = problem.x.cols;
  const Index n = problem.minibatch > 0 ? problem.minibatch : problem.x.rows;
  const T scale = static_cast<T>(problem.scale);

  // The batch: positions relative to m, normalised positions, log-densities.
  Matrix<T> x(n, d), x_hat(n, d);
  std::vector<double> log_density(n, 0.0);
  const Random random(problem.seed, RandomStream::minibatch);
  for (Index b = 0; b < n; ++b) {
    const Index i = problem.minibatch > 0
                        ? random.below(static_cast<std::uint32_t>(problem.x.rows), problem.step,
                                       static_cast<std::uint32_t>(iteration), static_cast<std::uint64_t>(b))
                        : b;
    for (Index c = 0; c < d; ++c) {
      x(b, c) = problem.x(i, c);
      x_hat(b, c) = x(b, c) / scale;
    }
    if (problem.log_density) log_density[b] = problem.log_density[i];
  }

  // Map: y = x + S (grad u_theta(x_hat) - x_hat).
  const bool internal = !objective.internal.empty();
  const bool exact =
      internal && problem.log_det.resolved(static_cast<int>(d)).method == LogDetOptions::Method::exact;
  Matrix<T> displacement(n, d), hessian(exact ? n : 0, d * d), y(n, d);
  MapOutputs<T> map;
  map.displacement = displacement;
  if (exact) map.hessian = hessian;
  evaluate<T>(*problem.net, theta, x_hat, map, team);
  for (Index k = 0; k < n * d; ++k) y.elements()[k] = x.elements()[k] + scale * displacement.elements()[k];

  // v = S grad(first variation of F)(y) + S^2/tau (grad u_theta(x_hat) - x_hat), by the chain rule from y to
  // u_theta.
  Matrix<T> v(n, d), part(n, d);
  const T inertia = static_cast<T>(problem.scale * problem.scale / problem.tau);
  for (Index k = 0; k < n * d; ++k) v.elements()[k] = inertia * displacement.elements()[k];
  double sum = 0, value = 0;  // over particles; of the cloud as a whole
  for (const T step : displacement.elements()) {
    sum += double(step) * double(step) * problem.scale * problem.scale / (2 * problem.tau);
  }
  std::vector<T> energies(wants_value ? n : 0);
  T* const energy_of = wants_value ? energies.data() : nullptr;
  const auto add_part = [&](T weight) {
    for (Index k = 0; k < n * d; ++k) v.elements()[k] += weight * part.elements()[k];
  };
  if (objective.has_potential()) {
    Matrix<T> physical = y;
    for (Index b = 0; b < n; ++b) {
      for (Index c = 0; c < d; ++c) physical(b, c) += static_cast<T>(problem.shift[c]);
    }
    evaluate_program<T>(objective.potential, physical, energy_of, part, team);
    for (const T energy : energies) sum += double(energy);
    add_part(scale);
  }
  for (const NetworkTerm& term : objective.network) {
    std::vector<double> force(term.net->parameters());
    write_as_force(*term.net, *term.theta, problem.shift, force);
    const std::vector<T> rounded(force.begin(), force.end());
    MapOutputs<T> gradient_at_y;
    gradient_at_y.displacement = part;
    gradient_at_y.potential = energy_of;  // with |y|^2/2 added
    evaluate<T>(*term.net, rounded.data(), y, gradient_at_y, team);
    for (Index b = 0; wants_value && b < n; ++b) {
      double half = 0;
      for (Index c = 0; c < d; ++c) half += double(y(b, c)) * double(y(b, c)) / 2;
      sum += term.weight * (double(energies[b]) - half);
    }
    add_part(scale * static_cast<T>(term.weight));
  }
  for (const BlackBoxTerm& term : objective.black_box) {
    Matrix<double> physical(n, d), force(n, d);
    for (Index b = 0; b < n; ++b) {
      for (Index c = 0; c < d; ++c) physical(b, c) = double(y(b, c)) + problem.shift[c];
    }
    std::vector<double> v_of(wants_value ? n : 0);
    evaluate_black_box(term, physical, wants_value ? v_of.data() : nullptr, force);
    for (const double energy : v_of) sum += term.weight * energy;
    for (Index k = 0; k < n * d; ++k) part.elements()[k] = static_cast<T>(force.elements()[k]);
    add_part(scale * static_cast<T>(term.weight));
  }
  for (const InteractionTerm& term : objective.interaction) {
    double energy = 0;
    interaction<T>(term.kernel, y, &energy, part, team);
    value += term.weight * energy;
    add_part(scale * static_cast<T>(term.weight));
  }
  solves.states.resize(objective.divergence.size());
  for (std::size_t k = 0; k < objective.divergence.size(); ++k) {
    const DivergenceTerm& term = objective.divergence[k];
    const WeightedCloud<T> images{y, problem.shift.data()};
    double distance = 0;
    solves.sinkhorn.add(
        divergence<T>(term, images, wants_value ? &distance : nullptr, part, &solves.states[k], team));
    value += term.weight * distance;
    add_part(scale * static_cast<T>(term.weight));
  }

  JetSeeds<T> seeds;
  seeds.v = v;
  LogDetSeeds<T> second;
  if (exact) {
    second = exact_seeds(objective, hessian, log_density, d);
    seeds.metric = second.metric;
  } else if (internal) {
    second = stochastic_seeds(problem, theta, iteration, x_hat, log_density, team);
    seeds.directions = problem.log_det.probes;
    seeds.q = second.probes;
    seeds.p = second.solutions;
  }
  jet_gradient<T>(*problem.net, theta, x_hat, seeds, gradient, team);
  for (Index k = 0; k < problem.net->parameters(); ++k) gradient[k] /= double(n);
  solves.cg.add(second.report);
  if (internal) sum += second.energy;
  return wants_value ? value + sum / double(n) : std::numeric_limits<double>::quiet_NaN();
}

template <class T>
class ReferenceObjective final : public StepObjective<T> {
 public:
  ReferenceObjective(const InnerProblem<T>& problem, Team& team) : problem_(problem), team_(team) {}
  double evaluate(const T* theta, int iteration, double* gradient) override {
    return gradient_of(problem_, theta, iteration, gradient, true, solves_, team_);
  }
  CgReport cg() const override { return solves_.cg; }
  SinkhornReport sinkhorn() const override { return solves_.sinkhorn; }

 private:
  const InnerProblem<T>& problem_;
  Team& team_;
  Solves solves_;
};

}  // namespace

template <class T>
std::unique_ptr<StepObjective<T>> step_objective(const InnerProblem<T>& problem, Team& team) {
  return std::make_unique<ReferenceObjective<T>>(problem, team);
}

template <class T>
InnerReport inner_loop(const InnerProblem<T>& problem, InnerState<T>& state, int until, Team& team) {
  const Icnn& net = *problem.net;
  std::vector<double> gradient(net.parameters());
  InnerReport report;
  Solves solves;
  while (state.iteration < until) {
    gradient_of<T>(problem, state.theta.data(), state.iteration, gradient.data(), false, solves, team);
    report.cg = solves.cg;
    report.sinkhorn = solves.sinkhorn;
    double norm2 = 0;
    for (const ParameterTensor& tensor : net.tensors()) {
      for (Index k = tensor.offset; k < tensor.offset + tensor.size(); ++k) {
        const double part = moving_part(state.theta[k], static_cast<T>(tensor.lower),
                                        static_cast<T>(tensor.rate), gradient[k]);
        norm2 += part * part;
      }
    }
    if (!report.take(std::sqrt(norm2), problem.tolerance, problem.gradient_scale)) return report;
    const AdamStep<T> adam(problem.adam, state.iteration, problem.iterations);
    for (const ParameterTensor& tensor : net.tensors()) {
      for (Index k = tensor.offset; k < tensor.offset + tensor.size(); ++k) {
        adam.update(state.theta[k], state.first_moment[k], state.second_moment[k],
                    static_cast<T>(gradient[k]), static_cast<T>(tensor.lower), static_cast<T>(tensor.rate));
      }
    }
    ++state.iteration;
    report.interrupted = problem.interrupt && problem.interrupt->load(std::memory_order_relaxed);
    if (report.converged || report.interrupted) break;
  }
  return report;
}

template <class T>
const Operations<T>& operations() {
  static constexpr Operations<T> table = {.name = "ref",
                                          .host = true,
                                          .evaluate = evaluate<T>,
                                          .hessian_vector = hessian_vector<T>,
                                          .solve_hessian = solve_hessian<T>,
                                          .log_det_lanczos = log_det_lanczos<T>,
                                          .jet_gradient = jet_gradient<T>,
                                          .evaluate_program = evaluate_program<T>,
                                          .interaction = interaction<T>,
                                          .divergence = divergence<T>,
                                          .objective_gradient = objective_gradient<T>,
                                          .step_objective = step_objective<T>,
                                          .inner_loop = inner_loop<T>};
  return table;
}

template const Operations<float>& operations<float>();
template const Operations<double>& operations<double>();

}  // namespace ref
}  // namespace brenier
