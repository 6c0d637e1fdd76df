// SPDX-License-Identifier: MIT
// Recording: checks, constant folding, identities, common subexpressions. Differentiation is in gradient.cpp.
#include "brenier/tape.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <string>
#include <utility>

#include "brenier/base/error.hpp"
#include "kernels/ref/cloud/program.hpp"

namespace brenier {
namespace {

std::string elements(int n) {
  return n == 1 ? "a scalar" : "a vector of " + std::to_string(n);
}

// Up to here a constant is finite in float too, and so are its products with arguments of any use.
constexpr double kModerate = 1e16;

bool is_product(OpCode op) {
  return op == OpCode::mul || op == OpCode::chain;
}

/// The product that stands for two of them, one within the other.
OpCode joined(OpCode a, OpCode b) {
  return a == OpCode::chain || b == OpCode::chain ? OpCode::chain : OpCode::mul;
}

/// Whether a merged factor may stand for two: it must not have overflowed or lost digits.
bool usable(double factor) {
  return std::isnormal(factor) || factor == 0;
}

}  // namespace

Tape::Tape(int input_size, Domain domain) : domain_(domain) {
  if (input_size < 1)
    throw ShapeError("the argument of a function has " + std::to_string(input_size) +
                     " elements: the dimension must be at least 1");
  emit({.op = OpCode::input, .size = input_size});
}

// ---- public entries: ownership and shapes ----

int Tape::own(Var a) const {
  if (&a.tape() != this)
    throw ValueError("a value of another tape was used here: record a function on one tape only");
  return a.index();
}

Var Tape::unary(OpCode op, Var a) {
  if (kind_of(op) != OpKind::unary) throw ValueError("Tape::unary takes neg, exp, ..., sigmoid only");
  return {*this, unary_(op, own(a))};
}

Var Tape::binary(OpCode op, Var a, Var b) {
  if (kind_of(op) != OpKind::binary) throw ValueError("Tape::binary takes add, sub, ..., keep only");
  const int i = own(a), j = own(b);
  if (op == OpCode::keep && size(i) != 1)
    throw ShapeError("a condition is a scalar; this is " + elements(size(i)));
  if (size(i) != size(j) && size(i) != 1 && size(j) != 1)
    throw ShapeError(elements(size(i)) + " and " + elements(size(j)) +
                     " do not combine element by element: use equal sizes, or a scalar with a vector");
  return {*this, binary_(op, i, j)};
}

Var Tape::sum(Var a) {
  return {*this, sum_(own(a))};
}

Var Tape::dot(Var a, Var b) {
  const int i = own(a), j = own(b);
  if (size(i) != size(j))
    throw ShapeError("dot of " + elements(size(i)) + " and " + elements(size(j)) +
                     ": the sizes must be equal");
  return {*this, dot_(i, j)};
}

Var Tape::component(Var a, int element) {
  const int i = own(a);
  if (element < 0 || element >= size(i))
    throw ShapeError("element " + std::to_string(element) + " of " + elements(size(i)) +
                     ": the valid ones are 0 to " + std::to_string(size(i) - 1));
  return {*this, component_(i, element)};
}

Var Tape::scatter(Var a, int element, int n) {
  const int i = own(a);
  if (size(i) != 1 || element < 0 || element >= n)
    throw ShapeError("scatter of " + elements(size(i)) + " to element " + std::to_string(element) + " of " +
                     std::to_string(n) + ": it takes a scalar, and elements 0 to n - 1");
  return {*this, scatter_(i, element, n)};
}

Var Tape::broadcast(Var a, int n) {
  const int i = own(a);
  if (size(i) != 1 || n < 1)
    throw ShapeError("broadcast of " + elements(size(i)) + " to " + std::to_string(n) +
                     " elements: it takes a scalar, and at least 1 element");
  return {*this, broadcast_(i, n)};
}

Var Tape::matvec(const Matrix<double>& matrix, Var a) {
  const int i = own(a);
  if (matrix.cols() != size(i) || matrix.empty())
    throw ShapeError("a " + std::to_string(matrix.rows()) + " x " + std::to_string(matrix.cols()) +
                     " matrix times " + elements(size(i)) + ": the columns must be as many as the elements");
  return {*this, matvec_(store(matrix.elements()), static_cast<int>(matrix.rows()), i)};
}

bool Tape::is_constant(Var a, double* value) const {
  const int i = own(a);
  if (value) *value = scalar(i).value_or(0.0);
  return known(i);
}

// ---- queries ----

std::optional<double> Tape::scalar(int i) const {
  if (!is(i, OpCode::constant) || size(i) != 1) return std::nullopt;
  return constants_[at(i).offset];
}

bool Tape::equals(int i, double value) const {
  return scalar(i) == value;
}

bool Tape::known(int i) const {
  return is(i, OpCode::constant) || (is(i, OpCode::broadcast) && is(at(i).a, OpCode::constant));
}

std::vector<double> Tape::known_values(int i) const {
  if (is(i, OpCode::broadcast)) return std::vector<double>(size(i), *scalar(at(i).a));
  const auto first = constants_.begin() + at(i).offset;
  return {first, first + size(i)};
}

Tape::Scaled Tape::split(int i) const {
  if (is(i, OpCode::neg)) return {-1.0, at(i).a};
  if (is(i, OpCode::mul) && scalar(at(i).a)) return {*scalar(at(i).a), at(i).b};
  return {1.0, i};
}

bool Tape::is_nonnegative(const Instruction& step) const {
  const bool a = step.a >= 0 && nonnegative_[step.a], b = step.b >= 0 && nonnegative_[step.b];
  switch (step.op) {
    case OpCode::constant:
      for (int i = 0; i < step.size; ++i)
        if (!(constants_[step.offset + i] >= 0)) return false;
      return true;
    case OpCode::input:
      return domain_ == Domain::nonnegative;
    case OpCode::abs:
    case OpCode::sqrt:
    case OpCode::exp:
    case OpCode::softplus:
    case OpCode::sigmoid:
    case OpCode::less:
      return true;
    case OpCode::mul:
    case OpCode::chain:
    case OpCode::dot:
      return step.a == step.b || (a && b);
    case OpCode::add:
    case OpCode::div:
    case OpCode::min:
      return a && b;
    case OpCode::max:
      return a || b;
    case OpCode::pow:
    case OpCode::sum:
    case OpCode::component:
    case OpCode::scatter:
    case OpCode::broadcast:
      return a;
    case OpCode::keep:
      return b;
    default:
      return false;
  }
}

bool Tape::moderate_constants(Index offset, Index count) const {
  return std::all_of(constants_.begin() + offset, constants_.begin() + offset + count,
                     [](double c) { return std::abs(c) <= kModerate; });
}

bool Tape::is_moderate(const Instruction& step) const {
  const bool a = step.a >= 0 && moderate_[step.a], b = step.b >= 0 && moderate_[step.b];
  switch (step.op) {
    case OpCode::constant:
      return moderate_constants(step.offset, step.size);
    case OpCode::input:
    case OpCode::less:
    case OpCode::sign:
      return true;
    case OpCode::add:
    case OpCode::sub:
    case OpCode::min:
    case OpCode::max:
    case OpCode::atan2:
    case OpCode::keep:
      return a && b;
    case OpCode::mul:
    case OpCode::dot:
      return a && b && (known(step.a) || known(step.b));
    case OpCode::matvec:
      return a && moderate_constants(step.offset, Index(step.size) * size(step.a));
    case OpCode::sqrt:
      return a && nonnegative_[step.a];
    case OpCode::component:
    case OpCode::scatter:
    case OpCode::broadcast:
    case OpCode::neg:
    case OpCode::abs:
    case OpCode::sin:
    case OpCode::cos:
    case OpCode::tanh:
    case OpCode::softplus:
    case OpCode::sigmoid:
    case OpCode::erf:
    case OpCode::sum:
      return a;
    case OpCode::div:
    case OpCode::pow:
    case OpCode::chain:
    case OpCode::exp:
    case OpCode::log:
      break;
  }
  return false;
}

bool Tape::is_nonzero(const Instruction& step) const {
  const auto of = [this](int i) { return nonzero_[i]; };
  const auto positive = [&](int i) { return nonzero_[i] && nonnegative_[i]; };
  switch (step.op) {
    case OpCode::constant: {
      const auto first = constants_.begin() + step.offset;
      return std::find(first, first + step.size, 0.0) == first + step.size;
    }
    case OpCode::broadcast:
    case OpCode::component:
    case OpCode::neg:
    case OpCode::abs:
      return of(step.a);
    case OpCode::add:
      return nonnegative_[step.a] && nonnegative_[step.b] && (of(step.a) || of(step.b));
    case OpCode::max:
      return positive(step.a) || positive(step.b);
    default:
      return false;
  }
}

Tape::Pole Tape::pole_of(const Instruction& step) const {
  const auto of = [this](int i) { return i < 0 ? Pole::none : pole_[i]; };
  const auto exponential = [](Pole pole) { return pole == Pole::logarithmic ? Pole::algebraic : Pole::none; };
  const Pole worst = std::max(of(step.a), of(step.b));
  switch (step.op) {
    case OpCode::exp:
      return exponential(worst);
    case OpCode::log:
      return worst != Pole::none || !nonzero_[step.a] ? Pole::logarithmic : Pole::none;
    case OpCode::div:
      // Over a literal 0 a value is infinite everywhere, and its slope as its value: no steeper than one of exp.
      return nonzero_[step.b] || known(step.b) ? worst : std::max(worst, Pole::algebraic);
    case OpCode::pow: {
      const bool falls = !(known(step.b) && nonnegative_[step.b]) && !nonzero_[step.a];
      return std::max({of(step.a), exponential(of(step.b)), falls ? Pole::algebraic : Pole::none});
    }
    case OpCode::less:
    case OpCode::sign:
    case OpCode::sin:
    case OpCode::cos:
    case OpCode::tanh:
    case OpCode::sigmoid:
    case OpCode::erf:
    case OpCode::atan2:
      return Pole::none;
    default:
      return worst;
  }
}

bool Tape::is_fading(const Instruction& step) const {
  const bool a = step.a >= 0 && fading_[step.a], b = step.b >= 0 && fading_[step.b];
  switch (step.op) {
    case OpCode::exp:
    case OpCode::softplus:
    case OpCode::sigmoid:
      return true;
    case OpCode::div:
      return a || !moderate_[step.b];
    case OpCode::pow:
      return a || !known(step.b) || (!nonnegative_[step.b] && !moderate_[step.a]);
    case OpCode::add:
    case OpCode::sub:
      return a && b;
    case OpCode::less:
    case OpCode::sign:
    case OpCode::log:
      return false;
    default:
      return a || b;
  }
}

// ---- constants and instructions ----

Index Tape::store(const std::vector<double>& values) {
  std::vector<std::uint64_t> bits;
  bits.reserve(values.size());
  for (double v : values) bits.push_back(std::bit_cast<std::uint64_t>(v));
  const auto [place, is_new] = stored_.try_emplace(std::move(bits), static_cast<Index>(constants_.size()));
  if (is_new) constants_.insert(constants_.end(), values.begin(), values.end());
  return place->second;
}

int Tape::constant_scalar(double value) {
  return emit({.op = OpCode::constant, .size = 1, .offset = store({value})});
}

int Tape::constant_vector(const std::vector<double>& values) {
  if (values.empty()) throw ShapeError("a constant vector has no elements: it needs at least 1");
  bool uniform = true;
  for (double v : values)
    uniform = uniform && std::bit_cast<std::uint64_t>(v) == std::bit_cast<std::uint64_t>(values[0]);
  const int n = static_cast<int>(values.size());
  if (uniform) return filled(values[0], n);
  return emit({.op = OpCode::constant, .size = n, .offset = store(values)});
}

int Tape::emit(const Instruction& step) {
  const Key key{step.op, step.size, step.a, step.b, step.offset};
  const auto [place, is_new] = seen_.try_emplace(key, static_cast<int>(code_.size()));
  if (is_new) {
    nonnegative_.push_back(is_nonnegative(step));
    moderate_.push_back(is_moderate(step));
    nonzero_.push_back(is_nonzero(step));
    pole_.push_back(pole_of(step));
    fading_.push_back(is_fading(step));
    code_.push_back(step);
  }
  return place->second;
}

int Tape::fold_or_emit(const Instruction& step) {
  if (!known(step.a) || (step.b >= 0 && !known(step.b))) return emit(step);
  Program program;
  Instruction last = step;
  if (step.op == OpCode::matvec) {
    const auto first = constants_.begin() + step.offset;
    program.constants.assign(first, first + Index(step.size) * size(step.a));
    last.offset = 0;
  }
  const auto operand = [&](int i) {
    if (i < 0) return -1;
    program.code.push_back({OpCode::constant, size(i), -1, -1, static_cast<Index>(program.constants.size())});
    for (double v : known_values(i)) program.constants.push_back(v);
    return static_cast<int>(program.code.size()) - 1;
  };
  last.a = operand(step.a);
  last.b = operand(step.b);
  program.code.push_back(last);
  std::vector<double> workspace(program.workspace());
  ref::evaluate<double>(program, nullptr, workspace.data(), nullptr, nullptr);
  return constant_vector({workspace.end() - step.size, workspace.end()});
}

// ---- elementwise operations ----

int Tape::unary_(OpCode op, int a) {
  // A function of equal elements is taken once.
  if (is(a, OpCode::broadcast)) return broadcast_(unary_(op, at(a).a), size(a));
  if (known(a)) return fold_or_emit({.op = op, .size = size(a), .a = a});
  return simplify_unary(op, a);
}

int Tape::simplify_unary(OpCode op, int a) {
  const Scaled s = split(a);
  switch (op) {
    case OpCode::neg:
      return scale(-1.0, a);
    case OpCode::abs:
      if (nonnegative_[a]) return a;
      if (s.base != a) return scale(std::abs(s.factor), unary_(OpCode::abs, s.base));
      break;
    case OpCode::sqrt:
      if (is(a, OpCode::mul) && at(a).a == at(a).b) return unary_(OpCode::abs, at(a).a);
      if (s.base != a && s.factor > 0) return scale(std::sqrt(s.factor), unary_(OpCode::sqrt, s.base));
      break;
    case OpCode::cos:
      if (is(a, OpCode::neg)) return unary_(OpCode::cos, s.base);
      break;
    case OpCode::sin:
    case OpCode::tanh:
    case OpCode::erf:
      if (is(a, OpCode::neg)) return scale(-1.0, unary_(op, s.base));
      break;
    default:
      break;
  }
  return emit({.op = op, .size = size(a), .a = a});
}

int Tape::binary_(OpCode op, int a, int b) {
  const int n = std::max(size(a), size(b));
  // Operands may be scalars, so a broadcast is never needed here; two of them make the operation a scalar
  // one.
  if (is(a, OpCode::broadcast)) a = at(a).a;
  if (is(b, OpCode::broadcast)) b = at(b).a;
  if (std::max(size(a), size(b)) < n) return broadcast_(binary_(op, a, b), n);
  const Instruction step{.op = op, .size = n, .a = a, .b = b};
  return known(a) && known(b) ? fold_or_emit(step) : simplify_binary(step);
}

int Tape::simplify_binary(const Instruction& step) {
  const int a = step.a, b = step.b, n = step.size;
  switch (step.op) {
    case OpCode::add:
      return add_(a, b, n);
    case OpCode::sub:
      return sub_(a, b, n);
    case OpCode::mul:
    case OpCode::chain:
      return mul_(step.op, a, b, n);
    case OpCode::div:
      return div_(a, b, n);
    case OpCode::pow:
      return pow_(a, b, n);
    case OpCode::less:
      return a == b ? filled(0.0, n) : emit(step);
    case OpCode::min:
    case OpCode::max:
      return a == b ? a : emit(step);
    case OpCode::keep:
      if (equals(a, 0) || equals(b, 0)) return filled(0.0, n);
      if (scalar(a)) return b;
      return emit(step);
    default:
      return emit(step);
  }
}

int Tape::add_(int a, int b, int n) {
  if (equals(a, 0)) return b;
  if (equals(b, 0)) return a;
  const Scaled s = split(a), t = split(b);
  if (s.base == t.base && usable(s.factor + t.factor)) return scale(s.factor + t.factor, s.base);
  // (p + c q) + d q = p + (c + d) q: adjoints arrive in any order. Only where c + d folds: otherwise the three
  // would be passed around for ever.
  for (const auto& [one, other] : {std::pair(a, b), std::pair(b, a)}) {
    const Instruction inner = at(one);
    if (inner.op != OpCode::add || inner.size != size(other)) continue;
    const Scaled d = split(other);
    for (const auto& [p, q] : {std::pair(inner.a, inner.b), std::pair(inner.b, inner.a)}) {
      const Scaled c = split(q);
      if (c.base == d.base && usable(c.factor + d.factor))
        return binary_(OpCode::add, p, scale(c.factor + d.factor, d.base));
    }
  }
  if (t.factor < 0) return binary_(OpCode::sub, a, scale(-t.factor, t.base));
  if (s.factor < 0) return binary_(OpCode::sub, b, scale(-s.factor, s.base));
  if (is(a, OpCode::scatter) && is(b, OpCode::scatter) && at(a).offset == at(b).offset)
    return scatter_(binary_(OpCode::add, at(a).a, at(b).a), static_cast<int>(at(a).offset), n);
  return emit({.op = OpCode::add, .size = n, .a = std::min(a, b), .b = std::max(a, b)});
}

int Tape::sub_(int a, int b, int n) {
  if (equals(b, 0)) return a;
  if (equals(a, 0)) return scale(-1.0, b);
  const Scaled s = split(a), t = split(b);
  if (s.base == t.base && usable(s.factor - t.factor)) return scale(s.factor - t.factor, s.base);
  if (t.factor < 0) return binary_(OpCode::add, a, scale(-t.factor, t.base));
  return emit({.op = OpCode::sub, .size = n, .a = a, .b = b});
}

int Tape::mul_(OpCode op, int a, int b, int n) {
  if (size(a) > 1 && size(b) == 1) std::swap(a, b);
  if (moderate_[a] && moderate_[b]) op = OpCode::mul;
  for (const auto& [one, other] : {std::pair(a, b), std::pair(b, a)})
    if (scalar(one) && (op == OpCode::mul || moderate_[one])) return scale(*scalar(one), other);
  if (is(a, OpCode::scatter)) return mul_scatter(op, a, b);
  if (is(b, OpCode::scatter)) return mul_scatter(op, b, a);
  const Scaled s = split(a), t = split(b);
  if (size(a) < n) {
    // A scalar before a vector takes up every factor: s (c v) = (c s) v, s (t v) = (s t) v. In the chain rule 0 holds
    // against an infinite c.
    if (t.base != b && (op == OpCode::mul || usable(t.factor)))
      return binary_(op, scale(t.factor, a), t.base);
    const Instruction inner = at(b);
    if (is_product(inner.op) && size(inner.a) == 1) {
      op = joined(op, inner.op);
      return binary_(op, binary_(op, inner.a, a), inner.b);
    }
    return emit({.op = op, .size = n, .a = a, .b = b});
  }
  if ((s.base != a || t.base != b) && usable(s.factor * t.factor))
    return scale(s.factor * t.factor, binary_(op, s.base, t.base));
  for (const auto& [one, other] : {std::pair(a, b), std::pair(b, a)}) {
    const Instruction inner = at(one);
    if (n > 1 && is_product(inner.op) && size(inner.a) == 1) {
      op = joined(op, inner.op);
      return binary_(op, inner.a, binary_(op, inner.b, other));
    }
  }
  if (a == b && is(a, OpCode::abs)) return binary_(OpCode::mul, at(a).a, at(a).a);
  if (a == b && is(a, OpCode::sqrt) && nonnegative_[at(a).a]) return at(a).a;
  return emit({.op = op, .size = n, .a = std::min(a, b), .b = std::max(a, b)});
}

int Tape::mul_scatter(OpCode op, int scattered, int other) {
  const Instruction step = at(scattered);
  const int element = static_cast<int>(step.offset);
  const int factor = size(other) == 1 ? other : component_(other, element);
  return scatter_(binary_(op, step.a, factor), element, step.size);
}

int Tape::scale(double factor, int a) {
  if (factor == 0) return filled(0.0, size(a));
  if (factor == 1) return a;
  const Scaled s = split(a);
  if (s.base != a && usable(factor * s.factor)) return scale(factor * s.factor, s.base);
  const Instruction step = at(a);
  if (step.op == OpCode::broadcast) return broadcast_(scale(factor, step.a), step.size);
  if (step.op == OpCode::scatter)
    return scatter_(scale(factor, step.a), static_cast<int>(step.offset), step.size);
  if (is_product(step.op) && step.size > 1 && size(step.a) == 1)
    return binary_(step.op, scale(factor, step.a), step.b);
  if (step.op == OpCode::div && scalar(step.a) && usable(factor * *scalar(step.a)))
    return binary_(OpCode::div, constant_scalar(factor * *scalar(step.a)), step.b);
  if (factor == -1 && step.op == OpCode::sub) return binary_(OpCode::sub, step.b, step.a);
  if (factor == -1) return fold_or_emit({.op = OpCode::neg, .size = step.size, .a = a});
  return fold_or_emit({.op = OpCode::mul, .size = step.size, .a = constant_scalar(factor), .b = a});
}

int Tape::div_(int a, int b, int n) {
  if (equals(a, 0)) return filled(0.0, n);
  if (scalar(b) && usable(1 / *scalar(b))) return scale(1 / *scalar(b), a);
  const Scaled s = split(a), t = split(b);
  if ((s.base != a || t.base != b) && usable(s.factor / t.factor))
    return scale(s.factor / t.factor, binary_(OpCode::div, s.base, t.base));
  // One division for a whole vector.
  if (n > 1 && size(b) == 1) return binary_(OpCode::mul, binary_(OpCode::div, constant_scalar(1.0), b), a);
  const Instruction top = at(a);
  if (n > 1 && is_product(top.op) && top.size > 1 && size(top.a) == 1)
    return binary_(top.op, top.a, binary_(OpCode::div, top.b, b));
  return emit({.op = OpCode::div, .size = n, .a = a, .b = b});
}

int Tape::pow_(int a, int b, int n) {
  const std::optional<double> exponent = scalar(b);
  if (exponent && size(a) == n) {
    const double p = *exponent;
    // Small powers are cheaper, and as precise, as products; a negative base then needs no care.
    if (p == std::trunc(p) && std::abs(p) <= 8) {
      if (p == 0) return filled(1.0, n);
      const int product = whole_power(a, static_cast<int>(std::abs(p)));
      return p > 0 ? product : binary_(OpCode::div, constant_scalar(1.0), product);
    }
    if (p == 0.5) return unary_(OpCode::sqrt, a);
    if (p == -0.5) return binary_(OpCode::div, constant_scalar(1.0), unary_(OpCode::sqrt, a));
    if (p == 1.5) return binary_(OpCode::mul, a, unary_(OpCode::sqrt, a));
  }
  return emit({.op = OpCode::pow, .size = n, .a = a, .b = b});
}

int Tape::whole_power(int a, int exponent) {
  if (exponent == 1) return a;
  if (exponent % 2 == 1) return binary_(OpCode::mul, a, whole_power(a, exponent - 1));
  const int half = whole_power(a, exponent / 2);
  return binary_(OpCode::mul, half, half);
}

// ---- vectors and scalars ----

int Tape::sum_(int a) {
  const Instruction step = at(a);
  if (step.size == 1) return a;
  if (step.op == OpCode::broadcast) return scale(step.size, step.a);
  if (step.op == OpCode::scatter) return step.a;
  const Scaled s = split(a);
  if (s.base != a) return scale(s.factor, sum_(s.base));
  if (is_product(step.op) && size(step.a) == 1) return binary_(step.op, step.a, sum_(step.b));
  if (step.op == OpCode::mul) return dot_(step.a, step.b);
  return fold_or_emit({.op = OpCode::sum, .size = 1, .a = a});
}

int Tape::dot_(int a, int b) {
  if (size(a) == 1) return binary_(OpCode::mul, a, b);
  for (const auto& [one, other] : {std::pair(a, b), std::pair(b, a)}) {
    const Instruction step = at(one);
    const Scaled s = split(one);
    if (step.op == OpCode::broadcast) return binary_(OpCode::mul, step.a, sum_(other));
    if (step.op == OpCode::scatter)
      return binary_(OpCode::mul, step.a, component_(other, static_cast<int>(step.offset)));
    if (s.base != one) return scale(s.factor, dot_(s.base, other));
    if (is_product(step.op) && size(step.a) == 1) return binary_(step.op, step.a, dot_(step.b, other));
  }
  return fold_or_emit({.op = OpCode::dot, .size = 1, .a = std::min(a, b), .b = std::max(a, b)});
}

int Tape::component_(int a, int element) {
  const Instruction step = at(a);
  if (step.size == 1) return a;
  if (step.op == OpCode::broadcast) return step.a;
  if (step.op == OpCode::scatter) return step.offset == element ? step.a : constant_scalar(0.0);
  const Scaled s = split(a);
  if (s.base != a) return scale(s.factor, component_(s.base, element));
  if (is_product(step.op) && size(step.a) == 1) return binary_(step.op, step.a, component_(step.b, element));
  return fold_or_emit({.op = OpCode::component, .size = 1, .a = a, .offset = element});
}

int Tape::scatter_(int a, int element, int n) {
  if (n == 1) return a;
  if (equals(a, 0)) return filled(0.0, n);
  return fold_or_emit({.op = OpCode::scatter, .size = n, .a = a, .offset = element});
}

int Tape::broadcast_(int a, int n) {
  return n == 1 ? a : emit({.op = OpCode::broadcast, .size = n, .a = a});
}

int Tape::matvec_(Index offset, int rows, int a) {
  const int cols = size(a);
  const std::vector<double> matrix(constants_.begin() + offset,
                                   constants_.begin() + offset + Index(rows) * cols);
  if (rows == 1) return dot_(constant_vector(matrix), a);
  if (cols == 1) return binary_(OpCode::mul, a, constant_vector(matrix));
  const Instruction step = at(a);
  const Scaled s = split(a);
  if (s.base != a) return scale(s.factor, matvec_(offset, rows, s.base));
  if (is_product(step.op) && size(step.a) == 1)
    return binary_(step.op, step.a, matvec_(offset, rows, step.b));
  return fold_or_emit({.op = OpCode::matvec, .size = rows, .a = a, .offset = offset});
}

int Tape::transposed_matvec(const Instruction& step, int a) {
  const int rows = step.size, cols = size(step.a);
  std::vector<double> transposed(Index(rows) * cols);
  for (Index i = 0; i < rows; ++i)
    for (Index j = 0; j < cols; ++j) transposed[j * rows + i] = constants_[step.offset + i * cols + j];
  return matvec_(store(transposed), cols, a);
}

/// `gradient`, and NaN where `value` is not finite: there a factor 0 of the chain rule may stand for one that has left the
/// range of numbers. A gradient without such products is what its operands make it.
int Tape::where_finite(int gradient, int value) {
  if (moderate_[value] || moderate_[gradient]) return gradient;
  return binary_(OpCode::add, gradient, nothing_or_nan(value));
}

}  // namespace brenier
