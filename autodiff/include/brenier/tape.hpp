// SPDX-License-Identifier: MIT
// The tape: records a function of one argument as a flat list of instructions, simplifies it on the way, and
// differentiates it. Adjoints are recorded on the same tape, so that derivatives can be differentiated again.
// Reverse accumulation: Griewank and Walther, Evaluating Derivatives (SIAM, 2008), chapter 3.
#pragma once

#include <concepts>
#include <cstdint>
#include <map>
#include <optional>
#include <tuple>
#include <vector>

#include "brenier/export.h"
#include "brenier/model/program.hpp"

namespace BRENIER_API brenier {

class Tape;

/// A value on a tape: a scalar, or a vector of size() elements. Cheap to copy; valid while its tape lives.
/// Write functions with it as with numbers: `[](Var x) { return 0.5 * sum(x * x); }`.
class Var {
 public:
  Var() = default;
  Var(Tape& tape, int index) : tape_(&tape), index_(index) {}

  Tape& tape() const;  // ValueError for a Var that was never recorded
  int index() const { return index_; }
  int size() const;

  /// Element i, counted from 0. ShapeError where there is none.
  Var operator[](int i) const;
  /// A constant on the same tape.
  Var constant(double value) const;
  Var constant(const std::vector<double>& values) const;

 private:
  Tape* tape_ = nullptr;
  int index_ = -1;
};

/// What is known of the argument. `nonnegative` (a distance, a density) lets |r| become r.
enum class Domain : std::uint8_t { real, nonnegative };

/// The list of instructions, in static single assignment form. Recording folds constants, applies the simple
/// identities of algebra (x + 0, 1 x, x^2 = x x, -(-x), a x + b x, ...), and reuses equal instructions.
/// Identities hold in real arithmetic: rounding may differ in the last digits, and 0 x is 0 even where x is
/// not finite.
class Tape {
 public:
  /// A tape for functions of `input_size` >= 1 elements (else ShapeError).
  explicit Tape(int input_size, Domain domain = Domain::real);
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  Var input() { return {*this, 0}; }
  Var constant(double value) { return {*this, constant_scalar(value)}; }
  Var constant(const std::vector<double>& values) { return {*this, constant_vector(values)}; }

  /// Elementwise operations; operands have equal sizes, or one of them size 1 (else ShapeError).
  Var unary(OpCode op, Var a);
  Var binary(OpCode op, Var a, Var b);
  Var sum(Var a);
  Var dot(Var a, Var b);
  Var component(Var a, int element);
  Var scatter(Var a, int element, int size);
  Var broadcast(Var a, int size);
  Var matvec(const Matrix<double>& matrix, Var a);

  const std::vector<Instruction>& code() const { return code_; }
  const std::vector<double>& constants() const { return constants_; }
  /// Whether `a` does not depend on the argument, with its value where it is a scalar (0 for a vector).
  bool is_constant(Var a, double* value = nullptr) const;

 private:
  friend class Sweep;
  friend Program compile(Tape& tape, Var value, Var input);
  using Key = std::tuple<OpCode, int, int, int, Index>;

  /// `factor` times the value `base`.
  struct Scaled {
    double factor;
    int base;
  };

  /// How a value may become infinite at a finite argument: as 1/x and x^-p at 0, or as log x there. Slopes grow with it, as
  /// a power of the value or as its exponential.
  enum class Pole : std::uint8_t { none, algebraic, logarithmic };

  int own(Var a) const;
  static std::size_t place(int i) { return static_cast<std::size_t>(i); }
  // By value: code_ and constants_ grow with every operation.
  Instruction at(int i) const { return code_[place(i)]; }
  int size(int i) const { return code_[place(i)].size; }
  bool is(int i, OpCode op) const { return code_[place(i)].op == op; }
  std::optional<double> scalar(int i) const;
  bool equals(int i, double value) const;
  bool known(int i) const;
  std::vector<double> known_values(int i) const;
  Scaled split(int i) const;

  int constant_scalar(double value);
  int constant_vector(const std::vector<double>& values);
  int filled(double value, int size) { return broadcast_(constant_scalar(value), size); }
  Index store(const std::vector<double>& values);
  int emit(const Instruction& step);
  int fold_or_emit(const Instruction& step);
  bool is_nonnegative(const Instruction& step) const;
  bool is_moderate(const Instruction& step) const;
  bool is_moderate(int i) const { return moderate_[place(i)]; }
  Pole pole_of(const Instruction& step) const;
  Pole pole(int i) const { return pole_[place(i)]; }
  bool is_fading(const Instruction& step) const;
  bool is_fading(int i) const { return fading_[place(i)]; }
  bool is_nonzero(const Instruction& step) const;
  bool is_nonzero(int i) const { return nonzero_[place(i)]; }
  bool moderate_constants(Index offset, Index count) const;

  int unary_(OpCode op, int a);
  int simplify_unary(OpCode op, int a);
  int binary_(OpCode op, int a, int b);
  int simplify_binary(const Instruction& step);
  int add_(int a, int b, int size);
  int sub_(int a, int b, int size);
  int mul_(OpCode op, int a, int b, int size);
  int mul_scatter(OpCode op, int scattered, int other);
  int scale(double factor, int a);
  int div_(int a, int b, int size);
  int pow_(int a, int b, int size);
  int whole_power(int a, int exponent);
  int sum_(int a);
  int dot_(int a, int b);
  int component_(int a, int element);
  int scatter_(int a, int element, int size);
  int broadcast_(int a, int size);
  int matvec_(Index offset, int rows, int a);
  int transposed_matvec(const Instruction& step, int a);
  /// a - a: 0, but NaN where a is not finite.
  int nothing_or_nan(int a) { return emit({.op = OpCode::sub, .size = size(a), .a = a, .b = a}); }
  int where_finite(int gradient, int value);

  Domain domain_;
  std::vector<Instruction> code_;
  std::vector<bool> nonnegative_;  // per instruction: its value is known to be >= 0
  std::vector<bool>
      moderate_;  // per instruction: it grows with the argument at most in proportion, and is finite
  std::vector<bool> nonzero_;  // per instruction: no element is 0, at any argument
  std::vector<Pole> pole_;     // per instruction
  std::vector<bool> fading_;   // per instruction: a 0 may stand for a number that has underflowed
  std::vector<double> constants_;
  std::map<Key, int> seen_;
  std::map<std::vector<std::uint64_t>, Index> stored_;  // by bits, so that -0 and NaN are themselves
};

/// The gradient of the scalar `output` with respect to `input`, recorded on their tape; it has input's size.
///
/// Where a function has no derivative: |a|' = sign(a) (0 at 0); min and max pass the derivative of the
/// operand that they return; sqrt'(a) = 0.5 / max(sqrt(a), 1e-19), so that the gradient of norm(x) is 0 at x
/// = 0, and bounded by 1 up to rounding everywhere, in float too; a ^ p with 0 < p < 1 is treated alike.
/// Where a value has overflowed or is at a pole, and what is made of it no longer changes, as in 1 / (1 + exp(x)) or
/// sigmoid(1/x) at 0, the derivative is 0: a factor 0 of the chain rule holds against an infinite one. It does where it is
/// the smaller one: min, max and constants against all, exponentials against powers, powers against overflows of exp. It is
/// NaN otherwise, where the limit may be anything: 1/(1/x) and exp(log(x)) at 0, whose slopes are 1.
/// ShapeError where `output` is a vector, ValueError where the two are on different tapes.
Var gradient(Var output, Var input);

/// `value` and its gradient as a program, without the instructions that neither needs. Where the value is not finite the
/// gradient is not.
/// `input` must be tape.input() and `value` a scalar of the same tape. The gradient has input's size, always.
Program compile(Tape& tape, Var value, Var input);

Var operator+(Var a, Var b);
Var operator-(Var a, Var b);
Var operator*(Var a, Var b);
Var operator/(Var a, Var b);
Var operator-(Var a);
Var operator*(const Matrix<double>& matrix, Var x);

Var pow(Var a, Var b);
Var min(Var a, Var b);
Var max(Var a, Var b);
Var exp(Var a);
Var log(Var a);
Var sqrt(Var a);
Var abs(Var a);
Var sin(Var a);
Var cos(Var a);
Var tanh(Var a);
Var softplus(Var a);      // log(1 + e^a)
Var sigmoid(Var a);       // 1 / (1 + e^-a)
Var erf(Var a);           // 2/sqrt(pi) times the integral of e^(-t^2) from 0 to a
Var atan2(Var y, Var x);  // the angle of the point (x, y), in (-pi, pi]; its gradient is 0 at the origin
Var less(Var a, Var b);   // 1 where a < b, else 0; its derivative is 0
/// a where the scalar `condition` is not 0, b elsewhere. What the other one is, or has for a derivative, does not count,
/// NaN or not.
Var where(Var condition, Var a, Var b);
Var sum(Var a);
Var dot(Var a, Var b);
Var norm(Var a);       // Euclidean
Var logsumexp(Var a);  // log(sum(exp(a))), for elements of any size
Var matvec(const Matrix<double>& matrix, Var x);

/// A number or a vector of numbers, where a Var is expected.
template <class C>
concept Constant = std::convertible_to<C, double> || std::same_as<C, std::vector<double>>;

// clang-format off
template <Constant C> Var operator+(Var a, const C& c) { return a + a.constant(c); }
template <Constant C> Var operator+(const C& c, Var a) { return a.constant(c) + a; }
template <Constant C> Var operator-(Var a, const C& c) { return a - a.constant(c); }
template <Constant C> Var operator-(const C& c, Var a) { return a.constant(c) - a; }
template <Constant C> Var operator*(Var a, const C& c) { return a * a.constant(c); }
template <Constant C> Var operator*(const C& c, Var a) { return a.constant(c) * a; }
template <Constant C> Var operator/(Var a, const C& c) { return a / a.constant(c); }
template <Constant C> Var operator/(const C& c, Var a) { return a.constant(c) / a; }
template <Constant C> Var pow(Var a, const C& c) { return pow(a, a.constant(c)); }
template <Constant C> Var pow(const C& c, Var a) { return pow(a.constant(c), a); }
template <Constant C> Var min(Var a, const C& c) { return min(a, a.constant(c)); }
template <Constant C> Var min(const C& c, Var a) { return min(a.constant(c), a); }
template <Constant C> Var max(Var a, const C& c) { return max(a, a.constant(c)); }
template <Constant C> Var max(const C& c, Var a) { return max(a.constant(c), a); }
template <Constant C> Var dot(Var a, const C& c) { return dot(a, a.constant(c)); }
template <Constant C> Var dot(const C& c, Var a) { return dot(a.constant(c), a); }
// clang-format on

}  // namespace brenier
