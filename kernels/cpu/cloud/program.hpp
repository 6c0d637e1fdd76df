// SPDX-License-Identifier: MIT
// The lane interpreter of programs: one instruction at a time, for the kLanes particles of a tile together.
// See simd.hpp for the layout and for BRENIER_ISA.
#pragma once

#include <cmath>

#include "brenier/model/program.hpp"
#include "kernels/cpu/simd.hpp"

namespace brenier::cpu::BRENIER_ISA {

/// Where evaluate_lanes left the results, in its workspace. Each row holds one element for kLanes particles.
template <class T>
struct ProgramRows {
  const T* value = nullptr;     // 1 row
  const T* gradient = nullptr;  // program.input_size rows
};

namespace program_detail {

template <class T>
inline Vec<T> compare(VecInt<T> mask) {
  return mask ? broadcast(T(1)) : Vec<T>{};
}

/// A function of libm, one lane after the other.
template <class T, T (*f)(T)>
inline Vec<T> each(Vec<T> x) {
  for (int i = 0; i < kWidth<T>; ++i) x[i] = f(x[i]);
  return x;
}

template <class T, T (*f)(T, T)>
inline Vec<T> each(Vec<T> a, Vec<T> b) {
  for (int i = 0; i < kWidth<T>; ++i) a[i] = f(a[i], b[i]);
  return a;
}

template <class T>
inline Vec<T> log_one_plus_exp(Vec<T> x) {
  Vec<T> value, slope;
  softplus_sigmoid<T>(x, value, slope);
  return x == x ? value : x;
}

/// out = f(a), `size` rows of lanes.
template <class T, class F>
inline void map(int size, T* out, const T* a, F f) {
  for (Index i = 0; i < Index(size) * kLanes; i += kWidth<T>) store<T>(out + i, f(load(a + i)));
}

/// out = f(a, b); a_step and b_step are kLanes, or 0 for a scalar that meets a vector.
template <class T, class F>
inline void zip(int size, T* out, const T* a, Index a_step, const T* b, Index b_step, F f) {
  for (int row = 0; row < size; ++row, out += kLanes, a += a_step, b += b_step)
    for (int i = 0; i < kLanes; i += kWidth<T>) store<T>(out + i, f(load(a + i), load(b + i)));
}

/// out = sum over rows of term(row, place of the lanes in an array of rows), in order.
template <class T, class F>
inline void reduce(int rows, T* out, F term) {
  for (int i = 0; i < kLanes; i += kWidth<T>) {
    Vec<T> total = {};
    for (Index row = 0; row < rows; ++row) total += term(row, row * kLanes + i);
    store<T>(out + i, total);
  }
}

template <class T>
inline void matvec(const double* matrix, int rows, int cols, const T* a, T* out) {
  for (int row = 0; row < rows; ++row, matrix += cols, out += kLanes)
    reduce<T>(cols, out, [&](Index j, Index at) { return static_cast<T>(matrix[j]) * load(a + at); });
}

template <class T>
inline void fill(T* out, T value) {
  for (int i = 0; i < kLanes; i += kWidth<T>) store<T>(out + i, broadcast(value));
}

template <class T>
inline void copy(T* out, const T* from, int rows) {
  std::memcpy(out, from, static_cast<std::size_t>(rows) * kLanes * sizeof(T));
}

/// One instruction. No case stands for others: a new operation without one does not compile.
template <class T>
inline void run(const Program& program, const Instruction& step, const T* input, const T* a, int na,
                const T* b, int nb, T* out) {
  using V = Vec<T>;
  const double* constants = program.constants.data() + step.offset;
  const auto unary = [&](auto f) { map<T>(step.size, out, a, f); };
  const auto binary = [&](auto f) {
    zip<T>(step.size, out, a, na == 1 ? 0 : kLanes, b, nb == 1 ? 0 : kLanes, f);
  };
  switch (step.op) {
    case OpCode::constant:
      for (int i = 0; i < step.size; ++i) fill<T>(out + Index(i) * kLanes, static_cast<T>(constants[i]));
      return;
    case OpCode::input:
      return copy<T>(out, input, step.size);
    case OpCode::component:
      return copy<T>(out, a + step.offset * kLanes, 1);
    case OpCode::scatter:
      for (int i = 0; i < step.size; ++i) fill<T>(out + Index(i) * kLanes, T(0));
      return copy<T>(out + step.offset * kLanes, a, 1);
    case OpCode::broadcast:
      for (int i = 0; i < step.size; ++i) copy<T>(out + Index(i) * kLanes, a, 1);
      return;
    case OpCode::sum:
      return reduce<T>(na, out, [&](Index, Index at) { return load(a + at); });
    case OpCode::dot:
      return reduce<T>(na, out, [&](Index, Index at) { return load(a + at) * load(b + at); });
    case OpCode::matvec:
      return matvec<T>(constants, step.size, na, a, out);
    case OpCode::neg:
      return unary([](V x) { return -x; });
    case OpCode::exp:
      return unary([](V x) { return exp<T>(x); });
    case OpCode::log:
      return unary([](V x) { return log<T>(x); });
    case OpCode::sqrt:
      return unary([](V x) { return sqrt<T>(x); });
    case OpCode::abs:
      return unary([](V x) { return abs<T>(x); });
    case OpCode::sign:
      return unary([](V x) { return compare<T>(x > V{}) - compare<T>(x < V{}); });
    case OpCode::sin:
      return unary([](V x) { return each<T, std::sin>(x); });
    case OpCode::cos:
      return unary([](V x) { return each<T, std::cos>(x); });
    case OpCode::tanh:
      return unary([](V x) { return x == x ? tanh<T>(x) : x; });
    case OpCode::softplus:
      return unary([](V x) { return log_one_plus_exp<T>(x); });
    case OpCode::sigmoid:
      return unary([](V x) { return x == x ? sigmoid<T>(x) : x; });
    case OpCode::erf:
      return unary([](V x) { return each<T, std::erf>(x); });
    case OpCode::add:
      return binary([](V x, V y) { return x + y; });
    case OpCode::sub:
      return binary([](V x, V y) { return x - y; });
    case OpCode::mul:
      return binary([](V x, V y) { return x * y; });
    case OpCode::div:
      return binary([](V x, V y) { return x / y; });
    case OpCode::pow:
      return binary([](V x, V y) { return each<T, std::pow>(x, y); });
    case OpCode::atan2:
      return binary([](V y, V x) { return each<T, std::atan2>(y, x); });
    // As in the reference: a tie or a NaN in the first operand returns the first.
    case OpCode::min:
      return binary([](V x, V y) { return y < x ? y : x; });
    case OpCode::max:
      return binary([](V x, V y) { return x < y ? y : x; });
    case OpCode::less:
      return binary([](V x, V y) { return compare<T>(x < y); });
    case OpCode::keep:
      return binary([](V condition, V x) { return condition != V{} ? x : V{}; });
    case OpCode::chain:
      return binary([](V x, V y) { return ((x == V{}) | (y == V{})) ? V{} : x * y; });
  }
}

}  // namespace program_detail

/// Runs `program` for kLanes particles.
///
/// input: (program.input_size, kLanes). workspace: (program.workspace(), kLanes), overwritten; the rows that
/// are returned lie in it. Both aligned as T is. Rounding differs from the reference in the last digits; exp
/// flushes results below the normal numbers to 0; sin, cos, erf, atan2 and ^ go through libm lane by lane.
template <class T>
inline ProgramRows<T> evaluate_lanes(const Program& program, const T* input, T* workspace) {
  // Results follow each other in the workspace. The places of at most kMarks instructions, evenly spread, are
  // kept; the others follow from the sizes in between. Nothing is allocated, whatever the length of the
  // program.
  constexpr int kMarks = 256;
  Index marks[kMarks];
  const Instruction* code = program.code.data();
  const int n = static_cast<int>(program.code.size());
  const int stride = (n + kMarks - 1) / kMarks;
  const auto place = [&](int instruction) {
    Index row = marks[instruction / stride];
    for (int i = instruction / stride * stride; i < instruction; ++i) row += code[i].size;
    return workspace + row * kLanes;
  };
  Index next = 0;
  for (int i = 0; i < n; ++i) {
    const Instruction& step = code[i];
    if (i % stride == 0) marks[i / stride] = next;
    const T* a = step.a < 0 ? nullptr : place(step.a);
    const T* b = step.b < 0 ? nullptr : place(step.b);
    const int na = step.a < 0 ? 0 : code[step.a].size;
    const int nb = step.b < 0 ? 0 : code[step.b].size;
    program_detail::run<T>(program, step, input, a, na, b, nb, workspace + next * kLanes);
    next += step.size;
  }
  return {place(program.value), place(program.gradient)};
}

}  // namespace brenier::cpu::BRENIER_ISA
