// SPDX-License-Identifier: MIT
#include "solvers/lbfgs.hpp"

#include <algorithm>

namespace brenier {
namespace {

constexpr int kLanes = 8;  // partial sums of a dot product, which compilers keep in vectors

/// Arrays, all elements of which one thread has.
struct WholeArrays {
  Index n;

  template <class F>
  void each(const F& f) const {
    for (Index k = 0; k < n; ++k) f(k);
  }
  template <int kSums, class F>
  LbfgsSums<kSums> sums(const F& f) const {
    const Index whole = n / kLanes * kLanes;
    double lanes[kSums][kLanes] = {};
    for (Index k = 0; k < whole; k += kLanes) {
      for (int i = 0; i < kLanes; ++i) {
        const LbfgsSums<kSums> here = f(k + i);
        for (int j = 0; j < kSums; ++j) lanes[j][i] += here.of[j];
      }
    }
    LbfgsSums<kSums> sums;
    for (int j = 0; j < kSums; ++j) {
      const double* l = lanes[j];
      sums.of[j] = ((l[0] + l[4]) + (l[1] + l[5])) + ((l[2] + l[6]) + (l[3] + l[7]));
    }
    for (Index k = whole; k < n; ++k) {
      const LbfgsSums<kSums> here = f(k);
      for (int j = 0; j < kSums; ++j) sums.of[j] += here.of[j];
    }
    return sums;
  }
  template <class F>
  double largest(const F& f) const {
    double found = 0;
    for (Index k = 0; k < n; ++k) found = std::max(found, f(k));
    return found;
  }
};

}  // namespace

template <class T>
LbfgsReport minimise(const BoundedProblem<T>& problem, const LbfgsOptions& options, std::vector<T>& theta) {
  validate(options);
  const std::size_t n = theta.size();
  const std::size_t pairs = static_cast<std::size_t>(options.memory) + 1;
  std::vector<T> at = theta, trial = theta;
  std::vector<double> trial_gradient(n), gradient(n), direction(n), free(n), free_before(n);
  std::vector<double> s(pairs * n), y(pairs * n);
  LbfgsVectors<T> vectors{.n = static_cast<Index>(n), .lower = problem.lower.data()};
  vectors.metric = problem.metric.data();
  vectors.gradient = trial_gradient.data();
  vectors.trial = trial.data();
  vectors.at = at.data();
  vectors.best = theta.data();
  vectors.at_gradient = gradient.data();
  vectors.direction = direction.data();
  vectors.free = free.data();
  vectors.free_before = free_before.data();
  vectors.s = s.data();
  vectors.y = y.data();
  LbfgsState state;
  const WholeArrays space{vectors.n};
  LbfgsMachine<T, WholeArrays> machine(options, vectors, space, state);
  for (bool more = true; more;) {
    const double value = problem.evaluate(trial.data(), trial_gradient.data());
    more = machine.take(value, options.interrupt && options.interrupt->load(std::memory_order_relaxed));
  }
  return state.report;
}

template LbfgsReport minimise(const BoundedProblem<float>&, const LbfgsOptions&, std::vector<float>&);
template LbfgsReport minimise(const BoundedProblem<double>&, const LbfgsOptions&, std::vector<double>&);

}  // namespace brenier
