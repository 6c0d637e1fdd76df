// SPDX-License-Identifier: MIT
// Bounds and lengths of a network's parameters, for L-BFGS. For .cpp files only.
#pragma once

#include <cmath>
#include <vector>

#include "brenier/model/icnn.hpp"

namespace brenier {

template <class T>
struct ParameterMetric {
  std::vector<T> lower;
  std::vector<double> metric;  // squares of lengths, see BoundedProblem

  /// From where a search starts. A weight with a bound moves by its own size; 0.01 lets those at the bound leave it.
  ParameterMetric(const Icnn& net, const std::vector<T>& start) : lower(start.size()), metric(start.size()) {
    for (const ParameterTensor& tensor : net.tensors()) {
      for (Index k = tensor.offset; k < tensor.offset + tensor.size(); ++k) {
        lower[k] = static_cast<T>(tensor.lower);
        const bool bounded = std::isfinite(tensor.lower);
        const double size =
            bounded ? std::abs(static_cast<double>(start[k])) + 0.01 * tensor.rate : tensor.rate;
        metric[k] = tensor.rate == 0 ? 0 : size * size;
      }
    }
  }
};

}  // namespace brenier
