// SPDX-License-Identifier: MIT
// Divergences that are means of a kernel over pairs, MMD and energy distance: the kernels, once for all
// backends. To add one: a form of DivergenceTerm, a type here, and a case in with_kernel(), which does not
// compile without it.
#pragma once

#include "brenier/base/portable.hpp"
#include "brenier/model/objective.hpp"
#include "kernels/model/number_math.hpp"

namespace brenier {

/// exp(-|z|^2 / (2 bandwidth^2)). A kernel is a function k of the cost c = |z|^2 / 2, a number or a vector of
/// them, with the factor q >= 0 of its gradient -q z.
template <class T>
struct GaussianKernel {
  T rate;  // 1 / bandwidth^2

  template <class V, class Math>
  BRENIER_HOST_DEVICE void evaluate(V c, const Math& math, V& k, V& q) const {
    k = math.exp_nonpositive(-rate * c);
    q = rate * k;
  }
};

/// -|z|, whose gradient at 0 counts as 0.
struct DistanceKernel {
  template <class V, class Math>
  BRENIER_HOST_DEVICE void evaluate(V c, const Math& math, V& k, V& q) const {
    const V r = math.sqrt(2 * c);
    k = -r;
    q = c > V{} ? 1 / r : V{};
  }
};

/// Which kernel the term of a kernel mean has.
template <class T>
struct MeanKernel {
  DivergenceTerm::Form form;
  T rate;

  explicit MeanKernel(const DivergenceTerm& term)
      : form(term.form), rate(static_cast<T>(1 / (term.bandwidth * term.bandwidth))) {}
  constexpr MeanKernel() : form(DivergenceTerm::Form::energy), rate(0) {}
};

/// Whether a divergence is the mean of a kernel, twice within each cloud less twice across.
inline bool is_kernel_mean(DivergenceTerm::Form form) {
  switch (form) {
    case DivergenceTerm::Form::sinkhorn:
      return false;
    case DivergenceTerm::Form::mmd:
    case DivergenceTerm::Form::energy:
      return true;
  }
  __builtin_unreachable();
}

/// f(kernel) for the kernel of a term that has one: loops in f are compiled for it.
template <class T, class F>
BRENIER_HOST_DEVICE inline void with_kernel(const MeanKernel<T>& kernel, const F& f) {
  switch (kernel.form) {
    case DivergenceTerm::Form::sinkhorn:
      return;
    case DivergenceTerm::Form::mmd:
      return f(GaussianKernel<T>{kernel.rate});
    case DivergenceTerm::Form::energy:
      return f(DistanceKernel{});
  }
}

/// k and q at one cost.
template <class T>
BRENIER_HOST_DEVICE void evaluate_kernel(const MeanKernel<T>& kernel, T c, T& k, T& q) {
  with_kernel(kernel, [&](const auto& one) { one.evaluate(c, NumberMath(), k, q); });
}

}  // namespace brenier
