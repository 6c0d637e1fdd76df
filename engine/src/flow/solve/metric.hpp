// SPDX-License-Identifier: MIT
// Bounds and lengths of a network's parameters, for L-BFGS. For .cpp files only.
#pragma once

#include <vector>

#include "brenier/model/icnn.hpp"
#include "kernels/model/metric.hpp"

namespace brenier {

template <class T>
struct ParameterMetric {
  std::vector<T> lower;
  std::vector<double> metric;  // squares of lengths, see BoundedProblem

  /// From where a search starts.
  ParameterMetric(const Icnn& net, const std::vector<T>& start) : lower(start.size()), metric(start.size()) {
    for (const ParameterTensor& tensor : net.tensors()) {
      for (Index k = tensor.offset; k < tensor.offset + tensor.size(); ++k) {
        lower[k] = static_cast<T>(tensor.lower);
        metric[k] = squared_length(static_cast<double>(start[k]), tensor.lower, tensor.rate);
      }
    }
  }
};

}  // namespace brenier
