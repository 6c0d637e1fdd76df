// SPDX-License-Identifier: MIT
#include "tools/runs/reference.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

namespace brenier::app {
namespace {

std::vector<double> quantiles_of(const Density& density, Index n) {
  if (density.dim() != 1) return {};
  return density.sample(n, Sampling::stratified).x.elements();
}

std::vector<double> density_at(const Density& density, const std::vector<double>& x) {
  if (density.dim() != 1) return {};
  std::vector<double> out =
      density.log_density(MatrixView<const double>(x.data(), static_cast<Index>(x.size()), 1));
  for (double& value : out) value = std::exp(value);
  return out;
}

/// A factor `weight` of F is a factor of time.
class PorousReference : public Reference {
 public:
  PorousReference(const Config& config, const BarenblattOptions& options,
                  const Functional::PorousMedium& form)
      : form_(form),
        mass_(options.mass),
        initial_(Density::barenblatt(options)),
        flow_(Barenblatt(options.dim, options.m, options.mass), options.time, form.stiffness / form.weight),
        iterates_(flow_.iterates(form.weight * config.flow.tau, config.equal_steps(), config.flow.order)) {}

  std::string name() const override { return "Barenblatt"; }
  Known exact(double elapsed) const override { return at(flow_.exact(form_.weight * elapsed)); }
  Known scheme(int step) const override { return at(iterates_.at(step)); }
  std::vector<double> exact_quantiles(double elapsed, Index n) const override {
    return scaled(flow_.exact(form_.weight * elapsed), n);
  }
  std::vector<double> scheme_quantiles(int step, Index n) const override {
    return scaled(iterates_.at(step), n);
  }
  std::vector<double> exact_density(double elapsed, const std::vector<double>& x) const override {
    const double scale = flow_.exact(form_.weight * elapsed);
    std::vector<double> at_start = x;
    for (double& value : at_start) value /= scale;
    std::vector<double> out = density_at(initial_, at_start);
    for (double& value : out) value /= scale;
    return out;
  }

 private:
  Known at(double scale) const {
    return {form_.weight * flow_.energy(scale) + form_.constant * mass_, flow_.standard_deviation(scale)};
  }
  std::vector<double> scaled(double scale, Index n) const {
    std::vector<double> out = quantiles_of(initial_, n);
    for (double& value : out) value *= scale;
    return out;
  }

  Functional::PorousMedium form_;
  double mass_;
  Density initial_;
  BarenblattFlow flow_;
  std::vector<double> iterates_;
};

/// Solves A b = g by elimination with row exchanges; nothing where A is singular and g is not 0.
std::optional<std::vector<double>> solve(Matrix<double> a, std::vector<double> g) {
  const Index d = a.rows();
  if (std::all_of(g.begin(), g.end(), [](double value) { return value == 0; })) return g;
  double largest = 0;
  for (const double value : a.elements()) largest = std::max(largest, std::abs(value));
  for (Index k = 0; k < d; ++k) {
    Index pivot = k;
    for (Index i = k + 1; i < d; ++i) {
      if (std::abs(a(i, k)) > std::abs(a(pivot, k))) pivot = i;
    }
    if (!(std::abs(a(pivot, k)) > 1e-12 * largest)) return std::nullopt;
    for (Index j = 0; j < d; ++j) std::swap(a(k, j), a(pivot, j));
    std::swap(g[k], g[pivot]);
    for (Index i = k + 1; i < d; ++i) {
      const double factor = a(i, k) / a(k, k);
      for (Index j = k; j < d; ++j) a(i, j) -= factor * a(k, j);
      g[i] -= factor * g[k];
    }
  }
  for (Index k = d - 1; k >= 0; --k) {
    for (Index j = k + 1; j < d; ++j) g[k] -= a(k, j) * g[j];
    g[k] /= a(k, k);
  }
  return g;
}

class GaussianReference : public Reference {
 public:
  GaussianReference(const Config& config, const Functional::Gaussian& form, const std::vector<double>& centre)
      : initial_(*config.cloud.gaussian), flow_(form.potential.hessian, centre, form.diffusion) {
    constant_ = form.potential.constant;
    for (std::size_t c = 0; c < centre.size(); ++c) constant_ -= 0.5 * form.potential.linear[c] * centre[c];
    iterates_ = flow_.iterates(initial_, config.flow.tau, config.equal_steps(), config.flow.order);
  }

  std::string name() const override { return "Gaussian"; }
  Known exact(double elapsed) const override { return at(flow_.exact(initial_, elapsed)); }
  Known scheme(int step) const override { return at(iterates_.at(step)); }
  std::vector<double> exact_quantiles(double elapsed, Index n) const override {
    return quantiles_of(density(flow_.exact(initial_, elapsed)), n);
  }
  std::vector<double> scheme_quantiles(int step, Index n) const override {
    return quantiles_of(density(iterates_.at(step)), n);
  }
  std::vector<double> exact_density(double elapsed, const std::vector<double>& x) const override {
    return density_at(density(flow_.exact(initial_, elapsed)), x);
  }

 private:
  static Density density(const GaussianState& state) {
    return Density::gaussian(state.mean, state.covariance);
  }
  Known at(const GaussianState& state) const {
    double trace = 0;
    for (Index c = 0; c < state.covariance.rows(); ++c) trace += state.covariance(c, c);
    return {flow_.energy(state) + constant_, std::sqrt(trace / static_cast<double>(state.covariance.rows()))};
  }

  GaussianState initial_;
  GaussianFlow flow_;
  double constant_ = 0;
  std::vector<GaussianState> iterates_;
};

/// What [exact] says: a density in x and time, and numbers of the steady state. No curve, no iterates.
class StatedReference : public Reference {
 public:
  explicit StatedReference(const Config& config)
      : exact_(config.exact),
        parameters_(config.parameters),
        dim_(config.cloud.dim),
        start_(config.flow.start_time),
        end_(config.duration()),
        mass_(config.flow.mass) {}

  std::string name() const override { return "[exact]"; }
  Known exact(double elapsed) const override {
    Known out;
    if (elapsed < end_ * (1 - 1e-9)) return out;  // they are about the end of a flow
    if (exact_.functional) out.functional = *exact_.functional;
    if (exact_.deviation) out.deviation = *exact_.deviation;
    return out;
  }
  Known scheme(int) const override { return {}; }
  std::vector<double> scheme_quantiles(int, Index) const override { return {}; }
  std::vector<double> exact_density(double elapsed, const std::vector<double>& x) const override {
    if (exact_.density.empty() || dim_ != 1) return {};
    if (exact_.steady && elapsed < end_ * (1 - 1e-9)) return {};
    Parameters parameters = parameters_;
    if (!exact_.steady) parameters["time"] = Parameter::scalar(start_ + elapsed);
    const Expression rho = Expression::potential(exact_.density, 1, parameters);
    std::vector<double> out;
    out.reserve(x.size());
    for (const double value : x) {
      const double density = rho.value({&value, 1});
      out.push_back(density > 0 ? density : 0);  // also where a root of a negative number gave NaN
    }
    return out;
  }
  std::vector<double> exact_quantiles(double elapsed, Index n) const override {
    // The support is found by widening until the mass no longer grows and is that of the flow: a mass that
    // settles early lies before a gap. Then the cumulated trapezoids are inverted.
    constexpr Index cells = 200'000;
    double width = 1, mass = -1;
    bool whole = false;
    std::vector<double> x(cells + 1), total(cells + 1);
    for (int round = 0; round < 24; ++round, width *= 1.5) {
      for (Index i = 0; i <= cells; ++i) x[i] = width * (2.0 * static_cast<double>(i) / cells - 1);
      const std::vector<double> rho = exact_density(elapsed, x);
      if (rho.empty()) return {};
      total[0] = 0;
      for (Index i = 1; i <= cells; ++i)
        total[i] = total[i - 1] + 0.5 * (rho[i - 1] + rho[i]) * (x[i] - x[i - 1]);
      const bool settled = mass > 0 && std::abs(total[cells] - mass) <= 1e-7 * mass;
      mass = total[cells];
      whole = settled && std::abs(mass - mass_) <= 1e-2 * mass_;
      if (whole) break;
    }
    if (!whole) return {};
    std::vector<double> out(n);
    Index cell = 0;
    for (Index i = 0; i < n; ++i) {
      const double wanted = mass * (static_cast<double>(i) + 0.5) / static_cast<double>(n);
      while (cell + 1 < cells && total[cell + 1] < wanted) ++cell;
      const double inside =
          total[cell + 1] > total[cell] ? (wanted - total[cell]) / (total[cell + 1] - total[cell]) : 0;
      out[i] = x[cell] + inside * (x[cell + 1] - x[cell]);
    }
    return out;
  }

 private:
  ExactConfig exact_;
  Parameters parameters_;
  int dim_;
  double start_, end_, mass_;
};

std::unique_ptr<Reference> closed_form(const Config& config) {
  const ExactConfig& stated = config.exact;
  if (stated.functional || stated.deviation || !stated.density.empty())
    return std::make_unique<StatedReference>(config);
  if (config.cloud.barenblatt) {
    const std::optional<Functional::PorousMedium> form = config.functional.porous_medium(config.cloud.dim);
    if (form && form->m == config.cloud.barenblatt->m) {
      return std::make_unique<PorousReference>(config, *config.cloud.barenblatt, *form);
    }
  }
  if (config.cloud.gaussian) {
    const std::optional<Functional::Gaussian> form = config.functional.gaussian(config.cloud.dim);
    if (form && form->diffusion >= 0) {
      const auto centre = solve(form->potential.hessian, form->potential.linear);
      if (centre) return std::make_unique<GaussianReference>(config, *form, *centre);
    }
  }
  return nullptr;
}

constexpr double kUnbounded = -std::numeric_limits<double>::infinity();

double porous_infimum(const Functional::PorousMedium& form, int dim, double mass) {
  if (form.stiffness == 0) return form.constant * mass;
  const PorousSteadyState steady = porous_steady_state(dim, form.m, form.stiffness / form.weight, mass);
  return form.weight * steady.energy + form.constant * mass;
}

double gaussian_infimum(const Functional::Gaussian& form, double mass) {
  const Quadratic& v = form.potential;
  const auto centre = solve(v.hessian, v.linear);
  if (!centre || form.diffusion < 0) return kUnbounded;
  double constant = v.constant;
  for (std::size_t c = 0; c < centre->size(); ++c) constant -= 0.5 * v.linear[c] * (*centre)[c];
  // F(M rho) = M F(rho) + diffusion M log M for the law rho of the particles.
  const double infimum = GaussianFlow(v.hessian, *centre, form.diffusion).infimum();
  return mass * (infimum + constant + form.diffusion * std::log(mass));
}

}  // namespace

std::unique_ptr<Reference> find_reference(const Config& config) {
  try {
    std::unique_ptr<Reference> found = closed_form(config);
    if (found) {
      static_cast<void>(found->exact(config.duration()));
      static_cast<void>(found->scheme(config.equal_steps()));
    }
    return found;
  } catch (const Error&) {
    // For example I + tau A not positive definite: the problem may be fine for a network, but has no closed
    // form.
    return nullptr;
  }
}

double known_infimum(const Config& config) {
  if (config.exact.functional) return *config.exact.functional;
  const int dim = config.cloud.dim;
  try {
    if (const std::optional<Functional::Gaussian> form = config.functional.gaussian(dim))
      return gaussian_infimum(*form, config.cloud.mass());
    if (const std::optional<Functional::PorousMedium> form = config.functional.porous_medium(dim))
      return porous_infimum(*form, dim, config.cloud.mass());
    // F(M rho) = M F(rho) + weight M log M for the law rho of the particles.
    if (const std::optional<double> weight = config.functional.relative_entropy(dim))
      return *weight * config.cloud.mass() * std::log(config.cloud.mass());
  } catch (const Error&) {
    // No bound, no warning.
  }
  return kUnbounded;
}

}  // namespace brenier::app
