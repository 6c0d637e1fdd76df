// SPDX-License-Identifier: MIT
#include "solvers/wasserstein.hpp"

#include <algorithm>
#include <cmath>
#include <string>

#include "kernels/runtime/error.hpp"

namespace brenier {

double wasserstein_1d(std::vector<double> x, std::span<const double> quantiles) {
  if (x.empty() || x.size() != quantiles.size()) {
    throw ShapeError("wasserstein_1d: " + std::to_string(x.size()) + " points against " +
                     std::to_string(quantiles.size()) + " quantiles; as many are needed, and at least one");
  }
  std::sort(x.begin(), x.end());
  double sum = 0;
  for (std::size_t i = 0; i < x.size(); ++i) sum += (x[i] - quantiles[i]) * (x[i] - quantiles[i]);
  return std::sqrt(sum / static_cast<double>(x.size()));
}

}  // namespace brenier
