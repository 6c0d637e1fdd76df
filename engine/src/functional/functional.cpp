// SPDX-License-Identifier: MIT
#include "brenier/functional.hpp"

#include <cmath>
#include <utility>

#include "brenier/base/error.hpp"
#include "kernels/base/show.hpp"
#include "kernels/model/divergence.hpp"

namespace brenier {
namespace {

const char* kind_name(Expression::Kind kind) {
  switch (kind) {
    case Expression::Kind::potential:
      return "potential";
    case Expression::Kind::interaction:
      return "interaction";
    case Expression::Kind::internal:
      break;
  }
  return "internal";
}

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
  const std::string name = std::string(kind_name(expression.kind())) + " " + text;
  terms_.push_back({1.0, std::move(expression), name});
}

Functional::Functional(Learned learned) : learned_{std::move(learned)} {}

Functional::Functional(Distance distance) : distances_{std::move(distance)} {
  check_divergence(distances_.front().term, distances_.front().text.c_str());
}

int Functional::dimension() const {
  if (!learned_.empty()) return learned_.front().term.net->dim();
  if (!distances_.empty()) return static_cast<int>(distances_.front().term.reference->cols());
  for (const Term& term : terms_) {
    if (term.expression.kind() != Expression::Kind::internal) return term.expression.dimension();
  }
  return 0;
}

bool Functional::needs_density() const {
  for (const Term& term : terms_) {
    if (term.expression.kind() == Expression::Kind::internal) return true;
  }
  return false;
}

std::string Functional::describe() const {
  std::string out;
  const auto add = [&](double weight, const std::string& text) {
    out += (out.empty() ? "" : " + ") + show(weight) + " * " + text;
  };
  for (const Term& term : terms_) add(term.weight, term.text);
  for (const Learned& one : learned_) add(one.term.weight, one.text);
  for (const Distance& one : distances_) add(one.term.weight, one.text);
  return out.empty() ? "0" : out;
}

Objective Functional::objective(double mass) const {
  Objective objective;
  for (const Term& term : terms_) {
    switch (term.expression.kind()) {
      case Expression::Kind::potential:
        add_program(objective.potential, term.expression.program(), term.weight);
        break;
      case Expression::Kind::interaction:
        objective.interaction.push_back({term.weight * mass, pair_kernel(term.expression)});
        break;
      case Expression::Kind::internal:
        add_internal(term.expression, term.weight, objective.internal);
        break;
    }
  }
  for (const Learned& one : learned_) objective.network.push_back(one.term);
  for (const Distance& one : distances_) objective.divergence.push_back(one.term);
  return objective;
}

std::optional<Functional::Gaussian> Functional::gaussian(int dim) const {
  if (!learned_.empty() || !distances_.empty()) return std::nullopt;
  Gaussian out;
  out.potential.hessian = Matrix<double>(dim, dim);
  out.potential.linear.assign(dim, 0.0);
  for (const Term& term : terms_) {
    if (term.expression.kind() == Expression::Kind::internal) {
      const std::optional<EntropyPower> form = term.expression.entropy_power();
      if (!form || !form->powers.empty()) return std::nullopt;
      out.diffusion += term.weight * form->entropy;
    } else if (term.expression.kind() == Expression::Kind::potential) {
      const std::optional<Quadratic> v = term.expression.quadratic();
      if (!v || term.expression.dimension() != dim) return std::nullopt;
      for (int k = 0; k < dim * dim; ++k) {
        out.potential.hessian.elements()[k] += term.weight * v->hessian.elements()[k];
      }
      for (int c = 0; c < dim; ++c) out.potential.linear[c] += term.weight * v->linear[c];
      out.potential.constant += term.weight * v->constant;
    } else {
      return std::nullopt;
    }
  }
  return out;
}

std::optional<Functional::PorousMedium> Functional::porous_medium() const {
  if (!learned_.empty() || !distances_.empty()) return std::nullopt;
  if (terms_.size() != 1 || terms_[0].expression.kind() != Expression::Kind::internal) return std::nullopt;
  const std::optional<EntropyPower> form = terms_[0].expression.entropy_power();
  if (!form || form->entropy != 0 || form->powers.size() != 1) return std::nullopt;
  const auto [m, coefficient] = form->powers[0];
  if (!(m > 1)) return std::nullopt;
  return PorousMedium{terms_[0].weight * coefficient * (m - 1), m};
}

Functional operator+(Functional a, const Functional& b) {
  const int da = a.dimension();
  const int db = b.dimension();
  if (da != 0 && db != 0 && da != db) {
    throw ShapeError("functional: a term for dimension " + std::to_string(db) +
                     " meets terms for dimension " + std::to_string(da));
  }
  a.terms_.insert(a.terms_.end(), b.terms_.begin(), b.terms_.end());
  a.learned_.insert(a.learned_.end(), b.learned_.begin(), b.learned_.end());
  a.distances_.insert(a.distances_.end(), b.distances_.begin(), b.distances_.end());
  return a;
}

Functional operator*(double factor, Functional f) {
  if (!std::isfinite(factor))
    throw ValueError("functional: weight " + show(factor) + " is not a finite number");
  for (Functional::Term& term : f.terms_) term.weight *= factor;
  for (Functional::Learned& one : f.learned_) one.term.weight *= factor;
  for (Functional::Distance& one : f.distances_) one.term.weight *= factor;
  return f;
}

Functional potential(const std::string& v, int dimension, const Parameters& parameters) {
  return Functional(Expression::potential(v, dimension, parameters));
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
  return Functional(Functional::Learned{std::move(term), "learned potential " + text});
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
  return Functional(Functional::Distance{std::move(term), text});
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
