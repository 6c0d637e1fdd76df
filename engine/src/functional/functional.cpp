// SPDX-License-Identifier: MIT
#include "brenier/functional.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>

#include "brenier/base/error.hpp"
#include "kernels/base/show.hpp"
#include "kernels/model/divergence.hpp"

namespace brenier {
namespace {

/// The fast form of an interaction where it has one.
PairKernel pair_kernel(const Expression& w) {
  PairKernel kernel;
  if (!w.is_radial()) {
    kernel.form = PairKernel::Form::vector;
    kernel.program = w.program();
    return kernel;
  }
  const std::optional<PowerLog> form = w.power_log();
  bool fast = form.has_value();
  if (fast) {
    kernel.constant = form->constant;
    kernel.log_coefficient = form->log;
    for (const auto& [exponent, coefficient] : form->powers) {
      fast = fast && exponent == 2;
      if (exponent == 2) kernel.quadratic = coefficient;
    }
  }
  if (fast) return kernel;
  kernel = {};
  kernel.form = PairKernel::Form::radial;
  kernel.program = w.program();
  return kernel;
}

/// The terms of an internal energy: entropies and powers one by one, anything else as programs.
void add_internal(const Expression& f, double weight, std::vector<InternalTerm>& terms) {
  const std::optional<EntropyPower> form = f.entropy_power();
  bool fast = form.has_value();
  if (fast) {
    for (const auto& [exponent, coefficient] : form->powers) fast = fast && exponent != 1;  // t^1: a constant
  }
  if (!fast) {
    InternalTerm term;
    term.weight = weight;
    term.form = InternalTerm::Form::general;
    term.program = f.program();
    term.surrogate = f.weight();
    terms.push_back(term);
    return;
  }
  const auto add = [&](InternalTerm::Form kind, double factor, double exponent) {
    InternalTerm term;
    term.weight = weight * factor;
    term.form = kind;
    term.exponent = exponent;
    terms.push_back(term);
  };
  if (form->entropy != 0) add(InternalTerm::Form::entropy, form->entropy, 1);
  for (const auto& [m, coefficient] : form->powers) add(InternalTerm::Form::power, coefficient * (m - 1), m);
}

/// program += weight * other: the code of both, and the two sums at its end.
void add_program(Program& program, const Program& other, double weight) {
  const int shift = static_cast<int>(program.code.size());
  const Index constants = static_cast<Index>(program.constants.size());
  for (Instruction step : other.code) {
    if (step.a >= 0) step.a += shift;
    if (step.b >= 0) step.b += shift;
    if (step.op == OpCode::constant || step.op == OpCode::matvec) step.offset += constants;
    program.code.push_back(step);
  }
  program.constants.insert(program.constants.end(), other.constants.begin(), other.constants.end());
  program.input_size = other.input_size;
  const auto append = [&](OpCode op, int size, int a, int b, Index offset) {
    program.code.push_back({op, size, a, b, offset});
    return static_cast<int>(program.code.size()) - 1;
  };
  program.constants.push_back(weight);
  const int factor = append(OpCode::constant, 1, -1, -1, static_cast<Index>(program.constants.size()) - 1);
  const int value = append(OpCode::mul, 1, other.value + shift, factor, 0);
  const int gradient = append(OpCode::mul, other.input_size, other.gradient + shift, factor, 0);
  if (program.value < 0) {
    program.value = value;
    program.gradient = gradient;
  } else {
    program.value = append(OpCode::add, 1, program.value, value, 0);
    program.gradient = append(OpCode::add, other.input_size, program.gradient, gradient, 0);
  }
}

}  // namespace

Functional::Functional(Expression expression) {
  const std::string text = expression.text().empty() ? "(C++ function)" : expression.text();
  switch (expression.kind()) {
    case Expression::Kind::potential:
      terms_.push_back({Potential{std::move(expression)}, "potential " + text});
      break;
    case Expression::Kind::interaction:
      terms_.push_back({Interaction{std::move(expression)}, "interaction " + text});
      break;
    case Expression::Kind::internal:
      terms_.push_back({Internal{std::move(expression)}, "internal " + text});
      break;
  }
}

// --- what the kinds of terms are ---------------------------------------------------------------------------

void Functional::Potential::add_to(Objective& objective, double weight, double) const {
  add_program(objective.potential, v.program(), weight);
}

void Functional::TimePotential::add_to(Objective&, double, double) const {
  throw ValueError("functional: a potential depends on time; take the functional at one, f.at(time)");
}

void Functional::Interaction::add_to(Objective& objective, double weight, double mass) const {
  objective.interaction.push_back({weight * mass, pair_kernel(w)});
}

void Functional::Internal::add_to(Objective& objective, double weight, double) const {
  add_internal(f, weight, objective.internal);
}

void Functional::Network::add_to(Objective& objective, double weight, double) const {
  objective.network.push_back(term);
  objective.network.back().weight = weight;
}

void Functional::Divergence::add_to(Objective& objective, double weight, double) const {
  objective.divergence.push_back(term);
  objective.divergence.back().weight = weight;
}

void Functional::BlackBox::add_to(Objective& objective, double weight, double) const {
  objective.black_box.push_back(term);
  objective.black_box.back().weight = weight;
}

/// c of c r log r, if f is that.
static std::optional<double> factor_of_entropy(const Expression& f) {
  const std::optional<EntropyPower> e = f.entropy_power();
  if (!e || !e->powers.empty()) return std::nullopt;
  return e->entropy;
}

bool Functional::Potential::add_to(Gaussian& form, double weight, int dim) const {
  const std::optional<Quadratic> q = v.quadratic();
  if (!q || v.dimension() != dim) return false;
  for (int k = 0; k < dim * dim; ++k) {
    form.potential.hessian.elements()[k] += weight * q->hessian.elements()[k];
  }
  for (int c = 0; c < dim; ++c) form.potential.linear[c] += weight * q->linear[c];
  form.potential.constant += weight * q->constant;
  return true;
}

bool Functional::Internal::add_to(Gaussian& form, double weight, int) const {
  const std::optional<double> entropy = factor_of_entropy(f);
  if (!entropy) return false;
  form.diffusion += weight * *entropy;
  return true;
}

bool Functional::Potential::add_to(PorousMedium& form, double weight, int dim) const {
  const std::optional<Quadratic> q = v.quadratic();
  if (!q || v.dimension() != dim) return false;
  for (int i = 0; i < dim; ++i) {
    if (q->linear[i] != 0) return false;
    for (int j = 0; j < dim; ++j) {
      if (q->hessian(i, j) != (i == j ? q->hessian(0, 0) : 0.0)) return false;
    }
  }
  form.stiffness += weight * q->hessian(0, 0);
  form.constant += weight * q->constant;
  return true;
}

bool Functional::Internal::add_to(PorousMedium& form, double weight, int) const {
  const std::optional<EntropyPower> e = f.entropy_power();
  if (!e || e->entropy != 0 || e->powers.size() != 1) return false;
  const auto [m, coefficient] = e->powers[0];
  if (!(m > 1) || (form.m != 0 && form.m != m)) return false;
  form.m = m;
  form.weight += weight * coefficient * (m - 1);
  return true;
}

bool Functional::Potential::add_to(RelativeEntropy& form, double weight, int dim) const {
  if (!normalised || form.potential != 0 || v.dimension() != dim) return false;
  form.potential = weight;
  return true;
}

bool Functional::Internal::add_to(RelativeEntropy& form, double weight, int) const {
  const std::optional<double> entropy = factor_of_entropy(f);
  if (!entropy) return false;
  form.entropy += weight * *entropy;
  return true;
}

// --- what the sum is ---------------------------------------------------------------------------------------

int Functional::dimension() const {
  for (const Term& term : terms_) {
    if (const int d = std::visit([](const auto& kind) { return kind.dimension(); }, term.kind); d != 0)
      return d;
  }
  return 0;
}

bool Functional::needs_density() const {
  return std::any_of(terms_.begin(), terms_.end(), [](const Term& term) {
    return std::visit([](const auto& kind) { return kind.needs_density(); }, term.kind);
  });
}

bool Functional::depends_on_time() const {
  return !terms_of<TimePotential>().empty();
}

Functional Functional::at(double time) const {
  Functional out = *this;
  for (Term& term : out.terms_) {
    if (const auto* moving = std::get_if<TimePotential>(&term.kind)) term.kind = Potential{moving->at(time)};
  }
  return out;
}

std::string Functional::describe() const {
  std::string out;
  for (const Term& term : terms_) out += (out.empty() ? "" : " + ") + show(term.weight) + " * " + term.text;
  return out.empty() ? "0" : out;
}

Objective Functional::objective(double mass) const {
  Objective objective;
  for (const Term& term : terms_) {
    std::visit([&](const auto& kind) { kind.add_to(objective, term.weight, mass); }, term.kind);
  }
  return objective;
}

std::optional<Functional::Gaussian> Functional::gaussian(int dim) const {
  Gaussian form;
  form.potential.hessian = Matrix<double>(dim, dim);
  form.potential.linear.assign(dim, 0.0);
  for (const Term& term : terms_) {
    if (!std::visit([&](const auto& kind) { return kind.add_to(form, term.weight, dim); }, term.kind))
      return std::nullopt;
  }
  return form;
}

std::optional<Functional::PorousMedium> Functional::porous_medium(int dim) const {
  PorousMedium form;
  for (const Term& term : terms_) {
    if (!std::visit([&](const auto& kind) { return kind.add_to(form, term.weight, dim); }, term.kind))
      return std::nullopt;
  }
  if (!(form.weight > 0) || form.stiffness < 0) return std::nullopt;
  return form;
}

std::optional<double> Functional::relative_entropy(int dim) const {
  RelativeEntropy form;
  for (const Term& term : terms_) {
    if (!std::visit([&](const auto& kind) { return kind.add_to(form, term.weight, dim); }, term.kind))
      return std::nullopt;
  }
  if (!(form.entropy > 0) || form.potential != form.entropy) return std::nullopt;
  return form.entropy;
}

Functional operator+(Functional a, const Functional& b) {
  const int da = a.dimension();
  const int db = b.dimension();
  if (da != 0 && db != 0 && da != db) {
    throw ShapeError("functional: a term for dimension " + std::to_string(db) +
                     " meets terms for dimension " + std::to_string(da));
  }
  a.terms_.insert(a.terms_.end(), b.terms_.begin(), b.terms_.end());
  return a;
}

Functional operator*(double factor, Functional f) {
  if (!std::isfinite(factor))
    throw ValueError("functional: weight " + show(factor) + " is not a finite number");
  for (Functional::Term& term : f.terms_) term.weight *= factor;
  return f;
}

Functional gaussian_mixture_potential(const Matrix<double>& means, const std::vector<double>& variances,
                                      const std::vector<double>& weights) {
  const Index parts = means.rows(), dim = means.cols();
  if (parts < 1 || dim < 1 || static_cast<Index>(variances.size()) != parts ||
      static_cast<Index>(weights.size()) != parts) {
    throw ShapeError("gaussian_mixture_potential: " + std::to_string(parts) + " means in dimension " +
                     std::to_string(dim) + ", " + std::to_string(variances.size()) + " variances and " +
                     std::to_string(weights.size()) + " weights; there must be one of each for a component");
  }
  double total = 0;
  for (Index k = 0; k < parts; ++k) {
    for (Index c = 0; c < dim; ++c) {
      if (!std::isfinite(means(k, c)))
        throw ValueError("gaussian_mixture_potential: mean " + std::to_string(k) + " is not finite");
    }
    for (const auto& [name, value] : {std::pair("variance", variances[k]), std::pair("weight", weights[k])}) {
      if (!(value > 0) || !std::isfinite(value))
        throw ValueError("gaussian_mixture_potential: " + std::string(name) + " " + std::to_string(k) +
                         " = " + show(value) + "; it must be above 0");
    }
    total += weights[k];
  }
  const Expression v = Expression::potential(static_cast<int>(dim), [&](Var x) {
    std::vector<Var> logs;
    for (Index k = 0; k < parts; ++k) {
      const Var from = x - std::vector<double>(means.row(k), means.row(k) + dim);
      const double constant = std::log(weights[k] / total) -
                              0.5 * static_cast<double>(dim) * std::log(2 * std::numbers::pi * variances[k]);
      logs.push_back(constant - dot(from, from) / (2 * variances[k]));
    }
    Var greatest = logs[0];
    for (const Var one : logs) greatest = max(greatest, one);
    Var sum = exp(logs[0] - greatest);
    for (Index k = 1; k < parts; ++k) sum = sum + exp(logs[k] - greatest);
    return -(greatest + log(sum));
  });
  return Functional(Functional::Term{
      Functional::Potential{v, true},
      "potential -log of " + std::to_string(parts) + (parts == 1 ? " Gaussian" : " Gaussians")});
}

Functional potential(const std::string& v, int dimension, const Parameters& parameters) {
  try {
    return Functional(Expression::potential(v, dimension, parameters));
  } catch (const ParseError&) {
    const auto at = [=](double time) {
      Parameters all = parameters;
      all["time"] = Parameter::scalar(time);
      return Expression::potential(v, dimension, all);
    };
    static_cast<void>(at(0));  // what the text lacks beside the time, it says
    return Functional(Functional::Term{Functional::TimePotential{at, dimension}, "potential " + v});
  }
}

Functional potential(int dimension, PotentialFunction v, const BlackBoxOptions& options) {
  if (!v) throw ValueError("potential " + options.name + ": no function");
  if (dimension < 1)
    throw ValueError("potential " + options.name + ": dimension " + std::to_string(dimension) +
                     "; it must be at least 1");
  BlackBoxTerm term;
  term.dim = dimension;
  term.function = std::make_shared<const PotentialFunction>(std::move(v));
  term.thread_safe = options.thread_safe;
  term.name = options.name;
  return Functional(Functional::Term{Functional::BlackBox{std::move(term)}, "potential " + options.name});
}

Functional interaction(const std::string& w, int dimension, const Parameters& parameters) {
  return Functional(Expression::interaction(w, dimension, parameters));
}

Functional internal(const std::string& f, const Parameters& parameters) {
  return Functional(Expression::internal(f, parameters));
}

Functional learned_potential(const LearnedPotential& v, const std::string& text) {
  if (static_cast<Index>(v.theta.size()) != v.net.parameters()) {
    throw ShapeError("learned potential: " + std::to_string(v.theta.size()) +
                     " parameters for a network of " + std::to_string(v.net.parameters()));
  }
  NetworkTerm term;
  term.net = std::make_shared<const Icnn>(v.net);
  term.theta = std::make_shared<const std::vector<double>>(v.theta);
  return Functional(Functional::Term{Functional::Network{std::move(term)}, "learned potential " + text});
}

Functional learned_potential(const std::filesystem::path& file) {
  return learned_potential(read_potential(file), file.filename().string());
}

namespace {

Functional distance(DivergenceTerm term, Matrix<double> reference, std::vector<double> weights,
                    const std::string& name) {
  const std::string text = name + " to " + std::to_string(reference.rows()) + " points";
  term.reference = std::make_shared<const Matrix<double>>(std::move(reference));
  term.reference_weights = std::move(weights);
  check_divergence(term, text.c_str());
  return Functional(Functional::Term{Functional::Divergence{std::move(term)}, text});
}

}  // namespace

Functional sinkhorn(Matrix<double> reference, const SinkhornOptions& options, std::vector<double> weights) {
  DivergenceTerm term;
  term.sinkhorn = options;
  const std::string name =
      options.debiased ? "sinkhorn divergence (epsilon " : "entropic transport (epsilon ";
  return distance(term, std::move(reference), std::move(weights), name + show(options.epsilon) + ")");
}

Functional mmd(Matrix<double> reference, double bandwidth, std::vector<double> weights) {
  DivergenceTerm term;
  term.form = DivergenceTerm::Form::mmd;
  term.bandwidth = bandwidth;
  return distance(term, std::move(reference), std::move(weights),
                  "MMD^2 (bandwidth " + show(bandwidth) + ")");
}

Functional energy_distance_to(Matrix<double> reference, std::vector<double> weights) {
  DivergenceTerm term;
  term.form = DivergenceTerm::Form::energy;
  return distance(term, std::move(reference), std::move(weights), "energy distance");
}

Functional entropy() {
  return internal("t*log(t)");
}

Functional porous_medium(double m) {
  if (!(m > 1) || !std::isfinite(m)) {
    throw ValueError("porous medium: m = " + show(m) + "; it must be above 1 (m = 1 is entropy())");
  }
  return internal("t^m/(m - 1)", {{"m", Parameter::scalar(m)}});
}

}  // namespace brenier
