// SPDX-License-Identifier: MIT
#include "kernels/ref/cloud/program.hpp"

#include <cmath>

#include "brenier/base/error.hpp"

namespace brenier::ref {
namespace {

template <class T>
T apply_unary(OpCode op, T a) {
  switch (op) {
    case OpCode::neg:
      return -a;
    case OpCode::exp:
      return std::exp(a);
    case OpCode::log:
      return std::log(a);
    case OpCode::sqrt:
      return std::sqrt(a);
    case OpCode::abs:
      return std::abs(a);
    case OpCode::sign:
      return static_cast<T>((a > 0) - (a < 0));
    case OpCode::sin:
      return std::sin(a);
    case OpCode::cos:
      return std::cos(a);
    case OpCode::tanh:
      return std::tanh(a);
    // log(1 + e^a) and 1 / (1 + e^-a), written so that the exponential never overflows.
    case OpCode::softplus:
      return (a > 0 ? a : T(0)) + std::log1p(std::exp(-std::abs(a)));
    case OpCode::sigmoid:
      return a >= 0 ? 1 / (1 + std::exp(-a)) : std::exp(a) / (1 + std::exp(a));
    default:
      break;
  }
  throw ValueError("program: instruction " + std::to_string(static_cast<int>(op)) + " is not an operation");
}

template <class T>
T apply_binary(OpCode op, T a, T b) {
  switch (op) {
    case OpCode::add:
      return a + b;
    case OpCode::sub:
      return a - b;
    case OpCode::mul:
      return a * b;
    case OpCode::div:
      return a / b;
    case OpCode::pow:
      return std::pow(a, b);
    case OpCode::min:
      return b < a ? b : a;
    case OpCode::max:
      return a < b ? b : a;
    default:
      return static_cast<T>(a < b);  // less
  }
}

bool is_binary(OpCode op) {
  return op >= OpCode::add && op <= OpCode::less;
}

/// An operand: its elements and how many there are.
template <class T>
struct Operand {
  const T* data = nullptr;
  int size = 0;
  T operator[](int i) const { return data[size == 1 ? 0 : i]; }
};

template <class T>
void run(const Program& program, const Instruction& step, const T* input, Operand<T> a, Operand<T> b,
         T* out) {
  const auto constant = [&](Index i) { return static_cast<T>(program.constants[step.offset + i]); };
  switch (step.op) {
    case OpCode::constant:
      for (int i = 0; i < step.size; ++i) out[i] = constant(i);
      return;
    case OpCode::input:
      for (int i = 0; i < step.size; ++i) out[i] = input[i];
      return;
    case OpCode::component:
      out[0] = a.data[step.offset];
      return;
    case OpCode::scatter:
      for (int i = 0; i < step.size; ++i) out[i] = i == step.offset ? a.data[0] : T(0);
      return;
    case OpCode::broadcast:
      for (int i = 0; i < step.size; ++i) out[i] = a.data[0];
      return;
    case OpCode::sum:
      out[0] = T(0);
      for (int i = 0; i < a.size; ++i) out[0] += a.data[i];
      return;
    case OpCode::dot:
      out[0] = T(0);
      for (int i = 0; i < a.size; ++i) out[0] += a.data[i] * b.data[i];
      return;
    case OpCode::matvec:
      for (int i = 0; i < step.size; ++i) {
        out[i] = T(0);
        for (int j = 0; j < a.size; ++j) out[i] += constant(Index(i) * a.size + j) * a.data[j];
      }
      return;
    default:
      break;
  }
  for (int i = 0; i < step.size; ++i)
    out[i] = is_binary(step.op) ? apply_binary(step.op, a[i], b[i]) : apply_unary(step.op, a[i]);
}

}  // namespace

template <class T>
void evaluate(const Program& program, const T* input, T* workspace, T* value, T* gradient) {
  std::vector<Operand<T>> results;  // where each instruction's elements lie in the workspace
  results.reserve(program.code.size());
  T* out = workspace;
  for (const Instruction& step : program.code) {
    const Operand<T> a = step.a >= 0 ? results[step.a] : Operand<T>{};
    const Operand<T> b = step.b >= 0 ? results[step.b] : Operand<T>{};
    run(program, step, input, a, b, out);
    results.push_back({out, step.size});
    out += step.size;
  }
  if (value) *value = results[program.value].data[0];
  if (gradient)
    for (int i = 0; i < program.input_size; ++i) gradient[i] = results[program.gradient][i];
}

template void evaluate(const Program&, const float*, float*, float*, float*);
template void evaluate(const Program&, const double*, double*, double*, double*);

}  // namespace brenier::ref
