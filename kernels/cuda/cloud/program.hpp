// SPDX-License-Identifier: MIT
// The device interpreter of programs: one particle per lane, every thread for itself. The rules for special
// values are those of kernels/ref/cloud/program.hpp.
#pragma once

#include "brenier/model/program.hpp"
#include "kernels/device/device.hpp"

namespace brenier::cuda {

using namespace brenier::device;

/// A program in device memory. `place` holds the first workspace row of each instruction.
struct ProgramView {
  const Instruction* code;
  const int* place;
  const double* constants;
  int length, rows, input_size, value, gradient;  // `value`, `gradient`: rows
  int gradient_stride;  // rows between the elements of the gradient: 0 where one element stands for all
};

/// The argument of a program: element c is at[c * stride], less minus[c] where that is given.
template <class T>
struct ProgramInput {
  const T* at;
  int stride = 1;
  const T* minus = nullptr;

  BRENIER_DEVICE T operator()(int c) const { return minus ? at[c * stride] - minus[c] : at[c * stride]; }
};

/// Runs `program` for one particle; workspace row r is rows[r * stride]. Not inlined: what sin or pow need
/// would cost every kernel that may run a program its registers.
template <class T>
BRENIER_DEVICE BRENIER_NOINLINE void run_program(const ProgramView& program, const ProgramInput<T> input,
                                                 T* const rows, const Index stride) {
  const auto row = [rows, stride](int r) -> T& { return rows[r * stride]; };
  for (int n = 0; n < program.length; ++n) {
    const Instruction& step = program.code[n];
    const int out = program.place[n];
    const int a = step.a < 0 ? 0 : program.place[step.a];
    const int b = step.b < 0 ? 0 : program.place[step.b];
    const int size_a = step.a < 0 ? 0 : program.code[step.a].size;
    const int size_b = step.b < 0 ? 0 : program.code[step.b].size;
    const int offset = static_cast<int>(step.offset);
    if (step.op == OpCode::sum || step.op == OpCode::dot) {
      T total = T(0);
      for (int i = 0; i < size_a; ++i) total += step.op == OpCode::sum ? row(a + i) : row(a + i) * row(b + i);
      row(out) = total;
      continue;
    }
    for (int i = 0; i < step.size; ++i) {
      const T x = size_a == 0 ? T(0) : row(a + (size_a == 1 ? 0 : i < size_a ? i : 0));
      const T y = size_b == 0 ? T(0) : row(b + (size_b == 1 ? 0 : i));
      T z = T(0);
      switch (step.op) {
        case OpCode::constant:
          z = static_cast<T>(program.constants[offset + i]);
          break;
        case OpCode::input:
          z = input(i);
          break;
        case OpCode::component:
          z = row(a + offset);
          break;
        case OpCode::scatter:
          z = i == offset ? row(a) : T(0);
          break;
        case OpCode::broadcast:
          z = row(a);
          break;
        case OpCode::add:
          z = x + y;
          break;
        case OpCode::sub:
          z = x - y;
          break;
        case OpCode::mul:
          z = x * y;
          break;
        case OpCode::div:
          z = x / y;
          break;
        case OpCode::pow:
          z = pow(x, y);
          break;
        case OpCode::min:
          z = y < x ? y : x;
          break;
        case OpCode::max:
          z = x < y ? y : x;
          break;
        case OpCode::less:
          z = x < y ? T(1) : T(0);
          break;
        case OpCode::atan2:
          z = atan2(x, y);
          break;
        case OpCode::keep:
          z = x != T(0) ? y : T(0);
          break;
        case OpCode::chain:
          z = x == T(0) || y == T(0) ? T(0) : x * y;
          break;
        case OpCode::neg:
          z = -x;
          break;
        case OpCode::exp:
          z = exp(x);
          break;
        case OpCode::log:
          z = log(x);
          break;
        case OpCode::sqrt:
          z = sqrt(x);
          break;
        case OpCode::abs:
          z = abs(x);
          break;
        case OpCode::sign:
          z = x > T(0) ? T(1) : x < T(0) ? T(-1) : T(0);
          break;
        case OpCode::sin:
          z = sin(x);
          break;
        case OpCode::cos:
          z = cos(x);
          break;
        case OpCode::tanh:
          z = tanh(x);
          break;
        case OpCode::softplus:
          z = (x > T(0) ? x : T(0)) + log1p(exp(-abs(x)));
          break;
        case OpCode::sigmoid: {
          const T t = exp(-abs(x));
          z = x < T(0) ? t / (T(1) + t) : T(1) / (T(1) + t);
          break;
        }
        case OpCode::erf:
          z = erf(x);
          break;
        case OpCode::matvec:
          for (int j = 0; j < size_a; ++j) {
            z = fma(static_cast<T>(program.constants[offset + i * size_a + j]), row(a + j), z);
          }
          break;
        case OpCode::sum:  // above
        case OpCode::dot:
          break;
      }
      row(out + i) = z;
    }
  }
}

}  // namespace brenier::cuda
