// SPDX-License-Identifier: MIT
// Networks, clouds and seeds for tests of the kernels: shapes that do not fit tiles, and generic parameters.
#pragma once

#include <string>
#include <vector>

#include "brenier/base/philox.hpp"
#include "kernels/operations.hpp"

namespace brenier::test {

struct NetCase {
  const char* name;
  Architecture architecture;
};

inline std::vector<NetCase> net_cases() {
  return {
      {"paper d=1", {.dim = 1, .hidden = {100, 20}}},
      {"one layer", {.dim = 1, .hidden = {7}}},
      {"one layer d=3, squareplus", {.dim = 3, .hidden = {5}, .activation = Activation::squareplus}},
      {"leaky softplus", {.dim = 2, .hidden = {9, 5}, .activation = Activation::leaky_softplus}},
      {"residual, leaky softplus",
       {.dim = 3, .hidden = {6, 6}, .activation = {Activation::leaky_softplus, 0.4}, .residual = true}},
      {"smallest", {.dim = 1, .hidden = {1, 1}}},
      {"d=2", {.dim = 2, .hidden = {33, 9}, .quadratic_rank = 1}},
      {"three layers", {.dim = 3, .hidden = {8, 17, 6}, .quadratic_rank = 2}},
      {"four layers, squareplus, rank above d",
       {.dim = 4, .hidden = {6, 5, 4, 3}, .activation = Activation::squareplus, .quadratic_rank = 6}},
      {"residual", {.dim = 5, .hidden = {9, 9, 9}, .residual = true}},
      {"residual d=1", {.dim = 1, .hidden = {4, 4}, .residual = true, .quadratic_rank = 1}},
      {"leaky ReLU, squared, activation of the output",
       {.dim = 3,
        .hidden = {9, 5},
        .activation = Activation::leaky_relu,
        .first_layer = FirstLayer::squared,
        .output_activation = true}},
      {"the same, residual",
       {.dim = 5,
        .hidden = {6, 6},
        .activation = {Activation::leaky_relu, 0.3},
        .first_layer = FirstLayer::squared,
        .output_activation = true,
        .residual = true}},
      {"d=20", {.dim = 20, .hidden = {31, 11}, .quadratic_rank = 20}},
  };
}

/// Deterministic numbers in (low, high).
class Numbers {
 public:
  explicit Numbers(std::uint64_t seed) : random_(seed, RandomStream::probes) {}
  double operator()(double low, double high) { return low + (high - low) * random_.uniform(0, 0, next_++); }
  template <class T>
  Matrix<T> matrix(Index rows, Index cols, double low, double high) {
    Matrix<T> m(rows, cols);
    for (T& value : m.elements()) value = static_cast<T>((*this)(low, high));
    return m;
  }

 private:
  Random random_;
  std::uint64_t next_ = 0;
};

/// Generic valid parameters: every kind of term takes part, and H is well away from singular.
template <class T>
std::vector<T> generic_parameters(const Icnn& net, std::uint64_t seed) {
  Numbers numbers(seed);
  std::vector<T> theta(net.parameters());
  for (const ParameterTensor& tensor : net.tensors()) {
    const double fan_in = static_cast<double>(tensor.cols);
    for (Index i = 0; i < tensor.size(); ++i) {
      double value = numbers(-1.5, 1.5) / std::sqrt(fan_in);
      if (tensor.nonnegative) value = numbers(0.05, 1.0) * 1.5 / fan_in;
      if (tensor.name == "output.hidden.weight") value = numbers(0.1, 1.0);
      if (tensor.name == "quadratic.alpha") value = 0.7;
      theta[tensor.offset + i] = static_cast<T>(value);
    }
  }
  return theta;
}

}  // namespace brenier::test
