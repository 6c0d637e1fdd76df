// SPDX-License-Identifier: MIT
// What public functions are given, against what a network wants.
#pragma once

#include <span>
#include <string>

#include "brenier/base/error.hpp"
#include "brenier/base/view.hpp"
#include "brenier/model/icnn.hpp"

namespace brenier {

/// ShapeError: theta is not of the length that `net` has parameters.
inline void check_parameters(const std::string& who, const Icnn& net, std::span<const double> theta) {
  if (static_cast<Index>(theta.size()) == net.parameters()) return;
  throw ShapeError(who + ": " + std::to_string(theta.size()) + " parameters for a network that has " +
                   std::to_string(net.parameters()));
}

/// ValueError: `what` needs a continuous grad u, and the network has none.
inline void check_smooth(const std::string& what, const Icnn& net) {
  if (net.smooth()) return;
  throw ValueError(
      what + " of a network with activation = " + text_of(net.architecture().activation) +
      ", whose gradient jumps, so that densities do not follow from its Hessian; use softplus, squareplus or "
      "leaky_softplus");
}

/// ShapeError: `result`, where it is wanted, is not (rows, cols).
inline void check_result(const std::string& what, MatrixView<const double> result, Index rows, Index cols) {
  if (!result || (result.rows == rows && result.cols == cols)) return;
  throw ShapeError(what + " (" + std::to_string(rows) + ", " + std::to_string(cols) + ") into a matrix (" +
                   std::to_string(result.rows) + ", " + std::to_string(result.cols) + ")");
}

}  // namespace brenier
