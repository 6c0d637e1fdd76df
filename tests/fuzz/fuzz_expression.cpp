// SPDX-License-Identifier: MIT
// Expressions: values, gradients against differences, and the closed forms that are read off them.
#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "brenier/expression.hpp"
#include "kernels/ref/cloud/program.hpp"
#include "tests/fuzz/fuzz.hpp"

using namespace brenier;
using namespace brenier::fuzz;

namespace {

const Parameters& parameters() {
  static const Parameters table = [] {
    Matrix<double> matrix(3, 3);
    for (std::size_t i = 0; i < 9; ++i) matrix.elements()[i] = 0.25 * static_cast<double>(i) - 1;
    return Parameters{{"a", Parameter::scalar(1.5)},
                      {"b", Parameter::vector({0.5, -1, 2})},
                      {"c", Parameter::vector({2})},
                      {"A", Parameter::matrix(matrix)}};
  }();
  return table;
}

Expression parsed(int kind, int dimension, const std::string& text) {
  if (kind == 0) return Expression::potential(text, dimension, parameters());
  if (kind == 1) return Expression::interaction(text, dimension, parameters());
  return Expression::internal(text, parameters());
}

/// A value with the size of what was added up for it, which bounds its rounding.
struct Sum {
  double value = 0, size = 0;
  void add(double term) {
    value += term;
    size += std::abs(term);
  }
};

void require_close(double value, const Sum& form, const char* what) {
  if (!std::isfinite(value) || !std::isfinite(form.value) || !(form.size < 1e8)) return;
  require(std::abs(value - form.value) <= 1e-6 * (1 + form.size), what);
}

/// Whether the value at x comes of numbers so large that their rounding shows in it: where they cancel, the forms, which
/// have cancelled them before, are the exact ones, and differences see nothing of the rest. Infinite ones do not cancel.
bool rounded_away(const Expression& expression, const std::vector<double>& x) {
  const Program& program = expression.program();
  std::vector<double> workspace(static_cast<std::size_t>(program.workspace()));
  double value = 0;
  ref::evaluate<double>(program, x.data(), workspace.data(), &value, nullptr);
  std::size_t numbers = 0;
  for (int i = 0; i <= program.value; ++i) numbers += static_cast<std::size_t>(program.code[i].size);
  return std::any_of(workspace.begin(), workspace.begin() + static_cast<std::ptrdiff_t>(numbers),
                     [](double number) { return std::isfinite(number) && std::abs(number) >= 1e8; });
}

/// Whether single precision comes to about the same value: where terms cancel within a logarithm it does not, and the
/// value in double precision is as far from that of a form as rounding has it.
bool well_conditioned(const Expression& expression, const std::vector<double>& x, double value) {
  const Program& program = expression.program();
  const std::vector<float> single(x.begin(), x.end());
  std::vector<float> workspace(static_cast<std::size_t>(program.workspace()));
  float rounded = 0;
  ref::evaluate<float>(program, single.data(), workspace.data(), &rounded, nullptr);
  return std::abs(static_cast<double>(rounded) - value) <= 1e-3 * (1 + std::abs(value));
}

void check_forms(const Expression& expression, const std::vector<double>& x) {
  const double value = expression.value(x);
  if (!well_conditioned(expression, x, value)) return;
  if (const auto form = expression.quadratic()) {
    Sum sum;
    sum.add(form->constant);
    for (std::size_t i = 0; i < x.size(); ++i) {
      sum.add(-form->linear[i] * x[i]);
      for (std::size_t j = 0; j < x.size(); ++j)
        sum.add(0.5 * form->hessian(static_cast<Index>(i), static_cast<Index>(j)) * x[i] * x[j]);
    }
    require_close(value, sum, "the quadratic form");
  }
  if (const auto form = expression.entropy_power()) {
    Sum sum;
    sum.add(form->entropy * x[0] * std::log(x[0]));
    for (const auto& [exponent, coefficient] : form->powers) sum.add(coefficient * std::pow(x[0], exponent));
    require_close(value, sum, "the form of entropies and powers");
  }
  if (const auto form = expression.power_log()) {
    double square = 0;
    for (const double element : x) square += element * element;
    Sum sum;
    sum.add(form->constant);
    sum.add(form->log * 0.5 * std::log(square));
    for (const auto& [exponent, coefficient] : form->powers)
      sum.add(coefficient * std::pow(square, 0.5 * exponent));
    require_close(value, sum, "the form of powers and logarithms");
  }
}

/// Where differences of two widths agree the function is smooth, and the gradient is theirs.
void check_gradient(const Expression& expression, const std::vector<double>& x) {
  const double value = expression.value(x);
  const std::vector<double> gradient = expression.gradient(x);
  require(gradient.size() == x.size(), "the gradient's size");
  if (!(std::abs(value) < 1e3)) return;
  // The gradient of a logarithm or a power of an overflow may be NaN, whatever finite value is made of it.
  const std::vector<Instruction>& code = expression.program().code;
  const bool may_say_nothing = std::any_of(code.begin(), code.end(), [&](const Instruction& step) {
    const auto plain = [&](int i) { return code[i].op == OpCode::input || code[i].op == OpCode::constant; };
    return step.op == OpCode::log || (step.op == OpCode::pow && !plain(step.a));
  });
  for (std::size_t i = 0; i < x.size(); ++i) {
    const auto slope = [&](double h) {
      std::vector<double> up = x, down = x;
      up[i] += h;
      down[i] -= h;
      return (expression.value(up) - expression.value(down)) / (2 * h);
    };
    const double wide = slope(1e-5), narrow = slope(2.5e-6), half = slope(5e-6), scale = 1 + std::abs(wide);
    const bool smooth = std::abs(wide) < 1e3 && std::abs(wide - narrow) < 1e-5 * scale &&
                        std::abs(wide - half) < 1e-5 * scale;
    if (!smooth || (std::isnan(gradient[i]) && may_say_nothing)) continue;
    require(std::abs(gradient[i] - narrow) <= 1e-2 * scale, "the gradient");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 1 || size > 4096) return 0;
  const int kind = data[0] % 3, dimension = (data[0] / 3) % 2 ? 1 : 3;
  const std::string text(reinterpret_cast<const char*>(data) + 1, size - 1);
  std::optional<Expression> expression;
  if (!accepted([&] { expression = parsed(kind, dimension, text); })) return 0;
  for (const double start : {0.0, 0.7, -1.3, 1e10}) {
    std::vector<double> x(static_cast<std::size_t>(expression->dimension()),
                          kind == 2 ? std::abs(start) : start);
    if (x.size() == 3) x[1] += 0.25, x[2] -= 0.5;
    static_cast<void>(expression->value(x));
    static_cast<void>(expression->gradient(x));
    if (start != 0.7 || rounded_away(*expression, x)) continue;
    check_forms(*expression, x);
    check_gradient(*expression, x);
  }
  return 0;
}
