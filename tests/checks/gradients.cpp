// SPDX-License-Identifier: MIT
// Values and gradients of expressions for check_compilers.py. A line of the input: the kind (V, W, f), the dimension, and the
// expression. A line of the output: "refused", or for each of three points the value and the gradient, each at the point and
// at the point moved by a few roundings, as hexadecimal floats.
#include <cmath>
#include <cstdio>
#include <iostream>
#include <optional>
#include <string>
#include <vector>

#include "brenier/base/error.hpp"
#include "brenier/expression.hpp"

int main() {
  using namespace brenier;
  Matrix<double> matrix(3, 3);
  for (std::size_t i = 0; i < 9; ++i) matrix.elements()[i] = 0.25 * static_cast<double>(i) - 1;
  const Parameters parameters{{"a", Parameter::scalar(1.5)},
                              {"b", Parameter::vector({0.5, -1, 2})},
                              {"A", Parameter::matrix(matrix)}};
  char kind;
  int dimension;
  std::string text;
  while (std::cin >> kind >> dimension && std::getline(std::cin, text)) {
    std::optional<Expression> e;
    try {
      e = kind == 'V'   ? Expression::potential(text, dimension, parameters)
          : kind == 'W' ? Expression::interaction(text, dimension, parameters)
                        : Expression::internal(text, parameters);
    } catch (const Error&) {
      std::puts("refused");
      continue;
    }
    for (const double start : {0.7, -1.3, 0.02}) {
      for (const double moved : {1.0, 1 + 1e-15}) {
        std::vector<double> x(static_cast<std::size_t>(e->dimension()));
        for (std::size_t i = 0; i < x.size(); ++i) {
          x[i] = (start + 0.375 * static_cast<double>(i)) * moved;
          if (kind == 'f') x[i] = std::abs(x[i]);
        }
        std::printf("%a", e->value(x));
        for (const double slope : e->gradient(x)) std::printf(" %a", slope);
        std::putchar(' ');
      }
    }
    std::putchar('\n');
  }
}
