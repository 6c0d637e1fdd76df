// SPDX-License-Identifier: MIT
#include "brenier/entropic_transport.hpp"

#include <algorithm>
#include <memory>
#include <string>

#include "brenier/base/error.hpp"
#include "kernels/operations.hpp"

namespace brenier {

EntropicTransport entropic_transport(MatrixView<const double> x, MatrixView<const double> y,
                                     const SinkhornOptions& options, Team& team, const std::vector<double>& a,
                                     const std::vector<double>& b) {
  constexpr const char* name = "entropic_transport";
  if (x.cols != y.cols) {
    throw ShapeError(std::string(name) + ": clouds of dimensions " + std::to_string(x.cols) + " and " +
                     std::to_string(y.cols));
  }
  Matrix<double> reference(y.rows, y.cols);
  for (Index j = 0; j < y.rows; ++j) std::copy_n(y.row(j), y.cols, reference.row(j));
  DivergenceTerm term;
  term.reference = std::make_shared<const Matrix<double>>(std::move(reference));
  term.reference_weights = b;
  term.sinkhorn = options;
  check_divergence(term, name);
  check_cloud(x, a, name);
  EntropicTransport out;
  const WeightedCloud<double> cloud{x, nullptr, a.empty() ? nullptr : a.data()};
  out.report = cpu::operations<double>().divergence(term, cloud, &out.value, {}, nullptr, team);
  return out;
}

}  // namespace brenier
