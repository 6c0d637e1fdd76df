// SPDX-License-Identifier: MIT
#include "engine/src/flow/solve/coincident.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "engine/src/flow/solve/scale.hpp"
#include "kernels/operations.hpp"

namespace brenier {
namespace {

/// Whether W has no limit at 0. No value there alone is no such sign: r^2 log r has none, and goes to 0.
bool is_singular(const PairKernel& kernel, Index d, double scale, const Operations<double>& ops, Team& team) {
  if (kernel.form == PairKernel::Form::quadratic_log) return kernel.log_coefficient != 0;
  // At 0, and near it on the way there: in a direction that is on no axis.
  const bool radial = kernel.form == PairKernel::Form::radial;
  Matrix<double> z(3, radial ? 1 : d);
  for (const auto& [row, r] : {std::pair<Index, double>{1, 1e-60}, {2, 1e-30}}) {
    for (Index c = 0; c < z.cols(); ++c)
      z(row, c) = r * scale * (radial ? 1.0 : 1 + 0.37 * static_cast<double>(c));
  }
  double w[3];
  ops.evaluate_program(kernel.program, z, w, {}, team);
  return !std::isfinite(w[0]) && !(std::abs(w[1]) <= std::abs(w[2]));
}

}  // namespace

template <class T>
Index coincident(const Objective& objective, const CloudView& cloud, const std::vector<double>& shift,
                 const Operations<double>& ops, Team& team) {
  const Index n = cloud.rows(), d = cloud.cols();
  std::vector<double> mean;
  double scale = 1;
  cloud.location_and_scale(mean, scale);
  if (std::none_of(
          objective.interaction.begin(), objective.interaction.end(),
          [&](const InteractionTerm& term) { return is_singular(term.kernel, d, scale, ops, team); }))
    return 0;
  const Matrix<double>& x = cloud.x();
  Matrix<T> seen(n, d);
  for (Index i = 0; i < n; ++i) {
    for (Index c = 0; c < d; ++c) seen(i, c) = static_cast<T>(x(i, c) - shift[static_cast<std::size_t>(c)]);
  }
  std::vector<Index> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), Index{0});
  std::sort(order.begin(), order.end(), [&](Index a, Index b) {
    return std::lexicographical_compare(seen.row(a), seen.row(a) + d, seen.row(b), seen.row(b) + d);
  });
  Index count = 0;
  for (std::size_t k = 0; k < order.size(); ++k) {
    const auto as = [&](std::size_t other) {
      return std::equal(seen.row(order[k]), seen.row(order[k]) + d, seen.row(order[other]));
    };
    if ((k > 0 && as(k - 1)) || (k + 1 < order.size() && as(k + 1))) ++count;
  }
  return count;
}

template Index coincident<float>(const Objective&, const CloudView&, const std::vector<double>&,
                                 const Operations<double>&, Team&);
template Index coincident<double>(const Objective&, const CloudView&, const std::vector<double>&,
                                  const Operations<double>&, Team&);

}  // namespace brenier
