// SPDX-License-Identifier: MIT
#include "tests/support/pair_oracle.hpp"

#include <algorithm>
#include <cmath>

#include "kernels/operations.hpp"

namespace brenier::test {
namespace {

using Wide = long double;

/// W and grad W of one pair, with bounds of their terms.
struct Pair {
  Wide energy = 0, energy_bound = 0;
  std::vector<Wide> force, bound;
};

Pair log_pair(const PairKernel& kernel, const std::vector<Wide>& z, Wide diameter) {
  const std::size_t d = z.size();
  Pair pair{kernel.constant, std::abs(kernel.constant), std::vector<Wide>(d), std::vector<Wide>(d)};
  Wide r2 = 0;
  for (const Wide c : z) r2 += c * c;
  if (r2 == 0) return pair;
  const Wide r = std::sqrt(r2), log_r = std::log(r);
  pair.energy += kernel.quadratic * r2 + kernel.log_coefficient * log_r;
  // Rounding a product of scaled distances is an absolute error of its logarithm.
  pair.energy_bound +=
      std::abs(kernel.quadratic) * r2 +
      std::abs(kernel.log_coefficient) * (2 + std::abs(log_r) + std::abs(std::log(diameter)));
  for (std::size_t c = 0; c < d; ++c) {
    pair.force[c] = 2 * kernel.quadratic * z[c] + kernel.log_coefficient * z[c] / r2;
    pair.bound[c] = 2 * std::abs(kernel.quadratic) * r + std::abs(kernel.log_coefficient) / r;
  }
  return pair;
}

/// By the reference, in double.
Pair program_pair(const PairKernel& kernel, const std::vector<Wide>& z) {
  const Index d = static_cast<Index>(z.size());
  Matrix<double> y(2, d), force(2, d);
  for (Index c = 0; c < d; ++c) y(0, c) = static_cast<double>(z[static_cast<std::size_t>(c)]);
  double energy = 0;
  Team one(1);
  ref::operations<double>().interaction(kernel, y, &energy, force, one);
  Pair pair{2 * energy, std::abs(2 * energy) + 1, {}, {}};  // 1/(2 n (n-1)) of two equal terms
  for (Index c = 0; c < d; ++c) pair.force.push_back(force(0, c));
  pair.bound.assign(z.size(), 1);  // W of these tests changes on the scale of 1
  for (const Wide f : pair.force) {
    for (Wide& bound : pair.bound) bound += std::abs(f);
  }
  return pair;
}

}  // namespace

PairSums exact_pair_sums(const std::vector<InteractionTerm>& terms, const Matrix<double>& y) {
  const Index n = y.rows(), d = y.cols();
  PairSums sums{Matrix<double>(n, d), Matrix<double>(n, d)};
  Matrix<Wide> force(n, d), bound(n, d);
  Wide energy = 0, energy_bound = 0;
  const Wide share = n > 1 ? Wide(1) / static_cast<Wide>(n - 1) : 0;
  std::vector<Wide> z(static_cast<std::size_t>(d));
  Wide diameter2 = 0;
  for (Index c = 0; c < d; ++c) {
    double low = y(0, c), high = low;
    for (Index i = 0; i < n; ++i) {
      low = std::min(low, y(i, c));
      high = std::max(high, y(i, c));
    }
    diameter2 += (Wide(high) - Wide(low)) * (Wide(high) - Wide(low));
  }
  for (const InteractionTerm& term : terms) {
    for (Index i = 0; i < n; ++i) {
      for (Index j = 0; j < n; ++j) {
        if (i == j) continue;
        for (Index c = 0; c < d; ++c) z[static_cast<std::size_t>(c)] = Wide(y(i, c)) - Wide(y(j, c));
        const bool log = term.kernel.form == PairKernel::Form::quadratic_log;
        const Pair pair = log ? log_pair(term.kernel, z, std::sqrt(diameter2)) : program_pair(term.kernel, z);
        for (Index c = 0; c < d; ++c) {
          force(i, c) += share * term.weight * pair.force[static_cast<std::size_t>(c)];
          bound(i, c) += share * std::abs(term.weight) * pair.bound[static_cast<std::size_t>(c)];
        }
        energy += share * term.weight * pair.energy / static_cast<Wide>(2 * n);
        energy_bound += share * std::abs(term.weight) * pair.energy_bound / static_cast<Wide>(2 * n);
      }
    }
  }
  for (std::size_t k = 0; k < force.elements().size(); ++k) {
    sums.force.elements()[k] = static_cast<double>(force.elements()[k]);
    sums.bound.elements()[k] = static_cast<double>(bound.elements()[k]);
  }
  sums.energy = static_cast<double>(energy);
  sums.energy_bound = static_cast<double>(energy_bound);
  return sums;
}

}  // namespace brenier::test
