// SPDX-License-Identifier: MIT
#include "brenier/flow_density.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include "brenier/base/error.hpp"
#include "brenier/device.hpp"
#include "engine/src/checks/shape_check.hpp"
#include "engine/src/flow/origins.hpp"
#include "kernels/base/moments.hpp"
#include "kernels/base/show.hpp"
#include "kernels/base/subset.hpp"
#include "kernels/operations.hpp"

namespace brenier {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// Root mean square distance of the rows from their mean, 1 where they are all in one place.
double spread(const Matrix<double>& x) {
  return usable_scale(moments(x).deviation * std::sqrt(static_cast<double>(x.cols())));
}

Index count(const std::vector<InverseStatus>& status, InverseStatus which) {
  return std::count(status.begin(), status.end(), which);
}

}  // namespace

struct FlowDensity::State {
  std::vector<BrenierMap> maps;
  std::vector<std::size_t> ends;  // ends[k]: maps in the first k steps
  std::optional<Density> initial;
  Function rho0;
  Matrix<double> particles;
  FlowDensityOptions options;
  OriginOptions origin;
  Team team;
  std::optional<Carried> carried;  // the particles after `carried_step`
  int carried_step = 0;

  State(std::vector<BrenierMap> all, std::optional<Density> density, Function function, Matrix<double> points,
        FlowDensityOptions o);

  Index dim() const { return particles.cols(); }
  int steps() const { return static_cast<int>(ends.size()) - 1; }
  Maps upto(int step) const;
  void check(MatrixView<const double> points) const;
  const Carried& carry_particles(int step);
  Trajectory carry_points(Maps from, Cloud cloud);
  Origins origins(MatrixView<const double> y, int step, std::vector<double>* log_density);
  double log_rho0(const double* x) const;
  template <class F>
  Mean mean(const F& values, Index n, std::uint64_t seed, int step);
};

FlowDensity::State::State(std::vector<BrenierMap> all, std::optional<Density> density, Function function,
                          Matrix<double> points, FlowDensityOptions o)
    : maps(std::move(all)),
      ends{0},
      initial(std::move(density)),
      rho0(std::move(function)),
      particles(std::move(points)),
      options(std::move(o)),
      team(options.threads) {
  if (!(options.tolerance > 0) || !std::isfinite(options.tolerance)) {
    throw ValueError("flow density: tolerance = " + show(options.tolerance) + "; it must be above 0");
  }
  if (options.iterations < 1) {
    throw ValueError("flow density: iterations = " + std::to_string(options.iterations) + "; at least 1");
  }
  if (options.particles < 1) {
    throw ValueError("flow density: particles = " + std::to_string(options.particles) + "; at least 1");
  }
  if (particles.rows() < 1 || particles.cols() < 1) throw ValueError("flow density: no particles are given");
  for (const double value : particles.elements()) {
    if (!std::isfinite(value)) throw ValueError("flow density: a particle has the coordinate " + show(value));
  }
  for (std::size_t m = 0; m < maps.size(); ++m) {
    if (maps[m].net.dim() != dim()) {
      throw ShapeError("flow density: map " + std::to_string(m + 1) + " is of dimension " +
                       std::to_string(maps[m].net.dim()) + ", the initial density of dimension " +
                       std::to_string(dim()));
    }
    check_parameters("flow density: map " + std::to_string(m + 1), maps[m].net, maps[m].theta);
    if (maps[m].closes_step) ends.push_back(m + 1);
  }
  if (ends.back() != maps.size()) {
    throw ValueError("flow density: the last map does not close a step; give the maps of whole steps");
  }
  if (!maps.empty() && is_extrapolated(maps.front())) {
    throw ValueError(
        "flow density: the first map starts from an extrapolation; give all maps from the start");
  }
  origin = {options.tolerance, options.iterations, spread(particles), &backend<double>(options.device)};
}

Maps FlowDensity::State::upto(int step) const {
  if (step == last) step = steps();
  if (step < 0 || step > steps()) {
    throw ValueError("flow density: step " + std::to_string(step) + " was asked for; there are " +
                     std::to_string(steps()));
  }
  return Maps(maps).first(ends[step]);
}

void FlowDensity::State::check(MatrixView<const double> points) const {
  if (points.cols != dim()) {
    throw ShapeError("flow density: the points have dimension " + std::to_string(points.cols) +
                     ", the flow is of dimension " + std::to_string(dim()));
  }
}

const Carried& FlowDensity::State::carry_particles(int step) {
  if (step == last) step = steps();
  if (!carried || carried_step != step) {
    carried = carry(upto(step), particles, *origin.ops, team);
    carried_step = step;
  }
  return *carried;
}

Trajectory FlowDensity::State::carry_points(Maps through, Cloud cloud) {
  const DeviceScope scope(options.device);
  Trajectory out(std::move(cloud), std::any_of(through.begin(), through.end(), is_extrapolated));
  out.run_on(*origin.ops);
  for (const BrenierMap& map : through) out.advance(map, team);
  return out;
}

double FlowDensity::State::log_rho0(const double* x) const {
  const std::span<const double> point(x, static_cast<std::size_t>(dim()));
  return initial ? initial->log_density(point) : rho0(point);
}

FlowDensity::Origins FlowDensity::State::origins(MatrixView<const double> y, int step,
                                                 std::vector<double>* log_density) {
  check(y);
  const DeviceScope scope(options.device);
  const Maps through = upto(step);
  const bool second_order = std::any_of(through.begin(), through.end(), is_extrapolated);
  Origins out{Matrix<double>(y.rows, dim(), std::numeric_limits<double>::quiet_NaN()), {}, 0};
  if (log_density) log_density->assign(y.rows, -kInfinity);
  // Second order keeps d^2 numbers a point, several times.
  const Index block = std::clamp<Index>((Index{1} << 22) / (second_order ? dim() * dim() : dim()), 64, 65536);
  for (Index begin = 0; begin < y.rows; begin += block) {
    const Index rows = std::min(block, y.rows - begin);
    const MatrixView<const double> part = y.rows_from(begin, rows);
    const MatrixView<double> x = out.x.view().rows_from(begin, rows);
    std::vector<InverseStatus> status =
        second_order ? origins_by_trajectory(through, particles, carry_particles(step), part, x, origin, team)
                     : origins_by_map(through, part, x, origin, team);
    // What has an origin is carried back from it: for its density, and as a check.
    std::vector<Index> found;
    for (Index i = 0; i < rows; ++i) {
      bool finite = true, nan = false;
      for (Index c = 0; c < dim(); ++c) {
        finite = finite && std::isfinite(part(i, c));
        nan = nan || std::isnan(part(i, c));
      }
      // The density at infinity is 0; of NaN nothing is known.
      if (!finite) status[i] = nan ? InverseStatus::unconverged : InverseStatus::outside;
      if (nan && log_density) (*log_density)[begin + i] = std::numeric_limits<double>::quiet_NaN();
      if (status[i] == InverseStatus::converged) found.push_back(i);
    }
    if (!found.empty()) {
      Cloud cloud{Matrix<double>(static_cast<Index>(found.size()), dim()), {}};
      for (std::size_t k = 0; k < found.size(); ++k) {
        std::copy_n(x.row(found[k]), dim(), cloud.x.row(static_cast<Index>(k)));
        if (log_density) cloud.log_density.push_back(log_rho0(x.row(found[k])));
      }
      const Trajectory end = carry_points(through, std::move(cloud));
      for (std::size_t k = 0; k < found.size(); ++k) {
        double square = 0;
        for (Index c = 0; c < dim(); ++c) {
          const double error = end.x()(static_cast<Index>(k), c) - part(found[k], c);
          square += error * error;
        }
        if (log_density && std::isnan(end.log_density()[k])) {  // H is singular to rounding
          status[found[k]] = InverseStatus::unconverged;
          continue;
        }
        out.worst_round_trip = std::max(out.worst_round_trip, std::sqrt(square));
        if (log_density) (*log_density)[begin + found[k]] = end.log_density()[k];
      }
    }
    for (Index i = 0; i < rows; ++i) {
      if (status[i] != InverseStatus::converged) {
        std::fill_n(x.row(i), dim(), std::numeric_limits<double>::quiet_NaN());
      }
    }
    out.status.insert(out.status.end(), status.begin(), status.end());
  }
  return out;
}

/// `values(points, out)` writes a number for each row.
template <class F>
FlowDensity::Mean FlowDensity::State::mean(const F& values, Index n, std::uint64_t seed, int step) {
  if (n < 2) throw ValueError("flow density: a mean over " + std::to_string(n) + " particles; at least 2");
  if (!initial) throw ValueError("flow density: the initial density cannot be sampled; give a Density");
  const Maps through = upto(step);
  const DeviceScope scope(options.device);
  Matrix<double> x = initial->sample(n, Sampling::random, seed).x;
  std::vector<double> f(n);
  const Index block = std::clamp<Index>((Index{1} << 22) / (dim() * dim()), 64, 65536);
  for (Index begin = 0; begin < n; begin += block) {
    const Index rows = std::min(block, n - begin);
    Cloud cloud{Matrix<double>(rows, dim()), {}};
    std::copy_n(x.row(begin), rows * dim(), cloud.x.data());
    values(carry_points(through, std::move(cloud)).x(), f.data() + begin);
  }
  double sum = 0, squares = 0;
  for (const double value : f) sum += value;
  const double centre = sum / static_cast<double>(n);
  for (const double value : f) squares += (value - centre) * (value - centre);
  const double count = static_cast<double>(n);
  return {centre, std::sqrt(squares / (count - 1) / count)};
}

FlowDensity::FlowDensity(std::vector<BrenierMap> maps, Density initial, FlowDensityOptions options) {
  Matrix<double> particles = initial.sample(std::max<Index>(options.particles, 1), Sampling::stratified).x;
  state_ =
      std::make_unique<State>(std::move(maps), std::move(initial), Function(), std::move(particles), options);
}

FlowDensity::FlowDensity(std::vector<BrenierMap> maps, Function log_density, Matrix<double> particles,
                         FlowDensityOptions options)
    : state_(std::make_unique<State>(std::move(maps), std::nullopt, std::move(log_density),
                                     subset(particles, std::max<Index>(options.particles, 1), 0), options)) {}

FlowDensity::~FlowDensity() = default;
FlowDensity::FlowDensity(FlowDensity&&) noexcept = default;
FlowDensity& FlowDensity::operator=(FlowDensity&&) noexcept = default;

int FlowDensity::dim() const {
  return static_cast<int>(state_->dim());
}
int FlowDensity::steps() const {
  return state_->steps();
}

Index FlowDensity::Origins::count(InverseStatus which) const {
  return brenier::count(status, which);
}
Index FlowDensity::LogDensities::count(InverseStatus which) const {
  return brenier::count(status, which);
}

FlowDensity::Origins FlowDensity::pull(MatrixView<const double> y, int step) const {
  return state_->origins(y, step, nullptr);
}

FlowDensity::LogDensities FlowDensity::log_density(MatrixView<const double> y, int step) const {
  if (!state_->initial && !state_->rho0) {
    throw ValueError("flow density: the initial density is not known, so no other one is; pull() works");
  }
  LogDensities out;
  Origins origins = state_->origins(y, step, &out.values);
  out.status = std::move(origins.status);
  out.worst_round_trip = origins.worst_round_trip;
  return out;
}

Matrix<double> FlowDensity::push(MatrixView<const double> x, int step) const {
  state_->check(x);
  Matrix<double> start(x.rows, x.cols);
  const auto through = state_->upto(step);
  if (x.rows == 0) return start;
  for (Index i = 0; i < x.rows; ++i) std::copy_n(x.row(i), x.cols, start.row(i));
  return state_->carry_points(through, Cloud{std::move(start), {}}).x();
}

Cloud FlowDensity::sample(Index n, Sampling how, std::uint64_t seed, int step) const {
  const Maps through = state_->upto(step);
  if (!state_->initial)
    throw ValueError("flow density: the initial density cannot be sampled; give a Density");
  const Trajectory end = state_->carry_points(through, state_->initial->sample(n, how, seed));
  return {end.x(), end.log_density()};
}

FlowDensity::Mean FlowDensity::expectation(const Function& f, Index n, std::uint64_t seed, int step) const {
  return state_->mean(
      [&](const Matrix<double>& x, double* out) {
        for (Index i = 0; i < x.rows(); ++i) {
          out[i] = f(std::span<const double>(x.row(i), static_cast<std::size_t>(x.cols())));
        }
      },
      n, seed, step);
}

FlowDensity::Mean FlowDensity::expectation(const Expression& potential, Index n, std::uint64_t seed,
                                           int step) const {
  if (potential.kind() != Expression::Kind::potential || potential.dimension() != dim()) {
    throw ShapeError("flow density: a mean of an expression that is no potential in dimension " +
                     std::to_string(dim()));
  }
  return state_->mean(
      [&](const Matrix<double>& x, double* out) {
        state_->origin.ops->evaluate_program(potential.program(), x, out, {}, state_->team);
      },
      n, seed, step);
}

}  // namespace brenier
