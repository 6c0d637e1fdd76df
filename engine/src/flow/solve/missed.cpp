// SPDX-License-Identifier: MIT
#include "engine/src/flow/solve/missed.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <optional>
#include <utility>

#include "engine/src/flow/solve/affine.hpp"
#include "engine/src/flow/solve/axes.hpp"
#include "engine/src/flow/solve/scale.hpp"
#include "engine/src/flow/solve/smooth_gain.hpp"
#include "engine/src/flow/state.hpp"
#include "kernels/base/moments.hpp"
#include "kernels/base/show.hpp"
#include "kernels/base/subset.hpp"
#include "kernels/model/black_box.hpp"
#include "kernels/resident_cloud.hpp"
#include "solvers/dense.hpp"

namespace brenier {
namespace {

/// Particles of the cloud and of its law that are judged, each: with neighbours about two thousand points.
Index judged_count(Index d) {
  return std::clamp<Index>(1024 / (2 * d + 1), 12, 256);
}

Matrix<double> rows_of(const Matrix<double>& x, Index first, Index count) {
  Matrix<double> out(count, x.cols());
  std::copy_n(x.row(first), count * x.cols(), out.elements().begin());
  return out;
}

struct LawSample {
  Matrix<double> x;
  std::vector<double> weights;
};

/// `count` particles out of the first 16 times as many of a law: a quarter are the outermost, with weights that say so.
LawSample law_sample(const Matrix<double>& drawn, Index count) {
  const Index n = 16 * count, d = drawn.cols(), outer = count / 4;
  const Matrix<double> pool = rows_of(drawn, 0, n);
  const std::vector<double> mean = moments(pool).mean;
  std::vector<std::pair<double, Index>> far(static_cast<std::size_t>(n));
  for (Index i = 0; i < n; ++i) far[i] = {0.0, i};
  for (Index c = 0; c < d; ++c) {
    const double width = std::max(deviation(pool, c), std::numeric_limits<double>::min());
    for (Index i = 0; i < n; ++i) far[i].first += std::pow((pool(i, c) - mean[c]) / width, 2);
  }
  std::sort(far.begin(), far.end(), std::greater<>());
  // Of the others the first that were drawn.
  std::sort(far.begin() + outer, far.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  LawSample out{Matrix<double>(count, d), std::vector<double>(static_cast<std::size_t>(count), 1.0)};
  for (Index i = 0; i < count; ++i) {
    std::copy_n(pool.row(far[i].second), d, out.x.row(i));
    if (i >= outer) out.weights[i] = static_cast<double>(n - outer) / static_cast<double>(count - outer);
  }
  return out;
}

/// Rows of a, then those of b.
Matrix<double> stacked(const Matrix<double>& a, const Matrix<double>& b) {
  Matrix<double> out(a.rows() + b.rows(), b.cols());
  std::copy(a.elements().begin(), a.elements().end(), out.elements().begin());
  std::copy(b.elements().begin(), b.elements().end(),
            out.elements().begin() + static_cast<std::ptrdiff_t>(a.elements().size()));
  return out;
}

/// Hessians of V (N, d*d) at z: of expressions and black boxes by central differences of the gradient, of networks
/// exact.
Matrix<double> potential_hessians(const Objective& objective, const Matrix<double>& z, double length,
                                  const Operations<double>& ops, Team& team) {
  const Index n = z.rows(), d = z.cols();
  Matrix<double> out(n, d * d);
  const Operations<double>& few = for_few_points(ops);
  const auto add_differences = [&](double weight, auto&& gradient_at) {
    Matrix<double> moved = z, up(n, d), down(n, d);
    for (Index c = 0; c < d; ++c) {
      for (Index i = 0; i < n; ++i) moved(i, c) = z(i, c) + length;
      gradient_at(moved, up);
      for (Index i = 0; i < n; ++i) moved(i, c) = z(i, c) - length;
      gradient_at(moved, down);
      for (Index i = 0; i < n; ++i) {
        moved(i, c) = z(i, c);
        for (Index a = 0; a < d; ++a) {
          const double slope = weight * (up(i, a) - down(i, a)) / (4 * length);
          out(i, a * d + c) += slope;
          out(i, c * d + a) += slope;
        }
      }
    }
  };
  if (objective.has_potential()) {
    add_differences(1, [&](const Matrix<double>& at, Matrix<double>& gradient) {
      few.evaluate_program(objective.potential, at, nullptr, gradient, team);
    });
  }
  for (const BlackBoxTerm& term : objective.black_box) {
    add_differences(term.weight, [&](const Matrix<double>& at, Matrix<double>& gradient) {
      evaluate_black_box(term, at, nullptr, gradient);
    });
  }
  for (const NetworkTerm& term : objective.network) {
    Matrix<double> hessian(n, d * d), displacement(n, d);
    MapOutputs<double> outputs;
    outputs.displacement = displacement;
    outputs.hessian = hessian;
    ops.evaluate(*term.net, term.theta->data(), z, outputs, team);
    for (std::size_t k = 0; k < out.elements().size(); ++k)
      out.elements()[k] += term.weight * hessian.elements()[k];
  }
  return out;
}

/// K^{-1} r with K = I/tau + hessian, its eigenvalues at least 0.05/tau.
void newton_step(MatrixView<const double> hessian, double tau, const double* r, double* out) {
  const Index d = hessian.rows;
  if (dense::Cholesky::of(hessian, 0.95 / tau)) {
    dense::Cholesky::of(hessian, 1 / tau)->solve(r, out);
    return;
  }
  const dense::SymmetricEigen eigen = dense::symmetric_eigen(hessian, true);
  std::fill_n(out, d, 0.0);
  for (Index k = 0; k < d; ++k) {
    double along = 0;
    for (Index a = 0; a < d; ++a) along += eigen.vectors(a, k) * r[a];
    along /= std::max(eigen.values[static_cast<std::size_t>(k)] + 1 / tau, 0.05 / tau);
    for (Index a = 0; a < d; ++a) out[a] += along * eigen.vectors(a, k);
  }
}

/// The floor of sampling, in gains of a displacement of all particles by 1/sqrt(N): so many directions in which a network
/// bends, of each of which N particles leave as much open. Measured with brenier_bench_certificate_set.
constexpr double kOpenModes = 12;

/// The same of forces between particles, in gains of the noise of as many independent ones. Stratified clouds have a fiftieth
/// of that noise, which is more than `accept` where W is singular.
constexpr double kOpenForces = 3;

/// Pairs whose forces are shared between their two particles, in deviations of the cloud. Farther ones have the noise of the
/// particles that they come from alone.
constexpr double kNear = 0.03;

/// A step is fitted where the cloud's own slope along what its law has to gain is less than this part of the law's.
constexpr double kFitted = 0.25;

/// Mean trace of Hessians (N, d*d), without what curves down.
double upward_trace(const Matrix<double>& hessians) {
  const Index n = hessians.rows(), d = std::lround(std::sqrt(static_cast<double>(hessians.cols())));
  double sum = 0;
  for (Index i = 0; i < n; ++i) {
    for (Index c = 0; c < d; ++c) sum += std::max(0.0, hessians(i, c * d + c)) / static_cast<double>(n);
  }
  return sum;
}

/// (M, d): grad W(at - y_j), 0 for pairs in one place.
Matrix<double> pair_forces(const PairKernel& kernel, const double* at, MatrixView<const double> y,
                           const Operations<double>& ops, Team& team) {
  const Index n = y.rows, d = y.cols;
  const bool program = kernel.form != PairKernel::Form::quadratic_log;
  const bool vector = kernel.form == PairKernel::Form::vector;
  Matrix<double> z(n, d), distance(program && !vector ? n : 0, 1), slope(program ? n : 0, vector ? d : 1);
  std::vector<double> squares(static_cast<std::size_t>(n));
  for (Index j = 0; j < n; ++j) {
    for (Index c = 0; c < d; ++c) {
      z(j, c) = at[c] - y(j, c);
      squares[j] += z(j, c) * z(j, c);
    }
    if (distance.rows() > 0) distance(j, 0) = std::sqrt(squares[j]);
  }
  if (program) {
    for_few_points(ops).evaluate_program(kernel.program, vector ? z : distance, nullptr, slope, team);
  }
  for (Index j = 0; j < n; ++j) {
    const bool apart = squares[j] > 0;
    for (Index c = 0; c < d; ++c) {
      double& force = z(j, c);
      force = !apart     ? 0
              : !program ? (2 * kernel.quadratic + kernel.log_coefficient / squares[j]) * force
              : vector   ? slope(j, c)
                         : slope(j, 0) / distance(j, 0) * force;
    }
  }
  return z;
}

/// The trace of the Hessian of W*rho by the virial of pairs, 1/2 E|z.grad W(z)| over the size squared, which is that of a
/// quadratic W and finite for singular ones.
double pair_stiffness(const PairKernel& kernel, const CloudView& y, double length, std::uint64_t seed,
                      const Operations<double>& ops, Team& team) {
  const Matrix<double> some = y.subset(32, seed), others = y.subset(1024, seed);
  double sum = 0;
  for (Index i = 0; i < some.rows(); ++i) {
    const Matrix<double> forces = pair_forces(kernel, some.row(i), others, ops, team);
    for (Index j = 0; j < others.rows(); ++j) {
      double virial = 0;
      for (Index c = 0; c < y.cols(); ++c) virial += forces(j, c) * (some(i, c) - others(j, c));
      sum += std::isfinite(virial) ? std::abs(virial) : 0;
    }
  }
  return sum / (2 * length * length * static_cast<double>(some.rows() * others.rows()));
}

/// Whether particles of a law say anything of each other's forces: where W is as singular as r^{-p} with p > d/2 these have no
/// variance, even summed over both particles of a pair, and where p >= d the law's own energy is infinite.
bool have_variance(const std::vector<InteractionTerm>& terms, Index d, double length,
                   const Operations<double>& ops, Team& team) {
  const std::vector<double> origin(static_cast<std::size_t>(d), 0.0);
  Matrix<double> near(2, d);
  for (Index c = 0; c < d; ++c) {
    near(0, c) = 1e-4 * length / std::sqrt(static_cast<double>(d));
    near(1, c) = 0.1 * near(0, c);
  }
  return std::all_of(terms.begin(), terms.end(), [&](const InteractionTerm& term) {
    const Matrix<double> force = pair_forces(term.kernel, origin.data(), near, ops, team);
    double squares[2] = {};
    for (Index k = 0; k < 2; ++k) {
      for (Index c = 0; c < d; ++c) squares[k] += square(force(k, c));
    }
    // |grad W| grows by 10^{p + 1}.
    return !(squares[1] > squares[0] * std::pow(10.0, static_cast<double>(d) + 2 + 1e-3));
  });
}

/// E[f'(rho) - f(rho)/rho].
double pressure_of(const Objective& objective, const CloudView& y, const CloudObjective& evaluation,
                   Team& team) {
  if (y.resident()) {
    const std::optional<double> found =
        where_there_is_room([&] { return y.resident()->pressure(objective); });
    if (found) return *found;
  }
  return evaluation.internal(y.log_density(), team).pressure;
}

/// The slope of F + transport on the cloud itself along smooth displacements, which needs no score: what gradients can
/// still see. Its sampling noise is that of the cloud, as in the search.
std::vector<double> cloud_slopes(const Objective& objective, const JudgedStep& step,
                                 const SmoothFields& fields, const CloudObjective& evaluation,
                                 const Operations<double>& ops, Team& team) {
  if (step.y.resident() && step.base.resident() && has_residuals(objective)) {
    std::optional<std::vector<double>> found = where_there_is_room([&] {
      return step.y.resident()->slopes(objective, *step.base.resident(), step.tau, fields.waves());
    });
    if (found) return std::move(*found);
  }
  const Index n = step.y.rows(), d = step.y.cols(), count = fields.size();
  Objective external = objective;
  external.internal.clear();
  CloudObjective forces(external, ops);
  const Matrix<double>&y = step.y.x(), &base = step.base.x();
  Matrix<double> r(n, d), xi(count, d), q(count, d);
  forces.force(y, r, team);
  const CloudObjective::Internal energy = evaluation.internal(step.y.log_density(), team);
  std::vector<double> out(static_cast<std::size_t>(count), 0.0), bend(out);
  for (Index i = 0; i < n; ++i) {
    for (Index c = 0; c < d; ++c) r(i, c) += (y(i, c) - base(i, c)) / step.tau;
    fields.at(y.row(i), xi.row(0), bend.data(), q.row(0));
    for (Index j = 0; j < count; ++j) {
      double along = 0, square = 0;
      for (Index c = 0; c < d; ++c) {
        along += r(i, c) * xi(j, c);
        square += q(j, c) * q(j, c);
      }
      out[j] += (along - energy.surrogate[i] * bend[j] * square) / static_cast<double>(n);
    }
  }
  return out;
}

}  // namespace

JudgedParticles::JudgedParticles(const Density& initial, const Matrix<double>& x, bool scores, bool pairs,
                                 bool second_order, std::uint64_t seed) {
  const Index d = x.cols(), count = judged_count(d);
  const Matrix<double> own = subset(x, count, seed);
  cloud_rows_ = spread(x.rows(), count, seed);
  const Index law = pairs ? kLawParticles : 0;
  const Matrix<double> all =
      initial.sample(16 * count + law, Sampling::random, seed, RandomStream::held_out).x;
  const LawSample drawn = law_sample(all, count);
  const Matrix<double> centres = stacked(own, drawn.x);
  held_out_.assign(static_cast<std::size_t>(centres.rows()), 0);
  weights_.assign(static_cast<std::size_t>(own.rows()), 1.0);
  weights_.insert(weights_.end(), drawn.weights.begin(), drawn.weights.end());
  for (Index i = own.rows(); i < centres.rows(); ++i) held_out_[i] = 1;
  neighbours_ = scores && d <= kScoreDim ? 2 * d : 0;
  Cloud points;
  points.x = Matrix<double>(centres.rows() * (neighbours_ + 1), d);
  distance_ = Matrix<double>(centres.rows(), d);
  for (Index i = 0; i < centres.rows(); ++i) {
    for (Index k = 0; k <= neighbours_; ++k) std::copy_n(centres.row(i), d, points.x.row(row(i) + k));
  }
  if (has_scores()) {
    for (Index c = 0; c < d; ++c) {
      const double length = 1e-4 * deviation(x, c);
      for (Index i = 0; i < centres.rows(); ++i) {
        // Near the edge of a support closer neighbours.
        double h = length;
        for (int tries = 0; tries < 4; ++tries, h /= 100) {
          distance_(i, c) = h;
          points.x(row(i) + 1 + 2 * c, c) = centres(i, c) + h;
          points.x(row(i) + 2 + 2 * c, c) = centres(i, c) - h;
          const auto inside = [&](Index k) {
            return std::isfinite(initial.log_density(
                std::span<const double>(points.x.row(row(i) + k), static_cast<std::size_t>(d))));
          };
          if (inside(1 + 2 * c) && inside(2 + 2 * c)) break;
        }
      }
    }
    points.log_density = initial.log_density(points.x);
  }
  points_ = Trajectory(std::move(points), second_order, second_order && has_scores());
  if (law > 0) law_ = Trajectory({rows_of(all, 16 * count, law), {}}, second_order, false);
}

std::string Missed::in_words(double accept) const {
  if (!std::isfinite(worst_share())) return "nothing is known of what it misses";
  std::string out = "it misses " + show(100 * worst_share()) + " % of its possible decrease";
  if (worst_share() > accept) out += ", above inner.accept";
  if (displacement > 10 * accept)
    out += ", and ends " + show(100 * displacement) +
           " % of the way from its optimum, as a whole or in one axis of the cloud, above ten times "
           "inner.accept";
  return out;
}

std::vector<Index> JudgedParticles::rows() const {
  std::vector<Index> out;
  for (Index i = 0; i < size(); ++i) out.push_back(row(i));
  return out;
}

const Matrix<double>& JudgedParticles::centres() const {
  if (centres_.empty() && size() > 0) centres_ = CloudView(points_).take(rows(), &central_log_density_);
  return centres_;
}

Matrix<double> JudgedParticles::centres_of(const Trajectory::Base& base) const {
  return size() > 0 ? CloudView(base).take(rows()) : Matrix<double>();
}

std::vector<char> JudgedParticles::scores(Matrix<double>& score) const {
  const Index d = points_.dim();
  std::vector<char> known(held_out_.size(), 1);
  const CloudView seen(points_);
  const auto by_device = [&] {
    seen.resident()->scores(score);
    return true;
  };
  if (seen.resident() && where_there_is_room(by_device)) {
    for (Index i = 0; i < size(); ++i) {
      known[i] = std::all_of(score.row(i), score.row(i) + d, [](double s) { return std::isfinite(s); });
    }
    return known;
  }
  Matrix<double> transposed(d, d);
  std::vector<double> slope(static_cast<std::size_t>(d));
  for (Index i = 0; i < size(); ++i) {
    for (Index c = 0; c < d; ++c) {
      const Index up = row(i) + 1 + 2 * c, down = up + 1;
      const double width = 2 * distance_(i, c);
      slope[c] = (points_.log_density()[up] - points_.log_density()[down]) / width;
      for (Index a = 0; a < d; ++a) transposed(c, a) = (points_.x()(up, a) - points_.x()(down, a)) / width;
    }
    // grad_x log rho(y(x)) = (dy/dx)^T score.
    dense::lu_solve(transposed, slope.data(), score.row(i));
    for (Index a = 0; a < d; ++a) {
      if (!std::isfinite(score(i, a))) known[i] = 0;
    }
  }
  return known;
}

namespace {

Missed missed_of_all(const Objective& objective, const JudgedStep& step, const Matrix<double>& judged_from,
                     const JudgedParticles& judged, std::uint64_t seed, const Operations<double>& ops,
                     Team& team) {
  const Index d = step.y.cols();
  const bool internal = !objective.internal.empty();
  Missed out;
  std::vector<double> mean;
  double length = 1;
  step.y.location_and_scale(mean, length);
  const CloudObjective evaluation(objective, ops);
  // `stiffness`: the mean of the trace of the Hessian of V, where that curves up.
  double curvature = 0, open_share = 0;
  const bool pairs = !objective.interaction.empty();
  const bool lawful = have_variance(objective.interaction, d, length, ops, team);
  const auto set_floor = [&](double stiffness, double pressure) {
    double of_energy = std::max(0.0, pressure) * static_cast<double>(d) / (length * length);
    for (const InteractionTerm& term : objective.interaction) {
      if (!lawful) break;
      of_energy += std::abs(term.weight) * pair_stiffness(term.kernel, step.y, length, seed, ops, team);
    }
    // What particles leave open: all of their forces that are not those of a potential.
    const double open = internal ? stiffness + of_energy : of_energy;
    of_energy += stiffness;
    curvature = static_cast<double>(d) / step.tau + of_energy;
    open_share = open / curvature;
    const double share = 1 / static_cast<double>(step.y.rows());
    const auto cost = [&](double squares) { return 0.5 * squares * length * length * curvature; };
    out.floor = std::max(step.noise / step.accept, cost(kRoundedMove * kRoundedMove));
    if (internal || pairs) out.floor = std::max(out.floor, cost(kOpenModes * share * square(open_share)));
  };
  const auto share = [&](double missed) {
    if (!std::isfinite(missed)) return 1.0;
    missed = std::max({missed, -step.decrease, 0.0});  // to stay would have missed nothing that was lost
    return missed > 0 ? missed / std::max({step.decrease + missed, out.floor, missed}) : 0.0;
  };
  if (internal && !judged.has_scores()) {
    out.basis = Missed::Basis::affine;
    const AffineMap more =
        best_affine(objective, step.y, step.base, step.tau, {.seed = seed}, for_few_points(ops), team);
    const Matrix<double> some = step.y.subset(judged_count(d), seed);
    set_floor(upward_trace(potential_hessians(objective, some, 1e-4 * length, ops, team)),
              pressure_of(objective, step.y, evaluation, team));
    out.share = share(more.decrease);
    return out;
  }
  out.basis = Missed::Basis::residual;

  // The points z that are judged, where they came from, and which of them are particles of the cloud.
  Index own = 0;
  std::vector<Index> cloud_rows;
  if (!internal) {
    cloud_rows = spread(step.y.rows(), pairs ? kPairLimit : 4 * judged_count(d), seed);
    own = static_cast<Index>(cloud_rows.size());
  }
  std::vector<Index> others;
  for (Index i = 0; i < judged.size(); ++i) {
    if (judged.held_out(i) || internal) others.push_back(i);
  }
  const Index n = own + static_cast<Index>(others.size());
  // Of held-out particles with pairs: the residual by each batch of the law.
  Matrix<double> z(n, d), from(n, d), r(n, d), batches(pairs ? n : 0, kBatches * d), score(judged.size(), d);
  // A force between near particles z and y acts on both, so that slopes along smooth displacements are finite where W is singular:
  // E[grad W(z - y).xi(z)] is half of E[grad W(z - y).(xi(z) - xi(y))]. The half that is not that of z, and that of y, which is of
  // the law.
  Matrix<double> halves(batches.rows(), batches.cols()), reactions(pairs ? judged.law().rows() : 0, d);
  std::vector<Index> rows(static_cast<std::size_t>(n), -1);
  std::vector<double> weights(static_cast<std::size_t>(n), 1.0);
  std::vector<char> held_out(static_cast<std::size_t>(n), 0), known(static_cast<std::size_t>(n), 1);
  if (own > 0) {
    const Matrix<double> own_y = step.y.take(cloud_rows), own_base = step.base.take(cloud_rows);
    std::copy(cloud_rows.begin(), cloud_rows.end(), rows.begin());
    std::copy_n(own_y.data(), own * d, z.data());
    std::copy_n(own_base.data(), own * d, from.data());
  }
  std::vector<double> log_density;
  const std::vector<char> scored = internal ? judged.scores(score) : std::vector<char>();
  for (std::size_t k = 0; k < others.size(); ++k) {
    const Index i = own + static_cast<Index>(k);
    held_out[i] = judged.held_out(others[k]);
    weights[i] = judged.weight(others[k]);
    rows[i] = judged.cloud_row(others[k]);
    std::copy_n(judged.centres().row(others[k]), d, z.row(i));
    std::copy_n(judged_from.row(others[k]), d, from.row(i));
    if (!internal) continue;
    log_density.push_back(judged.log_density()[static_cast<std::size_t>(others[k])]);
    known[i] = scored[others[k]];
  }
  for (Index i = own; i < n; ++i) {
    if (held_out[i] && !lawful) known[i] = 0;
  }

  if (!objective.divergence.empty()) {
    // The force of a plan depends on the whole cloud; those that are judged beside it join it.
    Objective alone;
    alone.divergence = objective.divergence;
    CloudObjective distances(alone, ops);
    const Matrix<double> cloud = step.y.subset(kPairLimit, seed);
    Matrix<double> extra(n - own, d);
    for (Index i = own; i < n; ++i) std::copy_n(z.row(i), d, extra.row(i - own));
    const Matrix<double> all = extra.rows() > 0 ? stacked(cloud, extra) : cloud;
    Matrix<double> forces(all.rows(), d);
    distances.force(all, forces, team);
    const std::vector<Index> taken = spread(step.y.rows(), kPairLimit, seed);
    for (Index i = 0; i < n; ++i) {
      Index at = cloud.rows() + i - own;
      if (rows[i] >= 0) {
        const auto place = std::lower_bound(taken.begin(), taken.end(), rows[i]);
        if (place == taken.end() || *place != rows[i]) {
          known[i] = 0;
          continue;
        }
        at = place - taken.begin();
      }
      for (Index c = 0; c < d; ++c) r(i, c) += forces(at, c);
    }
  }
  {
    Objective alone;
    alone.potential = objective.potential;
    alone.network = objective.network;
    alone.black_box = objective.black_box;
    CloudObjective potentials(alone, objective.network.empty() ? for_few_points(ops) : ops);
    Matrix<double> forces(n, d);
    potentials.force(z, forces, team);
    for (std::size_t k = 0; k < r.elements().size(); ++k) r.elements()[k] += forces.elements()[k];
  }
  const CloudObjective::Internal energy = evaluation.internal(log_density, team);
  if (internal) {
    for (std::size_t k = 0; k < others.size(); ++k) {
      for (Index c = 0; c < d; ++c)
        r(own + static_cast<Index>(k), c) += energy.per_score[k] * score(others[k], c);
    }
  }
  for (Index i = 0; i < n; ++i) {
    for (Index c = 0; c < d; ++c) r(i, c) += (z(i, c) - from(i, c)) / step.tau;
  }
  std::vector<double> widths = pairs ? step.y.widths().deviation : std::vector<double>();
  for (double& width : widths) width = std::max(width, std::numeric_limits<double>::min());
  for (const InteractionTerm& term : objective.interaction) {
    const Matrix<double> cloud = step.y.subset(kPairLimit, seed);
    const std::vector<Index> taken = spread(step.y.rows(), kPairLimit, seed);
    Matrix<double> forces(cloud.rows(), d);
    ops.interaction(term.kernel, cloud, nullptr, forces, team);
    for (Index i = 0; i < n; ++i) {
      if (held_out[i]) {
        if (!lawful) continue;
        const Matrix<double>& law = judged.law();
        const Matrix<double> own_forces = pair_forces(term.kernel, z.row(i), law, ops, team);
        const double part = term.weight * static_cast<double>(kBatches) / static_cast<double>(law.rows());
        for (Index j = 0; j < law.rows(); ++j) {
          double apart = 0;
          for (Index c = 0; c < d; ++c) apart += square((z(i, c) - law(j, c)) / widths[c]);
          const double near = std::exp(-apart / square(kNear));
          for (Index c = 0; c < d; ++c) {
            batches(i, j % kBatches * d + c) += part * own_forces(j, c);
            const double half = 0.5 * near * part * own_forces(j, c);
            halves(i, j % kBatches * d + c) += half;
            if (known[i]) reactions(j, c) -= weights[i] * half;
          }
        }
        continue;
      }
      const auto place = std::lower_bound(taken.begin(), taken.end(), rows[i]);
      if (place == taken.end() || *place != rows[i]) {
        known[i] = 0;
        continue;
      }
      for (Index c = 0; c < d; ++c) r(i, c) += term.weight * forces(place - taken.begin(), c);
    }
  }

  // Batches hold forces of pairs; with all others each is a residual, and r their mean.
  for (Index i = 0; pairs && i < n; ++i) {
    if (!held_out[i]) continue;
    for (Index c = 0; c < d; ++c) {
      double mean_force = 0;
      for (Index b = 0; b < kBatches; ++b) {
        mean_force += batches(i, b * d + c) / static_cast<double>(kBatches);
        batches(i, b * d + c) += r(i, c);
      }
      r(i, c) += mean_force;
    }
  }

  const Matrix<double> hessians = potential_hessians(objective, z, 1e-4 * length, ops, team);
  double gain[2] = {}, distance[2] = {}, moved[2] = {}, count[2] = {};
  std::vector<double> move(static_cast<std::size_t>(d)), way(move);
  // Forces of plans and of pairs at single particles are noise.
  const bool quick = objective.interaction.empty() && objective.divergence.empty();
  const Axes axes = quick ? Axes(step.y, objective, seed) : Axes();
  AlongAxes missed_along[2] = {AlongAxes(axes), AlongAxes(axes)},
            done_along[2] = {missed_along[0], missed_along[0]};
  Matrix<double> moves(kBatches, d), gains(kBatches, kBatches), distances(kBatches, kBatches);
  for (Index i = 0; i < n; ++i) {
    if (!known[i]) continue;
    const int part = held_out[i];
    newton_step({hessians.row(i), d, d}, step.tau, r.row(i), move.data());
    for (Index c = 0; c < d; ++c) {
      gain[part] += weights[i] * 0.5 * r(i, c) * move[c];
      distance[part] += weights[i] * move[c] * move[c];
      way[c] = z(i, c) - from(i, c);
      moved[part] += weights[i] * way[c] * way[c];
    }
    missed_along[part].add(move.data(), weights[i]);
    done_along[part].add(way.data(), weights[i]);
    count[part] += weights[i];
    if (!pairs || !held_out[i]) continue;
    const double* residuals = batches.row(i);
    for (Index b = 0; b < kBatches; ++b)
      newton_step({hessians.row(i), d, d}, step.tau, residuals + b * d, moves.row(b));
    for (Index a = 0; a < kBatches; ++a) {
      for (Index b = 0; b < kBatches; ++b) {
        for (Index c = 0; c < d; ++c) {
          gains(a, b) += weights[i] * 0.5 * residuals[a * d + c] * moves(b, c);
          distances(a, b) += weights[i] * moves(a, c) * moves(b, c);
        }
      }
    }
  }
  if (pairs) {
    gain[1] = certain_square(gains);
    distance[1] = certain_square(distances);
  }
  const SmoothFields fields(step.y, seed);
  const auto smooth_of = [&](int half) {
    const bool noisy = pairs && half == 1;
    SmoothGain smooth(fields, d, noisy);
    std::vector<double> residual(static_cast<std::size_t>(d)), parts(noisy ? halves.cols() : 0);
    for (Index i = 0; i < n; ++i) {
      if (!known[i] || held_out[i] != half) continue;
      std::copy_n(r.row(i), d, residual.data());
      for (Index k = 0; k < static_cast<Index>(parts.size()); ++k) {
        parts[k] = batches(i, k) - halves(i, k);
        residual[k % d] -= halves(i, k) / static_cast<double>(kBatches);
      }
      smooth.add(z.row(i), residual.data(), noisy ? parts.data() : nullptr, {hessians.row(i), d, d}, step.tau,
                 internal ? energy.surrogate[i - own] : 0, internal ? energy.per_score[i - own] : 0,
                 weights[i]);
    }
    for (Index j = 0; noisy && j < reactions.rows(); ++j)
      smooth.add_force(judged.law().row(j), reactions.row(j), j % kBatches);
    return smooth;
  };
  // Noise of sampling as in the floor.
  const auto axis_floor = [&] {
    return kAxisFloor +
           (internal ? std::sqrt(kOpenModes / static_cast<double>(step.y.rows())) * open_share : 0);
  };
  const auto axis_of_smooth = [&](const std::vector<double>& combination, int half) {
    if (combination.empty()) return std::numeric_limits<double>::infinity();
    AlongAxes missed(axes);
    Matrix<double> xi(fields.size(), d), q(fields.size(), d);
    std::vector<double> bend(static_cast<std::size_t>(fields.size()));
    for (Index i = 0; i < n; ++i) {
      if (!known[i] || held_out[i] != half) continue;
      fields.at(z.row(i), xi.row(0), bend.data(), q.row(0));
      std::fill(way.begin(), way.end(), 0.0);
      for (Index j = 0; j < fields.size(); ++j) {
        for (Index a = 0; a < d; ++a) way[a] += combination[static_cast<std::size_t>(j)] * xi(j, a);
      }
      missed.add(way.data(), weights[i]);
    }
    return axis_share(missed, done_along[half], axes.size(), axis_floor());
  };
  set_floor(upward_trace(hessians), internal ? energy.pressure : 0);
  if (pairs && count[1] > 0) {
    const double noise = smooth_of(1).result().noise;
    if (std::isfinite(noise)) {
      out.floor =
          std::max(out.floor, kOpenForces * noise * static_cast<double>(JudgedParticles::kLawParticles) /
                                  static_cast<double>(step.y.rows()));
    }
  }
  const double unknown = std::numeric_limits<double>::quiet_NaN();
  // What costs the floor moves particles by this, mean square.
  const double floor = 2 * out.floor * static_cast<double>(d) / curvature;
  for (int half = 0; half < 2; ++half) {
    double& found = half == 0 ? out.share : out.held_out;
    found = unknown;
    bool fitted = false;
    if (count[half] == 0) continue;
    found = share(std::abs(gain[half]) / count[half]);
    const double whole = std::max(moved[half] / count[half], floor);
    double displacement = std::sqrt(distance[half] / count[half] / whole);
    double axis = axis_share(missed_along[half], done_along[half], axes.size(), axis_floor());
    if ((internal || pairs) && (found > step.accept || std::max(displacement, axis) > 10 * step.accept)) {
      // The residual alone is no bound that is worth its name: what internal energies resist, no step would do.
      const SmoothGain smooth = smooth_of(half);
      const SmoothGain::Result result = smooth.result();
      found = std::min(found, share(result.gain));
      displacement = std::min(displacement, std::sqrt(result.squares / whole));
      if (axis > 0) axis = std::min(axis, axis_of_smooth(smooth.combination(), half));
      out.smooth = true;
      // All pairs of a large cloud, for a hint, are too many.
      if (internal && (quick || step.y.rows() <= kPairLimit)) {
        fitted = smooth.agreement(cloud_slopes(objective, step, fields, evaluation, ops, team)) < kFitted;
      }
    }
    if (half == 1 && !internal) fitted = out.share <= step.accept;
    if (found > step.accept) out.fitted = fitted && (half == 0 || out.fitted || out.share <= step.accept);
    if (half == 0 || std::isnan(out.displacement)) out.displacement = displacement;
    out.displacement = std::max(out.displacement, axis);
  }
  return out;
}

}  // namespace

Missed missed_share(const Objective& objective, const JudgedStep& step, const Matrix<double>& judged_from,
                    const JudgedParticles& judged, std::uint64_t seed, const Operations<double>& ops,
                    Team& team) {
  Missed out = missed_of_all(objective, step, judged_from, judged, seed, ops, team);
  // A step that is not solved need not be asked again. Plans take too long, and of some particles they are others.
  if (objective.divergence.empty() && out.solved(step.accept))
    out.displacement = std::fmax(out.displacement, axis_displacement(objective, step, seed, ops, team));
  return out;
}

}  // namespace brenier
