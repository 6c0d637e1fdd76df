// SPDX-License-Identifier: MIT
#include "engine/src/flow/solve/particles.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "solvers/lbfgs.hpp"

namespace brenier {

ParticleStep solve_on_particles(const Objective& objective, const Matrix<double>& x, double tau,
                                const ParticleOptions& options, const Operations<double>& ops, Team& team) {
  const Index n = x.rows(), d = x.cols();
  CloudObjective evaluation(objective, ops);
  ParticleStep out;
  Matrix<double> force(n, d);
  // Over displacements: small steps keep their digits wherever the cloud lies.
  Matrix<double> y(n, d);
  std::vector<double> moves(static_cast<std::size_t>(n * d), 0.0);
  if (options.start) {
    for (Index k = 0; k < n * d; ++k) moves[k] = options.start->elements()[k] - x.elements()[k];
  }
  const double share = 1 / static_cast<double>(n);
  const auto evaluate = [&](const double* move, double* gradient) {
    for (Index k = 0; k < n * d; ++k) y.elements()[k] = x.elements()[k] + move[k];
    double value = 0;
    out.sinkhorn.add(evaluation.force(y, force, team, &value));
    for (Index k = 0; k < n * d; ++k) {
      value += share * move[k] * move[k] / (2 * tau);
      gradient[k] = share * (force.elements()[k] + move[k] / tau);
    }
    return value;
  };
  // In the metric of the transport: the first step is that of a gradient flow.
  const std::vector<double> lower(moves.size(), -std::numeric_limits<double>::infinity());
  const std::vector<double> metric(moves.size(), tau);
  double first = 0;
  {
    std::vector<double> gradient(moves.size());
    evaluate(moves.data(), gradient.data());
    for (const double g : gradient) first = std::max(first, std::abs(g));
  }
  // tau N times the gradient is an explicit step; the search takes a tenth of the longest.
  const double length = 0.1 * tau * static_cast<double>(n) * first / std::sqrt(tau);
  const LbfgsReport found = minimise({evaluate, lower, metric},
                                     LbfgsOptions{.memory = 20,
                                                  .evaluations = options.evaluations,
                                                  .tolerance = options.tolerance,
                                                  .window = 5,
                                                  .first_step = length > 0 ? length : 1,
                                                  .interrupt = options.interrupt},
                                     moves);
  out.evaluations = found.evaluations + 1;
  out.interrupted = found.end == LbfgsReport::End::interrupted;
  out.converged = found.end != LbfgsReport::End::evaluations && !out.interrupted;
  out.decrease = found.end == LbfgsReport::End::not_finite ? std::numeric_limits<double>::quiet_NaN()
                                                           : found.first - found.value;
  for (Index k = 0; k < n * d; ++k) y.elements()[k] = x.elements()[k] + moves[k];
  out.y = std::move(y);
  return out;
}

}  // namespace brenier
