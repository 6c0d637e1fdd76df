// SPDX-License-Identifier: MIT
#include "brenier/potential.hpp"

#include "brenier/base/error.hpp"
#include "brenier/device.hpp"
#include "brenier/safetensors.hpp"
#include "engine/src/checks/shape_check.hpp"
#include "engine/src/files/network_file.hpp"
#include "kernels/operations.hpp"

namespace brenier {

void LearnedPotential::evaluate(MatrixView<const double> x, double* value, MatrixView<double> gradient,
                                Team& team) const {
  if (x.cols != net.dim()) {
    throw ShapeError("learned potential: points of dimension " + std::to_string(x.cols) +
                     " for a network of dimension " + std::to_string(net.dim()));
  }
  check_parameters("learned potential", net, theta);
  check_result("learned potential: gradients", gradient, x.rows, x.cols);
  const Operations<double>& exact = backend<double>("cpu");
  if (value) {
    MapOutputs<double> out;
    out.potential = value;
    exact.evaluate(net, theta.data(), x, out, team);
  }
  if (gradient) {
    std::vector<double> force(theta.size());
    write_as_force(net, theta, {}, force);
    MapOutputs<double> out;
    out.displacement = gradient;
    exact.evaluate(net, force.data(), x, out, team);
  }
}

LearnedPotential read_potential(const std::filesystem::path& path) {
  const TensorFile file = read_safetensors(path);
  const NetworkFile content(path, file);
  const bool ours = content.has("format") && content.text("format").starts_with("brenier ");
  if (ours) content.choice("format", {"brenier map 1", "brenier potential 1"});
  LearnedPotential out{ours ? content.described() : content.deduced(), {}};
  out.theta = content.parameters(out.net, !ours);
  return out;
}

void write_potential(const std::filesystem::path& path, const LearnedPotential& potential) {
  write_safetensors(path, network_file(potential.net, potential.theta, "brenier potential 1"));
}

}  // namespace brenier
