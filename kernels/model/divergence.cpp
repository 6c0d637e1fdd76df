// SPDX-License-Identifier: MIT
#include "kernels/model/divergence.hpp"

#include <algorithm>
#include <cmath>
#include <string>

#include "brenier/base/error.hpp"
#include "kernels/base/show.hpp"
#include "kernels/model/keys.hpp"

namespace brenier {
namespace {

// Half the squared diameter of two clouds stays in the range of float, with room for sums of squares.
constexpr double kFarthest = 1e17;

}  // namespace

void SinkhornReport::add(const SinkhornReport& other) {
  iterations = std::max(iterations, other.iterations);
  // Not std::max: a NaN is to be seen.
  if (!(other.marginal_error <= marginal_error)) marginal_error = other.marginal_error;
  solves += other.solves;
  schedules += other.schedules;
  unconverged += other.unconverged;
}

bool TransportDuals::fit(Index n, Index m) const {
  return n > 0 && static_cast<Index>(f.size()) == n && static_cast<Index>(g.size()) == m;
}

void TransportDuals::reset(Index n, Index m) {
  f.assign(n, 0.0);
  g.assign(m, 0.0);
}

CentredReference::CentredReference(const DivergenceTerm& term)
    : y(*term.reference), mean(y.cols(), 0.0), weights(term.reference_weights) {
  if (weights.empty()) weights.assign(y.rows(), 1.0 / static_cast<double>(y.rows()));
  for (Index j = 0; j < y.rows(); ++j) {
    for (Index c = 0; c < y.cols(); ++c) mean[c] += weights[j] * y(j, c);
  }
  for (Index j = 0; j < y.rows(); ++j) {
    for (Index c = 0; c < y.cols(); ++c) y(j, c) -= mean[c];
  }
}

CentredReference::~CentredReference() = default;

double first_epsilon(double bound, const SinkhornOptions& options) {
  return std::isfinite(bound) ? std::max(bound, options.epsilon) : options.epsilon;
}

double solved_epsilon(double bound, double rounding, const SinkhornOptions& options) {
  const double most = bound / std::sqrt(rounding);
  return most > 0 && std::isfinite(most) ? std::min(options.epsilon, most) : options.epsilon;
}

double next_epsilon(double epsilon, const SinkhornOptions& options) {
  return std::max(options.epsilon, epsilon * options.scaling * options.scaling);
}

bool stores_costs(Index n, Index m, Index d, std::size_t element, const SinkhornOptions& options) {
  constexpr Index kFewDimensions = 16;  // measured with brenier_bench_sinkhorn --storage
  // In double: n m may not fit an Index.
  const double bytes = static_cast<double>(n) * static_cast<double>(m) * static_cast<double>(element);
  if (!(bytes <= static_cast<double>(options.storage))) return false;
  return element < sizeof(double) || d > kFewDimensions || bytes <= static_cast<double>(kSmallCosts);
}

double warm_limit(double schedule_error) {
  // Twice what the schedule reaches: where that is bad too, starting again from nothing helps nobody.
  return std::max(0.1, 2 * schedule_error);
}

void check_cloud(MatrixView<const double> x, const std::vector<double>& weights, const char* where) {
  const std::string at = where;
  if (x.rows < 1 || x.cols < 1) {
    throw ShapeError(at + ": a cloud of " + std::to_string(x.rows) + " points in dimension " +
                     std::to_string(x.cols) + "; at least one point is needed");
  }
  for (Index i = 0; i < x.rows; ++i) {
    for (Index c = 0; c < x.cols; ++c) {
      if (!(std::abs(x(i, c)) <= kFarthest)) {
        throw ValueError(at + ": point " + std::to_string(i) + " has the coordinate " + show(x(i, c)) +
                         "; all must be finite and below " + show(kFarthest) +
                         ", or the cost overflows: choose another unit of length");
      }
    }
  }
  if (weights.empty()) return;
  if (static_cast<Index>(weights.size()) != x.rows) {
    throw ShapeError(at + ": " + std::to_string(weights.size()) + " weights for " + std::to_string(x.rows) +
                     " points; give one each, or none for equal weights");
  }
  double sum = 0;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    if (!(weights[i] > 0) || !std::isfinite(weights[i])) {
      throw ValueError(at + ": weight " + std::to_string(i) + " is " + show(weights[i]) +
                       "; weights are above 0: leave out points that have none");
    }
    sum += weights[i];
  }
  if (!(std::abs(sum - 1) <= 1e-9)) {
    throw ValueError(at + ": the weights sum to " + show(sum) + "; divide them by that");
  }
}

void check_divergence(const DivergenceTerm& term, const char* where) {
  const std::string at = where;
  if (!term.reference) throw ValueError(at + ": no reference cloud; give the points to compare with");
  check_cloud(*term.reference, term.reference_weights, where);
  switch (term.form) {
    case DivergenceTerm::Form::sinkhorn:
      check_options(sinkhorn_keys(), term.sinkhorn, at + ": ");
      break;
    case DivergenceTerm::Form::mmd:
      if (!(term.bandwidth > 0) || !std::isfinite(term.bandwidth)) {
        throw ValueError(at + ": bandwidth = " + show(term.bandwidth) +
                         "; it must be above 0, for example the median distance");
      }
      break;
    case DivergenceTerm::Form::energy:
      break;
  }
}

}  // namespace brenier
