// SPDX-License-Identifier: MIT
#include "kernels/ref/cloud/program.hpp"

#include <cmath>

#include "brenier/base/error.hpp"

namespace brenier::ref {
namespace {

// log(1 + e^a) and 1 / (1 + e^-a), written so that the exponential never overflows.
template <class T>
T softplus(T a) {
  return (a > 0 ? a : T(0)) + std::log1p(std::exp(-std::abs(a)));
}
template <class T>
T sigmoid(T a) {
  return a >= 0 ? 1 / (1 + std::exp(-a)) : std::exp(a) / (1 + std::exp(a));
}

/// An operand: its elements and how many there are.
template <class T>
struct Operand {
  const T* data = nullptr;
  int size = 0;
  T operator[](int i) const { return data[size == 1 ? 0 : i]; }
};

/// One instruction. No case stands for others: a new operation without one does not compile.
template <class T>
void run(const Program& program, const Instruction& step, const T* input, Operand<T> a, Operand<T> b,
         T* out) {
  const auto constant = [&](Index i) { return static_cast<T>(program.constants[step.offset + i]); };
  const auto unary = [&](auto f) {
    for (int i = 0; i < step.size; ++i) out[i] = f(a[i]);
  };
  const auto binary = [&](auto f) {
    for (int i = 0; i < step.size; ++i) out[i] = f(a[i], b[i]);
  };
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
    case OpCode::neg:
      return unary([](T x) { return -x; });
    case OpCode::exp:
      return unary([](T x) { return std::exp(x); });
    case OpCode::log:
      return unary([](T x) { return std::log(x); });
    case OpCode::sqrt:
      return unary([](T x) { return std::sqrt(x); });
    case OpCode::abs:
      return unary([](T x) { return std::abs(x); });
    case OpCode::sign:
      return unary([](T x) { return static_cast<T>((x > 0) - (x < 0)); });
    case OpCode::sin:
      return unary([](T x) { return std::sin(x); });
    case OpCode::cos:
      return unary([](T x) { return std::cos(x); });
    case OpCode::tanh:
      return unary([](T x) { return std::tanh(x); });
    case OpCode::softplus:
      return unary([](T x) { return softplus(x); });
    case OpCode::sigmoid:
      return unary([](T x) { return sigmoid(x); });
    case OpCode::erf:
      return unary([](T x) { return std::erf(x); });
    case OpCode::add:
      return binary([](T x, T y) { return x + y; });
    case OpCode::sub:
      return binary([](T x, T y) { return x - y; });
    case OpCode::mul:
      return binary([](T x, T y) { return x * y; });
    case OpCode::div:
      return binary([](T x, T y) { return x / y; });
    case OpCode::pow:
      return binary([](T x, T y) { return std::pow(x, y); });
    case OpCode::atan2:
      return binary([](T y, T x) { return std::atan2(y, x); });
    case OpCode::min:
      return binary([](T x, T y) { return y < x ? y : x; });
    case OpCode::max:
      return binary([](T x, T y) { return x < y ? y : x; });
    case OpCode::less:
      return binary([](T x, T y) { return static_cast<T>(x < y); });
    case OpCode::keep:
      return binary([](T condition, T x) { return condition != T(0) ? x : T(0); });
    case OpCode::chain:
      return binary([](T x, T y) { return x == T(0) || y == T(0) ? T(0) : x * y; });
  }
  throw ValueError("program: instruction " + std::to_string(static_cast<int>(step.op)) +
                   " is not an operation");
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
