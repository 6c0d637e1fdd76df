// SPDX-License-Identifier: MIT
// Differentiation of the tape, programs, and the functions of Var.
#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>

#include "brenier/base/error.hpp"
#include "brenier/tape.hpp"

namespace brenier {
namespace {

// Below sqrt(FLT_MIN) a squared length underflows in float. Divisors of lengths stay above it, so that x /
// |x| is 0 at x = 0 and never exceeds 1, in both precisions.
constexpr double kTinyLength = 1e-19;
// a ^ (p - 1) with 0 < p < 1 stays finite in float from here on.
constexpr double kTinyBase = 1e-37;

}  // namespace

/// One reverse sweep. Adjoints are instructions of the same tape; a value that `input` does not reach has
/// none.
class Sweep {
 public:
  Sweep(Tape& tape, int output, int input) : tape_(tape), input_(input), output_(output) {
    active_.assign(output + 1, false);
    adjoint_.assign(output + 1, -1);
    if (input > output) return;
    active_[input] = true;
    for (int i = input + 1; i <= output; ++i) {
      const Instruction step = tape.at(i);
      const bool flat = step.op == OpCode::less || step.op == OpCode::sign;
      active_[i] = step.op == OpCode::keep
                       ? active_[step.b]
                       : !flat && ((step.a >= 0 && active_[step.a]) || (step.b >= 0 && active_[step.b]));
    }
  }

  int run() { return run(tape_.constant_scalar(1.0)); }

  /// `seed`: the adjoint of the output.
  int run(int seed) {
    if (input_ > output_ || !active_[output_]) return tape_.filled(0.0, tape_.size(input_));
    adjoint_[output_] = seed;
    for (int i = output_; i > input_; --i)
      if (active_[i] && adjoint_[i] >= 0) propagate(i, tape_.at(i), adjoint_[i]);
    const int n = tape_.size(input_);
    return adjoint_[input_] >= 0 ? adjoint_[input_] : tape_.filled(0.0, n);
  }

 private:
  bool wanted(int i) const { return i >= 0 && active_[i]; }
  int constant(double value) { return tape_.constant_scalar(value); }
  int unary(OpCode op, int a) { return tape_.unary_(op, a); }
  int add(int a, int b) { return tape_.binary_(OpCode::add, a, b); }
  int sub(int a, int b) { return tape_.binary_(OpCode::sub, a, b); }
  int mul(int a, int b) { return tape_.binary_(OpCode::mul, a, b); }
  /// The product of an adjoint and a derivative, 0 where one of them is. Where a value has left the range of numbers and
  /// what is made of it no longer changes, as in 1 / (1 + exp(x)) for large x, the one is 0 and the other infinite.
  int chain(int a, int b) { return tape_.binary_(OpCode::chain, a, b); }
  int div(int a, int b) { return tape_.binary_(OpCode::div, a, b); }
  /// An adjoint over a value, and 0 where the adjoint is: as a product with 1 / a where a may be 0.
  int quotient(int bar, int a) {
    const Tape::Scaled s = tape_.split(bar), t = tape_.split(a);
    if (s.base == t.base && std::isnormal(s.factor / t.factor))
      return tape_.filled(s.factor / t.factor, tape_.size(a));
    if (tape_.known(bar) || tape_.is_nonzero(a)) return div(bar, a);
    return chain(bar, div(constant(1.0), a));
  }
  int pow(int a, int b) { return tape_.binary_(OpCode::pow, a, b); }
  int max(int a, double b) { return tape_.binary_(OpCode::max, a, constant(b)); }

  /// Adds a contribution to the adjoint of i. A scalar that met a vector collects the sum over its elements.
  void accumulate(int i, int term) {
    const int n = tape_.size(i);
    if (n == 1) term = tape_.sum_(term);
    if (tape_.size(term) < n) term = tape_.broadcast_(term, n);
    adjoint_[i] = adjoint_[i] < 0 ? term : add(adjoint_[i], term);
  }

  // Steps are passed by value: the tape grows meanwhile.
  void propagate(int i, Instruction step, int bar) {
    const int a = step.a, b = step.b;
    switch (step.op) {
      case OpCode::component:
        return accumulate(a, tape_.scatter_(bar, static_cast<int>(step.offset), tape_.size(a)));
      case OpCode::scatter:
        return accumulate(a, tape_.component_(bar, static_cast<int>(step.offset)));
      case OpCode::broadcast:
        return accumulate(a, bar);
      case OpCode::sum:
        return accumulate(a, tape_.broadcast_(bar, tape_.size(a)));
      case OpCode::matvec:
        return accumulate(a, tape_.transposed_matvec(step, bar));
      case OpCode::keep: {
        // The branch has a sweep of its own, and what comes of it is kept or not as its value is: a derivative that is
        // not finite where the branch is not taken would stay in any product with 0.
        const int inner = Sweep(tape_, b, input_).run(bar);
        return accumulate(input_, tape_.binary_(OpCode::keep, a, inner));
      }
      case OpCode::dot:
      case OpCode::mul:
      case OpCode::chain:
        if (a == b) return accumulate(a, chain(mul(constant(2.0), bar), a));
        if (wanted(a)) accumulate(a, chain(bar, b));
        if (wanted(b)) accumulate(b, chain(bar, a));
        return;
      case OpCode::add:
      case OpCode::sub:
      case OpCode::div:
      case OpCode::pow:
      case OpCode::min:
      case OpCode::max:
      case OpCode::atan2:
        return propagate_binary(i, step, bar);
      default:
        return accumulate(a, mul_derivative(i, step, bar));
    }
  }

  /// `term`, but NaN where a is infinite, for functions whose value there says nothing of a large finite one: of log(1 +
  /// exp(x)) neither value nor slope may pass for those at infinity, whatever comes of it, 1 / inf = 0 for example.
  int unless_infinite(int term, int a) {
    return tape_.is_moderate(a) ? term : add(term, tape_.nothing_or_nan(a));
  }

  /// NaN in the whole gradient where `value` is infinite and may stand for a number of any size: a factor 0 on the way
  /// from there to the argument, such as an exponential that has underflowed, would make the rest of it 0.
  void doubt(int value) { accumulate(input_, tape_.sum_(tape_.nothing_or_nan(value))); }

  /// `term`, what the adjoint `bar` of a function of a gives that of a: but NaN where bar is not 0 and a is at a pole of
  /// the kind `least` or a steeper one. The function tends to a constant there, not faster than the pole is steep.
  int unless_pole(int term, int bar, int a, Tape::Pole least) {
    return tape_.pole(a) < least ? term : add(term, chain(bar, tape_.nothing_or_nan(a)));
  }

  void propagate_binary(int i, Instruction step, int bar) {
    const int a = step.a, b = step.b;
    switch (step.op) {
      case OpCode::add:
        if (wanted(a)) accumulate(a, bar);
        if (wanted(b)) accumulate(b, bar);
        return;
      case OpCode::sub:
        if (wanted(a)) accumulate(a, bar);
        if (wanted(b)) accumulate(b, unary(OpCode::neg, bar));
        return;
      case OpCode::div: {
        // (a / b) / b instead of a / b^2, which leaves the range of numbers earlier.
        const int share = quotient(bar, b);
        if (wanted(a)) accumulate(a, share);
        if (wanted(b))
          accumulate(b, unless_pole(unary(OpCode::neg, chain(share, i)), bar, b, Tape::Pole::algebraic));
        return;
      }
      case OpCode::pow: {
        const std::optional<double> p = tape_.scalar(b);
        const auto slow = [&](int term) {
          return p && std::abs(*p) >= 0.5 ? term : unless_infinite(term, a);
        };
        if (wanted(a)) {
          const int term = slow(chain(bar, chain(b, power_below(a, b))));
          accumulate(a, p && *p >= 0 ? term : unless_pole(term, bar, a, Tape::Pole::algebraic));
        }
        // a^b log a tends to 0 with a for b > 0; log(0) times 0 would not.
        if (wanted(b)) {
          const int term = slow(chain(bar, chain(i, unary(OpCode::log, base_of_log(a)))));
          accumulate(b, unless_pole(term, bar, b, Tape::Pole::logarithmic));
        }
        return;
      }
      case OpCode::atan2: {  // 0 at the origin
        const int share = div(bar, max(add(mul(a, a), mul(b, b)), kTinyBase));
        if (wanted(a)) accumulate(a, unless_pole(chain(share, b), bar, a, Tape::Pole::algebraic));
        if (wanted(b))
          accumulate(b, unless_pole(unary(OpCode::neg, chain(share, a)), bar, b, Tape::Pole::algebraic));
        return;
      }
      default: {  // min, max: the operand that was returned
        const bool is_min = step.op == OpCode::min;
        const int takes_b = is_min ? tape_.binary_(OpCode::less, b, a) : tape_.binary_(OpCode::less, a, b);
        if (wanted(a)) accumulate(a, chain(bar, sub(constant(1.0), takes_b)));
        if (wanted(b)) accumulate(b, chain(bar, takes_b));
        return;
      }
    }
  }

  /// The power a ^ (b - 1) of the rule (a ^ b)' = b a ^ (b - 1).
  int power_below(int a, int b) {
    const std::optional<double> p = tape_.scalar(b);
    if (p && *p > 0 && *p < 1) return pow(max(a, kTinyBase), constant(*p - 1));
    return pow(a, sub(b, constant(1.0)));
  }

  /// A constant base keeps its logarithm, but for 0: 0 ^ b is 0 for all b > 0, and so is its derivative.
  int base_of_log(int a) {
    if (!tape_.known(a)) return max(a, kTinyBase);
    const std::vector<double> values = tape_.known_values(a);
    return std::find(values.begin(), values.end(), 0.0) == values.end() ? a : max(a, kTinyBase);
  }

  /// bar f'(a) for the functions of one operand; i is f(a) itself.
  int mul_derivative(int i, Instruction step, int bar) {
    const int a = step.a;
    const auto exponential = [&](int term) { return unless_pole(term, bar, a, Tape::Pole::logarithmic); };
    switch (step.op) {
      case OpCode::neg:
        return unary(OpCode::neg, bar);
      case OpCode::exp:
        return exponential(chain(bar, i));
      case OpCode::log: {
        // Where a 0 may be what is left of a small number, its logarithm is nothing like that of the number.
        if (tape_.is_fading(a) && !tape_.known(bar)) doubt(i);
        return tape_.is_fading(a) ? div(unless_infinite(bar, a), a) : quotient(unless_infinite(bar, a), a);
      }
      case OpCode::sqrt:
        return chain(bar, div(constant(0.5), max(i, kTinyLength)));
      case OpCode::abs:
        return chain(bar, unary(OpCode::sign, a));
      case OpCode::sin:
        return chain(bar, unary(OpCode::cos, a));
      case OpCode::cos:
        return unary(OpCode::neg, chain(bar, unary(OpCode::sin, a)));
      case OpCode::tanh:
        return exponential(chain(bar, sub(constant(1.0), mul(i, i))));
      case OpCode::softplus:
        return exponential(chain(bar, unary(OpCode::sigmoid, a)));
      case OpCode::sigmoid:
        return exponential(chain(bar, mul(i, sub(constant(1.0), i))));
      case OpCode::erf:
        return chain(bar, mul(constant(2 / std::sqrt(std::numbers::pi)),
                              unary(OpCode::exp, unary(OpCode::neg, mul(a, a)))));
      default:
        break;
    }
    throw ValueError("the tape has no derivative for instruction " +
                     std::to_string(static_cast<int>(step.op)));
  }

  Tape& tape_;
  int input_, output_;
  std::vector<bool> active_;
  std::vector<int> adjoint_;
};

Var gradient(Var output, Var input) {
  Tape& tape = output.tape();
  if (&input.tape() != &tape) throw ValueError("gradient: the two values are on different tapes");
  if (output.size() != 1)
    throw ShapeError("gradient of a vector of " + std::to_string(output.size()) +
                     " elements: differentiate a scalar, such as one component or a sum");
  return {tape, Sweep(tape, output.index(), input.index()).run()};
}

Program compile(Tape& tape, Var value, Var input) {
  if (&input.tape() != &tape || &value.tape() != &tape || input.index() != 0)
    throw ValueError("compile: the argument must be tape.input(), and the value of the same tape");
  const int roots[] = {value.index(), tape.where_finite(gradient(value, input).index(), value.index())};
  const std::vector<Instruction>& code = tape.code();
  std::vector<bool> live(code.size(), false);
  for (int root : roots) live[root] = true;
  for (std::size_t i = code.size(); i-- > 0;) {
    if (!live[i]) continue;
    if (code[i].a >= 0) live[code[i].a] = true;
    if (code[i].b >= 0) live[code[i].b] = true;
  }
  Program program;
  std::vector<int> place(code.size(), -1);
  std::map<Index, Index> moved;  // blocks of constants, old offset to new: shared blocks stay shared
  for (std::size_t i = 0; i < code.size(); ++i) {
    if (!live[i]) continue;
    Instruction step = code[i];
    if (step.op == OpCode::constant || step.op == OpCode::matvec) {
      const Index count = step.op == OpCode::constant ? step.size : Index(step.size) * code[step.a].size;
      const auto [block, is_new] =
          moved.try_emplace(step.offset, static_cast<Index>(program.constants.size()));
      const auto first = tape.constants().begin() + step.offset;
      if (is_new) program.constants.insert(program.constants.end(), first, first + count);
      step.offset = block->second;
    }
    if (step.a >= 0) step.a = place[step.a];
    if (step.b >= 0) step.b = place[step.b];
    place[i] = static_cast<int>(program.code.size());
    program.code.push_back(step);
  }
  program.input_size = input.size();
  program.value = place[roots[0]];
  program.gradient = place[roots[1]];
  return program;
}

// ---- Var ----

Tape& Var::tape() const {
  if (!tape_)
    throw ValueError("a Var was used that was never recorded: start from the argument of the function");
  return *tape_;
}

int Var::size() const {
  return tape().code()[index_].size;
}
Var Var::operator[](int i) const {
  return tape().component(*this, i);
}
Var Var::constant(double value) const {
  return tape().constant(value);
}
Var Var::constant(const std::vector<double>& values) const {
  return tape().constant(values);
}

Var operator+(Var a, Var b) {
  return a.tape().binary(OpCode::add, a, b);
}
Var operator-(Var a, Var b) {
  return a.tape().binary(OpCode::sub, a, b);
}
Var operator*(Var a, Var b) {
  return a.tape().binary(OpCode::mul, a, b);
}
Var operator/(Var a, Var b) {
  return a.tape().binary(OpCode::div, a, b);
}
Var operator-(Var a) {
  return a.tape().unary(OpCode::neg, a);
}
Var operator*(const Matrix<double>& matrix, Var x) {
  return x.tape().matvec(matrix, x);
}

// One instruction of the same name.
#define BRENIER_UNARY(name)                 \
  Var name(Var a) {                         \
    return a.tape().unary(OpCode::name, a); \
  }
#define BRENIER_BINARY(name)                    \
  Var name(Var a, Var b) {                      \
    return a.tape().binary(OpCode::name, a, b); \
  }
BRENIER_BINARY(pow)
BRENIER_BINARY(min)
BRENIER_BINARY(max)
BRENIER_BINARY(atan2)
BRENIER_BINARY(less)
BRENIER_UNARY(exp)
BRENIER_UNARY(log)
BRENIER_UNARY(sqrt)
BRENIER_UNARY(abs)
BRENIER_UNARY(sin)
BRENIER_UNARY(cos)
BRENIER_UNARY(tanh)
BRENIER_UNARY(softplus)
BRENIER_UNARY(sigmoid)
BRENIER_UNARY(erf)
#undef BRENIER_UNARY
#undef BRENIER_BINARY

Var where(Var condition, Var a, Var b) {
  Tape& tape = condition.tape();
  const Var holds = tape.binary(OpCode::keep, condition, condition.constant(1.0));
  return tape.binary(OpCode::keep, holds, a) + tape.binary(OpCode::keep, 1.0 - holds, b);
}
Var sum(Var a) {
  return a.tape().sum(a);
}
Var dot(Var a, Var b) {
  return a.tape().dot(a, b);
}
Var norm(Var a) {
  return sqrt(dot(a, a));
}
Var logsumexp(Var a) {
  Var greatest = a[0];
  for (int i = 1; i < a.size(); ++i) greatest = max(greatest, a[i]);
  return greatest + log(sum(exp(a - greatest)));
}
Var matvec(const Matrix<double>& matrix, Var x) {
  return x.tape().matvec(matrix, x);
}

}  // namespace brenier
