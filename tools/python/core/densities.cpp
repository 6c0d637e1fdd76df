// SPDX-License-Identifier: MIT
// Initial densities.
#include "tools/python/core/arrays.hpp"

namespace brenier::python {

void bind_densities(nb::module_& m) {
  nb::enum_<Sampling>(m, "Sampling")
      .value("random", Sampling::random)
      .value("stratified", Sampling::stratified)
      .value("whitened", Sampling::whitened);

  nb::class_<Density>(m, "Density")
      .def_static(
          "gaussian",
          [](const std::vector<double>& mean, const Array& covariance) {
            return Density::gaussian(mean, matrix(covariance));
          },
          "mean"_a, "covariance"_a)
      .def_static("uniform", &Density::uniform, "lower"_a, "upper"_a)
      .def_static("mixture", &Density::mixture, "weights"_a, "parts"_a)
      .def_static(
          "barenblatt",
          [](Index dim, double exponent, double time, double mass) {
            return Density::barenblatt({.dim = dim, .m = exponent, .time = time, .mass = mass});
          },
          "dim"_a, "m"_a, "time"_a, "mass"_a)
      .def_static(
          "kde",
          [](const Array& x, const std::string& rule) {
            const MatrixView<const double> points = view(x);
            return without_gil([&] {
              return Density::kde(points, rule == "scott" ? BandwidthRule::scott : BandwidthRule::silverman);
            });
          },
          "points"_a, "rule"_a)
      .def_static(
          "kde_with_bandwidth",
          [](const Array& x, double bandwidth) { return Density::kde(view(x), bandwidth); }, "points"_a,
          "bandwidth"_a)
      .def_static(
          "gaussian_mixture",
          [](const Array& x, int components, int starts, int iterations, std::uint64_t seed) {
            const MatrixView<const double> points = view(x);
            const GaussianMixture fitted = without_gil([&] {
              return fit_gaussian_mixture(
                  points,
                  {.components = components, .starts = starts, .iterations = iterations, .seed = seed});
            });
            return std::pair(fitted.density(), fitted.converged);
          },
          "points"_a, "components"_a, "starts"_a, "iterations"_a, "seed"_a)
      .def("dim", &Density::dim)
      .def("mass", &Density::mass)
      .def(
          "log_density",
          [](const Density& self, const Array& x) {
            const MatrixView<const double> points = view(x);
            return give(without_gil([&] { return self.log_density(points); }));
          },
          "x"_a)
      .def(
          "sample_held_out",
          [](const Density& self, Index n, Sampling how, std::uint64_t seed) {
            check_count(n, self.dim());
            return give(without_gil([&] { return self.sample(n, how, seed, RandomStream::held_out); }));
          },
          "n"_a, "how"_a, "seed"_a, "As a configuration draws them: others than sample() with the same seed.")
      .def(
          "sample",
          [](const Density& self, Index n, Sampling how, std::uint64_t seed) {
            check_count(n, self.dim());
            return give(without_gil([&] { return self.sample(n, how, seed); }));
          },
          "n"_a, "how"_a, "seed"_a);
}

}  // namespace brenier::python
