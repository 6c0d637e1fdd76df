// SPDX-License-Identifier: MIT
#include "autodiff/expression/forms.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <utility>
#include <vector>

namespace brenier {
namespace {

constexpr std::size_t kMostTerms = 64;  // products of sums stop being recognised beyond
constexpr int kLargestPower = 16;
constexpr int kLargestDimension = 1024;

// ---- functions of one number: sums of c t^p (log t)^q ----

using Terms = std::map<std::pair<double, int>, double>;  // (p, q) to c; empty is 0
using ScalarForm = std::optional<Terms>;

ScalarForm kept(Terms terms) {
  std::erase_if(terms, [](const auto& term) { return term.second == 0; });
  if (terms.size() > kMostTerms) return std::nullopt;
  return terms;
}

ScalarForm plus(const Terms& a, const Terms& b, double sign) {
  Terms result = a;
  for (const auto& [powers, c] : b) result[powers] += sign * c;
  return kept(std::move(result));
}

ScalarForm times(const Terms& a, const Terms& b) {
  Terms result;
  for (const auto& [m, c] : a)
    for (const auto& [n, e] : b) result[{m.first + n.first, m.second + n.second}] += c * e;
  return kept(std::move(result));
}

/// The one term c t^p, or nothing.
std::optional<std::pair<double, double>> monomial(const Terms& a) {
  if (a.size() != 1 || a.begin()->first.second != 0) return std::nullopt;
  return std::pair{a.begin()->second, a.begin()->first.first};
}

ScalarForm power(const Terms& base, const Terms& exponent) {
  const auto e = monomial(exponent);
  if (!e || e->second != 0) return std::nullopt;
  const double p = e->first;
  const bool whole = p == std::trunc(p);
  if (const auto m = monomial(base)) {
    if (m->first < 0 && !whole) return std::nullopt;
    return Terms{{{p * m->second, 0}, std::pow(m->first, p)}};
  }
  if (!whole || p < 1 || p > kLargestPower) return std::nullopt;
  ScalarForm result = base;
  for (int i = 1; i < static_cast<int>(p) && result; ++i) result = times(*result, base);
  return result;
}

ScalarForm exponential(const Terms& a) {
  double constant = 0, slope = 0;
  for (const auto& [powers, c] : a) {
    if (powers == std::pair{0.0, 0})
      constant = c;
    else if (powers == std::pair{0.0, 1})
      slope = c;
    else
      return std::nullopt;
  }
  return Terms{{{slope, 0}, std::exp(constant)}};
}

ScalarForm function_of(OpCode op, const Terms& a) {
  const auto m = monomial(a);
  switch (op) {
    case OpCode::neg:
      return plus({}, a, -1);
    case OpCode::exp:
      return exponential(a);
    case OpCode::sqrt:
      return power(a, {{{0.0, 0}, 0.5}});
    case OpCode::log:
      if (!m || m->first <= 0) return std::nullopt;
      return kept({{{0.0, 0}, std::log(m->first)}, {{0.0, 1}, m->second}});
    case OpCode::abs:
      if (m) return Terms{{{m->second, 0}, std::abs(m->first)}};
      for (const auto& [powers, c] : a)
        if (c < 0 || powers.second != 0) return std::nullopt;
      return a;
    default:
      return std::nullopt;
  }
}

ScalarForm scalar_form(const Program& program, const Instruction& step,
                       const std::vector<ScalarForm>& forms) {
  if (step.op == OpCode::input) return Terms{{{1.0, 0}, 1.0}};
  if (step.op == OpCode::constant) return kept({{{0.0, 0}, program.constants[step.offset]}});
  if (step.a < 0 || !forms[step.a]) return std::nullopt;
  const Terms& a = *forms[step.a];
  if (step.b < 0) return function_of(step.op, a);
  if (!forms[step.b]) return std::nullopt;
  const Terms& b = *forms[step.b];
  switch (step.op) {
    case OpCode::add:
      return plus(a, b, 1);
    case OpCode::sub:
      return plus(a, b, -1);
    case OpCode::mul:
    case OpCode::chain:
      return times(a, b);
    case OpCode::pow:
      return power(a, b);
    case OpCode::div:
      if (const auto m = monomial(b)) return times(a, {{{-m->second, 0}, 1 / m->first}});
      return std::nullopt;
    default:
      return std::nullopt;
  }
}

ScalarForm scalar_form(const Program& program) {
  if (program.input_size != 1) return std::nullopt;
  std::vector<ScalarForm> forms;
  for (int i = 0; i <= program.value; ++i)
    forms.push_back(program.code[i].size == 1 ? scalar_form(program, program.code[i], forms) : std::nullopt);
  const ScalarForm& value = forms[program.value];
  if (value)
    for (const auto& [powers, c] : *value)
      if (!std::isfinite(c) || !std::isfinite(powers.first)) return std::nullopt;
  return value;
}

// ---- functions of a vector, at most quadratic ----

/// Element e is constant[e] + (affine row e) . x + sum over products of (left row e . x)(right row e . x)
/// + x^T square x. An empty affine or square is 0; square belongs to scalars.
struct Polynomial {
  std::vector<double> constant;
  Matrix<double> affine;
  std::vector<std::pair<Matrix<double>, Matrix<double>>> products;
  Matrix<double> square;

  Index size() const { return static_cast<Index>(constant.size()); }
  bool is_constant() const { return affine.empty() && is_affine(); }
  bool is_affine() const { return products.empty() && square.empty(); }
};

using VectorForm = std::optional<Polynomial>;

Matrix<double> sum_of(const Matrix<double>& a, const Matrix<double>& b) {
  if (a.empty()) return b;
  Matrix<double> result = a;
  for (std::size_t i = 0; i < b.elements().size(); ++i) result.elements()[i] += b.elements()[i];
  return result;
}

Matrix<double> scaled_rows(Matrix<double> m, const std::vector<double>& factors) {
  for (Index i = 0; i < m.rows(); ++i)
    for (Index j = 0; j < m.cols(); ++j) m(i, j) *= factors[i];
  return m;
}

Matrix<double> one_row(const Matrix<double>& m, Index row, Index copies) {
  if (m.empty()) return {};
  Matrix<double> result(copies, m.cols());
  for (Index i = 0; i < copies; ++i)
    for (Index j = 0; j < m.cols(); ++j) result(i, j) = m(row, j);
  return result;
}

/// Adds sum over rows of left_e right_e^T to `square`.
void add_products(const Matrix<double>& left, const Matrix<double>& right, Matrix<double>& square) {
  if (square.empty()) square = Matrix<double>(left.cols(), left.cols());
  for (Index e = 0; e < left.rows(); ++e)
    for (Index i = 0; i < left.cols(); ++i) {
      if (left(e, i) == 0) continue;
      for (Index j = 0; j < left.cols(); ++j) square(i, j) += left(e, i) * right(e, j);
    }
}

/// Scalars carry a square, vectors carry products.
Polynomial normal(Polynomial p) {
  if (p.size() != 1) return p;
  for (const auto& [left, right] : p.products) add_products(left, right, p.square);
  p.products.clear();
  return p;
}

VectorForm repeated(const Polynomial& p, Index n) {
  if (p.size() == n) return p;
  if (!p.is_affine()) return std::nullopt;
  return Polynomial{std::vector<double>(n, p.constant[0]), one_row(p.affine, 0, n), {}, {}};
}

VectorForm plus(const Polynomial& a, const Polynomial& b) {
  Polynomial result = a;
  for (Index i = 0; i < a.size(); ++i) result.constant[i] += b.constant[i];
  result.affine = sum_of(a.affine, b.affine);
  result.square = sum_of(a.square, b.square);
  result.products.insert(result.products.end(), b.products.begin(), b.products.end());
  return result;
}

Polynomial scaled(Polynomial p, const std::vector<double>& factors) {
  for (std::size_t i = 0; i < factors.size(); ++i) p.constant[i] *= factors[i];
  p.affine = scaled_rows(std::move(p.affine), factors);
  for (auto& [left, right] : p.products) left = scaled_rows(std::move(left), factors);
  for (double& v : p.square.elements()) v *= factors[0];
  return p;
}

VectorForm times(const Polynomial& a, const Polynomial& b) {
  if (a.is_constant()) return scaled(b, a.constant);
  if (b.is_constant()) return scaled(a, b.constant);
  if (!a.is_affine() || !b.is_affine()) return std::nullopt;
  Polynomial result;
  for (Index i = 0; i < a.size(); ++i) result.constant.push_back(a.constant[i] * b.constant[i]);
  result.affine = sum_of(scaled_rows(a.affine, b.constant), scaled_rows(b.affine, a.constant));
  result.products.emplace_back(a.affine, b.affine);
  return normal(std::move(result));
}

VectorForm quotient(const Polynomial& a, const Polynomial& b) {
  if (!b.is_constant()) return std::nullopt;
  std::vector<double> reciprocals;
  for (double v : b.constant) reciprocals.push_back(1 / v);
  return scaled(a, reciprocals);
}

/// The weighted sum of all elements.
Polynomial total(const Polynomial& p) {
  if (p.size() == 1) return p;
  Polynomial result{{0.0}, {}, {}, {}};
  if (!p.affine.empty()) result.affine = Matrix<double>(1, p.affine.cols());
  for (Index e = 0; e < p.size(); ++e) {
    result.constant[0] += p.constant[e];
    for (Index j = 0; j < p.affine.cols(); ++j) result.affine(0, j) += p.affine(e, j);
  }
  for (const auto& [left, right] : p.products) add_products(left, right, result.square);
  return result;
}

VectorForm matvec(const Program& program, const Instruction& step, const Polynomial& p) {
  if (!p.is_affine()) return std::nullopt;
  const double* m = program.constants.data() + step.offset;
  Polynomial result;
  result.constant.assign(step.size, 0.0);
  if (!p.affine.empty()) result.affine = Matrix<double>(step.size, p.affine.cols());
  for (Index i = 0; i < step.size; ++i)
    for (Index e = 0; e < p.size(); ++e) {
      const double factor = m[i * p.size() + e];
      result.constant[i] += factor * p.constant[e];
      for (Index j = 0; j < p.affine.cols(); ++j) result.affine(i, j) += factor * p.affine(e, j);
    }
  return result;
}

VectorForm component(const Polynomial& p, Index e) {
  Polynomial result{{p.constant[e]}, one_row(p.affine, e, 1), {}, p.square};
  for (const auto& [left, right] : p.products)
    result.products.emplace_back(one_row(left, e, 1), one_row(right, e, 1));
  return normal(std::move(result));
}

VectorForm scatter(const Polynomial& p, Index e, int n) {
  VectorForm result = repeated(p, n);
  if (!result) return std::nullopt;
  std::vector<double> unit(n, 0.0);
  unit[e] = 1;
  return scaled(*std::move(result), unit);
}

VectorForm elementwise(OpCode op, const Polynomial& a, const Polynomial& b) {
  switch (op) {
    case OpCode::add:
      return plus(a, b);
    case OpCode::sub:
      return plus(a, scaled(b, std::vector<double>(b.constant.size(), -1.0)));
    case OpCode::mul:
    case OpCode::chain:
      return times(a, b);
    case OpCode::div:
      return quotient(a, b);
    default:
      return std::nullopt;
  }
}

VectorForm vector_form(const Program& program, const Instruction& step,
                       const std::vector<VectorForm>& forms) {
  if (step.op == OpCode::constant) {
    const auto first = program.constants.begin() + step.offset;
    return Polynomial{{first, first + step.size}, {}, {}, {}};
  }
  if (step.op == OpCode::input) {
    Polynomial x{std::vector<double>(step.size), Matrix<double>(step.size, step.size), {}, {}};
    for (Index i = 0; i < step.size; ++i) x.affine(i, i) = 1;
    return x;
  }
  if (step.a < 0 || !forms[step.a] || (step.b >= 0 && !forms[step.b])) return std::nullopt;
  const Polynomial& a = *forms[step.a];
  switch (step.op) {
    case OpCode::component:
      return component(a, step.offset);
    case OpCode::scatter:
      return scatter(a, step.offset, step.size);
    case OpCode::broadcast:
      return repeated(a, step.size);
    case OpCode::sum:
      return total(a);
    case OpCode::matvec:
      return matvec(program, step, a);
    case OpCode::neg:
      return scaled(a, std::vector<double>(a.constant.size(), -1.0));
    case OpCode::dot: {
      const VectorForm product = times(a, *forms[step.b]);
      return product ? VectorForm(total(*product)) : std::nullopt;
    }
    default:
      break;
  }
  if (step.b < 0) return std::nullopt;
  const VectorForm left = repeated(a, step.size), right = repeated(*forms[step.b], step.size);
  return left && right ? elementwise(step.op, *left, *right) : std::nullopt;
}

/// Whether the program is a sum of c t^p log(t)^q of which place(p, q, c) takes every one.
template <class Place>
bool each_power(const Program& program, const Place& place) {
  const ScalarForm form = scalar_form(program);
  return form && std::all_of(form->begin(), form->end(), [&](const auto& term) {
           return place(term.first.first, term.first.second, term.second);
         });
}

}  // namespace

std::optional<PowerLog> find_power_log(const Program& program) {
  PowerLog result;
  const bool fits = each_power(program, [&](double p, double q, double c) {
    if (q == 0 && p == 0)
      result.constant = c;
    else if (q == 0)
      result.powers.emplace_back(p, c);
    else if (q == 1 && p == 0)
      result.log = c;
    else
      return false;
    return true;
  });
  return fits ? std::optional(result) : std::nullopt;
}

std::optional<EntropyPower> find_entropy_power(const Program& program) {
  EntropyPower result;
  const bool fits = each_power(program, [&](double p, double q, double c) {
    if (q == 0)
      result.powers.emplace_back(p, c);
    else if (q == 1 && p == 1)
      result.entropy = c;
    else
      return false;
    return true;
  });
  return fits ? std::optional(result) : std::nullopt;
}

std::optional<Quadratic> find_quadratic(const Program& program) {
  const Index n = program.input_size;
  if (n > kLargestDimension) return std::nullopt;
  std::vector<VectorForm> forms;
  for (int i = 0; i <= program.value; ++i) forms.push_back(vector_form(program, program.code[i], forms));
  const VectorForm& value = forms[program.value];
  if (!value) return std::nullopt;
  Quadratic result{Matrix<double>(n, n), std::vector<double>(n), value->constant[0]};
  for (Index i = 0; i < n; ++i) {
    if (!value->affine.empty()) result.linear[i] = -value->affine(0, i);
    for (Index j = 0; j < n && !value->square.empty(); ++j)
      result.hessian(i, j) = value->square(i, j) + value->square(j, i);
  }
  return result;
}

std::optional<Var> record_radial(const Tape& tape, Var value, Tape& radial) {
  const std::vector<Instruction>& code = tape.code();
  std::vector<std::optional<Var>> images(code.size());
  for (int i = 0; i <= value.index(); ++i) {
    const Instruction& step = code[i];
    const auto image = [&](int k) { return k >= 0 ? images[k] : std::nullopt; };
    const std::optional<Var> a = image(step.a), b = image(step.b);
    if (step.op == OpCode::dot && step.a == 0 && step.b == 0) {
      images[i] = radial.input() * radial.input();
    } else if (step.op == OpCode::constant && step.size == 1) {
      images[i] = radial.constant(tape.constants()[step.offset]);
    } else if (kind_of(step.op) == OpKind::binary) {
      if (a && b) images[i] = radial.binary(step.op, *a, *b);
    } else if (kind_of(step.op) == OpKind::unary) {
      if (a) images[i] = radial.unary(step.op, *a);
    }
  }
  return images[value.index()];
}

}  // namespace brenier
