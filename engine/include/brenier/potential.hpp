// SPDX-License-Identifier: MIT
// Convex potentials that have been learned: a network V(x) that stands in a functional where an expression
// could stand.
#pragma once

#include <filesystem>
#include <vector>

#include "brenier/base/team.hpp"
#include "brenier/export.h"
#include "brenier/model/icnn.hpp"

namespace BRENIER_API brenier {

/// V(x), x in R^d, with parameters in double precision and physical coordinates.
struct LearnedPotential {
  Icnn net;
  std::vector<double> theta;  // net.parameters()

  /// V(x_i) (N) and grad V(x_i) (N, d) at the rows of x (N, d); either may be left out. ShapeError: columns
  /// of x that are not the dimension.
  void evaluate(MatrixView<const double> x, double* value, MatrixView<double> gradient, Team& team) const;
};

/// A network from a .safetensors file: a map of a flow, what write_potential() wrote, or any file whose
/// tensors have the names of Icnn::tensors(), float32 or float64, weights as (out, in). The shape of the
/// latter follows from its tensors: plain (layer1.hidden.weight, ...) or residual (layer1.inner.weight, ...),
/// softplus unless the metadata say activation = "squareplus", a plain first layer and no activation of the output
/// unless they say first_layer = "squared" and output_activation = "yes", the tensors quadratic.alpha and
/// quadratic.factor may be missing.
/// IoError where the file is no such network; the message names the tensor, and the value where one is not
/// finite, or negative where convexity needs it not to be.
LearnedPotential read_potential(const std::filesystem::path& path);
/// IoError as for write_safetensors.
void write_potential(const std::filesystem::path& path, const LearnedPotential& potential);

}  // namespace brenier
