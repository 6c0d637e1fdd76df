// SPDX-License-Identifier: MIT
// Distances between clouds.
#include "tools/python/core/arrays.hpp"

namespace brenier::python {
namespace {

nb::tuple estimate(const Estimate& found) {
  return nb::make_tuple(found.value, found.error);
}

}  // namespace

void bind_distances(nb::module_& m) {
  m.def(
      "entropic_transport",
      [](const Array& x, const Array& y, const std::optional<Array>& a, const std::optional<Array>& b,
         double blur, double scaling, bool debias, int iterations, double tolerance, int threads) {
        const MatrixView<const double> from = view(x), to = view(y);
        const std::vector<double> weights = values(a), other_weights = values(b);
        const EntropicTransport found = without_gil([&] {
          Team team(threads);
          return entropic_transport(from, to,
                                    {.epsilon = epsilon_of(blur),
                                     .scaling = scaling,
                                     .iterations = iterations,
                                     .tolerance = tolerance,
                                     .debiased = debias},
                                    team, weights, other_weights);
        });
        return nb::make_tuple(found.value, found.report.marginal_error, found.report.unconverged == 0);
      },
      "x"_a, "y"_a, "a"_a.none(), "b"_a.none(), "blur"_a, "scaling"_a, "debias"_a, "iterations"_a,
      "tolerance"_a, "threads"_a,
      "(value, error of the marginals in total variation, whether that is below the tolerance)");
  m.def(
      "wasserstein_2",
      [](const Array& x, const Array& y) {
        const MatrixView<const double> from = view(x), to = view(y);
        return without_gil([&] {
          if (from.cols != 1 || to.cols != 1) return wasserstein_transport(from, to);
          return wasserstein_1d({from.data, from.data + from.rows},
                                {to.data, static_cast<std::size_t>(to.rows)});
        });
      },
      "x"_a, "y"_a);
  m.def(
      "energy_distance_between",
      [](const Array& x, const Array& y, int threads) {
        const MatrixView<const double> from = view(x), to = view(y);
        return estimate(without_gil([&] {
          Team team(threads);
          return energy_distance(from, to, team);
        }));
      },
      "x"_a, "y"_a, "threads"_a);
  m.def(
      "mmd_squared",
      [](const Array& x, const Array& y, double bandwidth, int threads) {
        const MatrixView<const double> from = view(x), to = view(y);
        return estimate(without_gil([&] {
          Team team(threads);
          return mmd_squared(from, to, bandwidth, team);
        }));
      },
      "x"_a, "y"_a, "bandwidth"_a, "threads"_a);
  m.def(
      "median_distance",
      [](const Array& x, const Array& y) {
        const MatrixView<const double> from = view(x), to = view(y);
        return without_gil([&] { return median_distance(from, to); });
      },
      "x"_a, "y"_a);
}

}  // namespace brenier::python
