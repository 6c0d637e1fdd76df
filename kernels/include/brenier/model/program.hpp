// SPDX-License-Identifier: MIT
// Straight-line programs: what an expression such as V(x), W(x - y) or f(t) becomes once it has been recorded
// and differentiated on the tape (autodiff/include/brenier/tape.hpp). A program has no branches and no adjoint sweep of its
// own: the derivative is part of the code, so every backend only needs an interpreter for the list of
// instructions below, run on many particles at a time.
#pragma once

#include <cstdint>
#include <vector>

#include "brenier/base/view.hpp"
#include "brenier/export.h"

namespace BRENIER_API brenier {

enum class OpCode : std::uint8_t {
  constant,   // constants[offset .. offset + size)
  input,      // the argument: x in R^d (or x - y for an interaction), or one scalar (r or t)
  component,  // a[offset], a scalar
  scatter,    // the vector of `size` zeros with the scalar a at position `offset` (adjoint of component)
  broadcast,  // the vector of `size` copies of the scalar a (adjoint of sum)
  add,        // elementwise from here on; operands have this instruction's size, or size 1
  sub,
  mul,
  div,
  pow,  // a ^ b; a < 0 is allowed where b is a whole number
  min,
  max,
  less,   // 1 where a < b, else 0
  atan2,  // the angle of the point (b, a), in (-pi, pi]
  keep,   // b where the scalar a is not 0; 0 elsewhere, whatever b is there, NaN too
  chain,  // a b, but 0 where a or b is 0, whatever the other is: a product of the chain rule
  neg,
  exp,
  log,
  sqrt,
  abs,
  sign,  // -1, 0 or 1
  sin,
  cos,
  tanh,
  softplus,
  sigmoid,
  erf,
  sum,     // scalar: sum of the elements of a
  dot,     // scalar: sum of a * b
  matvec,  // M a, M = constants[offset ..), row-major, `size` rows, as many columns as a has elements
};

/// How an operation takes its operands: element by element, or otherwise. An operation without a case does not compile.
enum class OpKind : std::uint8_t { unary, binary, other };
constexpr OpKind kind_of(OpCode op) {
  switch (op) {
    case OpCode::add:
    case OpCode::sub:
    case OpCode::mul:
    case OpCode::div:
    case OpCode::pow:
    case OpCode::min:
    case OpCode::max:
    case OpCode::less:
    case OpCode::atan2:
    case OpCode::keep:
    case OpCode::chain:
      return OpKind::binary;
    case OpCode::neg:
    case OpCode::exp:
    case OpCode::log:
    case OpCode::sqrt:
    case OpCode::abs:
    case OpCode::sign:
    case OpCode::sin:
    case OpCode::cos:
    case OpCode::tanh:
    case OpCode::softplus:
    case OpCode::sigmoid:
    case OpCode::erf:
      return OpKind::unary;
    case OpCode::constant:
    case OpCode::input:
    case OpCode::component:
    case OpCode::scatter:
    case OpCode::broadcast:
    case OpCode::sum:
    case OpCode::dot:
    case OpCode::matvec:
      break;
  }
  return OpKind::other;
}

/// One step of a program. Its result is the value numbered by its position in the code.
struct Instruction {
  OpCode op = OpCode::constant;
  int size = 1;  // elements of the result
  int a = -1;    // operands: positions of earlier instructions, -1 where unused
  int b = -1;
  Index offset = 0;  // into `constants`, or an element number
};

/// A function of one argument with its gradient.
struct Program {
  std::vector<Instruction> code;
  std::vector<double> constants;
  int input_size = 0;  // elements of the argument
  int value = -1;      // instruction that holds the function's value, a scalar
  int gradient =
      -1;  // instruction that holds its gradient, of size input_size (or 1 where it is 0 everywhere)

  /// Elements that all instructions together produce: the workspace of an interpreter, per particle.
  Index workspace() const {
    Index total = 0;
    for (const Instruction& step : code) total += step.size;
    return total;
  }
};

}  // namespace brenier
