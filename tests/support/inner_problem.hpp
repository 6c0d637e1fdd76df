// SPDX-License-Identifier: MIT
// A small inner problem with every kind of term, for tests that call a backend's inner loop itself.
#pragma once

#include <memory>
#include <vector>

#include "brenier/expression.hpp"
#include "kernels/operations.hpp"
#include "tests/support/nets.hpp"

namespace brenier::test {

template <class T>
struct SmallProblem {
  Icnn net;
  Matrix<T> x;
  std::vector<double> log_density;
  Objective objective;
  InnerProblem<T> inner;

  explicit SmallProblem(Index n, const std::vector<int>& hidden = {9, 5})
      : net({.dim = 2, .hidden = hidden}),
        x(Numbers(3).matrix<T>(n, 2, -1, 1)),
        log_density(static_cast<std::size_t>(n), -0.5) {
    objective.potential = Expression::potential("sum(x^2)", 2).program();
    objective.internal.push_back({.form = InternalTerm::Form::power, .exponent = 2});
    PairKernel kernel;
    kernel.quadratic = 0.1;
    objective.interaction.push_back({1.0, kernel});
    const auto learned = std::make_shared<const Icnn>(Architecture{.dim = 2, .hidden = {6, 4}});
    const std::vector<double> parameters = generic_parameters<double>(*learned, 7);
    objective.network.push_back({0.5, learned, std::make_shared<const std::vector<double>>(parameters)});
    inner.net = &net;
    inner.x = x;
    inner.log_density = log_density.data();
    inner.shift = {0, 0};
    inner.tau = 0.1;
    inner.objective = &objective;
    inner.iterations = 20;
  }
  // `inner` has the addresses of its neighbours.
  SmallProblem(const SmallProblem&) = delete;
  SmallProblem& operator=(const SmallProblem&) = delete;

  std::vector<T> theta() const { return generic_parameters<T>(net, 5); }
  InnerState<T> state() const {
    const std::vector<T> zeros(static_cast<std::size_t>(net.parameters()));
    return {theta(), zeros, zeros, 0};
  }
};

}  // namespace brenier::test
