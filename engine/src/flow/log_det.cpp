// SPDX-License-Identifier: MIT
#include "engine/src/flow/log_det.hpp"

#include <algorithm>
#include <cmath>

#include "brenier/base/philox.hpp"

namespace brenier {

template <class T>
LogDetCheck check_log_det(const Operations<T>& ops, const Operations<double>& exact,
                          const InnerProblem<T>& problem, const std::vector<T>& theta, Team& team) {
  constexpr int kProbes = 8;
  constexpr int kSteps = 15;
  const Icnn& net = *problem.net;
  const int d = net.dim();
  const Index n = problem.x.rows;
  Matrix<T> x(n, d), probes(n, Index{kProbes} * d);
  const RademacherProbes signs(problem.seed, problem.step, static_cast<std::uint32_t>(problem.iterations), d);
  for (Index i = 0; i < n; ++i) {
    for (int c = 0; c < d; ++c) x(i, c) = problem.x(i, c) / static_cast<T>(problem.scale);
    for (int k = 0; k < kProbes; ++k) {
      signs.for_components(static_cast<std::uint64_t>(i), k, [&](int c, bool negative) {
        probes(i, Index{k} * d + c) = negative ? T(-1) : T(1);
      });
    }
  }
  std::vector<double> estimate(n), variance(n), log_det(n);
  ops.log_det_lanczos(net, theta.data(), x, probes, kSteps, estimate.data(), variance.data(), team);
  MapOutputs<double> out;
  out.log_det = log_det.data();
  const std::vector<double> precise(theta.begin(), theta.end());
  exact.evaluate(net, precise.data(), cast<double>(x), out, team);
  LogDetCheck check;
  for (Index i = 0; i < n; ++i) {
    check.error += (estimate[i] - log_det[i]) / static_cast<double>(n);
    check.deviation += variance[i] / kProbes;
  }
  check.deviation = std::sqrt(check.deviation) / static_cast<double>(n);
  return check;
}

template LogDetCheck check_log_det(const Operations<float>&, const Operations<double>&,
                                   const InnerProblem<float>&, const std::vector<float>&, Team&);
template LogDetCheck check_log_det(const Operations<double>&, const Operations<double>&,
                                   const InnerProblem<double>&, const std::vector<double>&, Team&);

}  // namespace brenier
