// SPDX-License-Identifier: MIT
#include "brenier/descent.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "brenier/base/error.hpp"
#include "brenier/base/philox.hpp"
#include "brenier/device.hpp"
#include "engine/src/flow/cloud_objective.hpp"
#include "engine/src/flow/solve/scale.hpp"
#include "kernels/base/show.hpp"
#include "kernels/model/adam.hpp"
#include "kernels/operations.hpp"

namespace brenier {

struct Descent::State {
  Objective objective;
  Matrix<double> x;
  DescentOptions options;
  Team team;
  CloudObjective evaluation;
  Matrix<double> force, first_moment, second_moment;
  SinkhornReport sinkhorn;
  double diffusion = 0;  // of langevin
  int steps = 0;

  State(const Functional& functional, Matrix<double> start, DescentOptions o)
      : objective(functional.objective()),
        x(std::move(start)),
        options(std::move(o)),
        team(options.threads),
        evaluation(objective, backend<double>(options.device)),
        force(x.rows(), x.cols()),
        first_moment(x.rows(), x.cols()),
        second_moment(x.rows(), x.cols()) {
    // Entropies are the noise.
    for (const InternalTerm& term : objective.internal) diffusion += term.weight;
    objective.internal.clear();
  }
};

namespace {

/// ValueError: an internal energy that the method cannot take.
void check_internal(const Functional& functional, DescentOptions::Method method) {
  if (!functional.needs_density()) return;
  if (method != DescentOptions::Method::langevin) {
    throw ValueError(
        "descent: the functional has an internal energy, which particles without a density do not have; use "
        "a "
        "flow");
  }
  for (const InternalTerm& term : functional.objective().internal) {
    if (term.form == InternalTerm::Form::entropy && term.weight >= 0) continue;
    throw ValueError(
        "descent: langevin with an internal energy that is no entropy of weight at least 0; noise stands for "
        "such "
        "entropies alone, use a flow");
  }
}

}  // namespace

Descent::Descent(const Functional& functional, Matrix<double> x, DescentOptions options) {
  if (functional.empty()) throw ValueError("descent: the functional has no terms");
  if (functional.depends_on_time()) {
    throw ValueError(
        "descent: V depends on `time`, which neither descent nor langevin follows; write one without, or use "
        "a flow");
  }
  check_internal(functional, options.method);
  if (x.rows() < 1 || x.cols() < 1) throw ValueError("descent: no particles; at least one is needed");
  if (functional.dimension() != 0 && functional.dimension() != x.cols()) {
    throw ShapeError("descent: the functional is for dimension " + std::to_string(functional.dimension()) +
                     ", the particles have dimension " + std::to_string(x.cols()));
  }
  for (const double value : x.elements()) {
    if (!std::isfinite(value))
      throw ValueError("descent: a particle has the coordinate " + show(value) + "; it must be finite");
  }
  if (!(options.rate > 0) || !std::isfinite(options.rate))
    throw ValueError("descent: rate = " + show(options.rate) + "; it must be above 0");
  state_ = std::make_unique<State>(functional, std::move(x), std::move(options));
}

Descent::~Descent() = default;
Descent::Descent(Descent&&) noexcept = default;
Descent& Descent::operator=(Descent&&) noexcept = default;

void Descent::step() {
  State& s = *state_;
  const DeviceScope scope(s.options.device);
  s.sinkhorn.add(s.evaluation.force(s.x, s.force, s.team));
  for (const double value : s.force.elements()) {
    if (!std::isfinite(value)) {
      throw NumericalError("descent: the gradient is not finite after " + std::to_string(s.steps) +
                           " steps of rate = " + show(s.options.rate) + "; use a lower rate");
    }
  }
  if (s.options.method == DescentOptions::Method::langevin) {
    const double rate = s.options.rate, spread = std::sqrt(2 * rate * s.diffusion);
    const Random random(s.options.seed, RandomStream::fresh);
    const Index d = s.x.cols();
    for (Index i = 0; i < s.x.rows(); ++i) {
      for (Index c = 0; c < d; c += 2) {
        const std::array<double, 2> noise =
            random.normals(static_cast<std::uint32_t>(s.steps), static_cast<std::uint32_t>(c),
                           static_cast<std::uint64_t>(i));
        s.x(i, c) += spread * noise[0] - rate * s.force(i, c);
        if (c + 1 < d) s.x(i, c + 1) += spread * noise[1] - rate * s.force(i, c + 1);
      }
    }
    ++s.steps;
    return;
  }
  const double share = 1 / static_cast<double>(s.x.rows());
  AdamOptions adam;
  adam.rate = s.options.rate;
  AdamStep<double> update(adam, s.steps, 1);
  for (std::size_t k = 0; k < s.x.elements().size(); ++k) {
    const double gradient = share * s.force.elements()[k];
    double& x = s.x.elements()[k];
    if (s.options.method == DescentOptions::Method::sgd) {
      x -= s.options.rate * gradient;
    } else {
      update.update(x, s.first_moment.elements()[k], s.second_moment.elements()[k], gradient,
                    -std::numeric_limits<double>::infinity(), 1);
    }
  }
  ++s.steps;
}

int Descent::steps() const {
  return state_->steps;
}
const SinkhornReport& Descent::sinkhorn() const {
  return state_->sinkhorn;
}
const Matrix<double>& Descent::x() const {
  return state_->x;
}
ObjectiveValue Descent::functional() const {
  State& s = *state_;
  const DeviceScope scope(s.options.device);
  return s.evaluation.value(s.x, {}, 0, s.team);
}

double Descent::curvature() const {
  State& s = *state_;
  const DeviceScope scope(s.options.device);
  // One of its own: divergences start from the plans of the call before, and steps are to keep theirs.
  CloudObjective evaluation(s.objective, backend<double>(s.options.device));
  const Index n = s.x.rows(), d = s.x.cols();
  std::vector<double> mean;
  double scale = 1, largest = 0;
  location_and_scale(s.x, mean, scale);
  for (const double value : s.x.elements()) largest = std::max(largest, std::abs(value));
  // A part of the cloud, and no rounding of its coordinates.
  const double width = std::max(1e-4 * scale, 1e-8 * largest);
  const Random random(s.options.seed, RandomStream::fresh);
  Matrix<double> direction(n, d), ahead(n, d), behind(n, d), at(n, d);
  for (Index i = 0; i < n; ++i) {
    for (Index c = 0; c < d; ++c)
      direction(i, c) = random.normals(0, static_cast<std::uint32_t>(c), static_cast<std::uint64_t>(i))[0];
  }
  std::vector<double> size(static_cast<std::size_t>(n));
  const auto normalise = [&] {
    for (Index i = 0; i < n; ++i) {
      double squares = 0;
      for (Index c = 0; c < d; ++c) squares += direction(i, c) * direction(i, c);
      size[i] = std::sqrt(squares);
      for (Index c = 0; c < d; ++c) direction(i, c) = size[i] > 0 ? direction(i, c) / size[i] : 0;
    }
  };
  const auto moved = [&](double by, Matrix<double>& force) {
    for (std::size_t k = 0; k < at.elements().size(); ++k)
      at.elements()[k] = s.x.elements()[k] + by * direction.elements()[k];
    evaluation.force(at, force, s.team);
  };
  normalise();
  const int rounds = d == 1 ? 1 : 12;
  for (int round = 0; round < rounds; ++round) {
    moved(width, ahead);
    moved(-width, behind);
    for (std::size_t k = 0; k < at.elements().size(); ++k)
      direction.elements()[k] = (ahead.elements()[k] - behind.elements()[k]) / (2 * width);
    normalise();
  }
  if (!std::all_of(size.begin(), size.end(), [](double value) { return std::isfinite(value); }))
    return std::numeric_limits<double>::quiet_NaN();
  // A difference over a kink, as of |x|, has no bound; few particles have one between.
  const auto most = size.begin() + static_cast<std::ptrdiff_t>(0.9 * static_cast<double>(n - 1));
  std::nth_element(size.begin(), most, size.end());
  return *most;
}

}  // namespace brenier
