// SPDX-License-Identifier: MIT
// Networks that are potentials: the maps of a flow, and what was trained.
#include "tools/python/core/arrays.hpp"

namespace brenier::python {
namespace {

/// The points themselves, with what was added.
Matrix<double> sum(const MatrixView<const double>& x, Matrix<double> displacement) {
  for (Index i = 0; i < x.rows; ++i) {
    for (Index c = 0; c < x.cols; ++c) displacement(i, c) += x(i, c);
  }
  return displacement;
}

/// f(x, team) at points x, without the lock of the interpreter.
template <class F>
auto at_points(const Array& x, int threads, const F& f) {
  const MatrixView<const double> points = view(x);
  return give(without_gil([&] {
    Team team(threads);
    return f(points, team);
  }));
}

void bind_map(nb::module_& m) {
  nb::class_<BrenierMap>(m, "Map",
                         "The gradient of a convex network, x -> grad u(x): the map of a JKO problem.")
      .def_ro("step", &BrenierMap::step, "Of the flow, from 1.")
      .def_ro("time", &BrenierMap::time, "After the step, in the unit of the equation.")
      .def_ro("tau", &BrenierMap::tau, "Length of the JKO problem.")
      .def_ro("closes_step", &BrenierMap::closes_step, "False for the start-up maps of order 2 but the last.")
      .def_prop_ro(
          "extrapolated", [](const BrenierMap& map) { return map.base == MapBase::extrapolated; },
          "Whether the map starts from x + e (x - x before) instead of x: a step of order 2.")
      .def("dim", [](const BrenierMap& map) { return map.net.dim(); })
      .def(
          "__call__",
          [](const BrenierMap& self, const Array& x, int threads) {
            return at_points(x, threads, [&](const MatrixView<const double>& points, Team& team) {
              Matrix<double> out(points.rows, self.net.dim());
              self.evaluate(points, out.view(), nullptr, {}, team);
              return sum(points, std::move(out));
            });
          },
          "x"_a, "threads"_a = 0, "grad u (N, d) at the base points x (N, d).")
      .def(
          "log_det",
          [](const BrenierMap& self, const Array& x, int threads) {
            return at_points(x, threads, [&](const MatrixView<const double>& points, Team& team) {
              Matrix<double> displacement(points.rows, self.net.dim());
              std::vector<double> out(static_cast<std::size_t>(points.rows));
              self.evaluate(points, displacement.view(), out.data(), {}, team);
              return out;
            });
          },
          "x"_a, "threads"_a = 0, "Logarithm of the determinant of the Hessian of u (N,) at x (N, d).")
      .def(
          "inverse",
          [](const BrenierMap& self, const Array& y, int threads) {
            return at_points(y, threads, [&](const MatrixView<const double>& points, Team& team) {
              Matrix<double> out(points.rows, points.cols);
              const NewtonReport report = self.inverse(points, out.view(), {}, team);
              for (Index i = 0; i < out.rows(); ++i) {
                if (report.status[i] != InverseStatus::converged)
                  std::fill_n(out.row(i), out.cols(), std::numeric_limits<double>::quiet_NaN());
              }
              return out;
            });
          },
          "y"_a, "threads"_a = 0, "x (N, d) with grad u(x) = y (N, d); NaN where there is none.")
      .def(
          "potential",
          [](const BrenierMap& self) {
            return LearnedPotential{self.net, self.theta};
          },
          "u itself.")
      .def(
          "save", [](const BrenierMap& self, const std::filesystem::path& path) { write_map(path, self); },
          "path"_a, "As a .safetensors file.");
  m.def(
      "read_map", [](const std::filesystem::path& path) { return read_map(path); }, "path"_a);
}

}  // namespace

void bind_maps(nb::module_& m) {
  nb::class_<LearnedPotential>(m, "LearnedPotential")
      .def("dim", [](const LearnedPotential& v) { return v.net.dim(); })
      .def("hidden", [](const LearnedPotential& v) { return v.net.architecture().hidden; })
      .def("parameters", [](const LearnedPotential& v) { return give(std::vector<double>(v.theta)); })
      .def(
          "evaluate",
          [](const LearnedPotential& self, const Array& x, int threads) {
            const MatrixView<const double> points = view(x);
            std::vector<double> value(static_cast<std::size_t>(points.rows));
            Matrix<double> gradient(points.rows, self.net.dim());
            without_gil([&] {
              Team team(threads);
              self.evaluate(points, value.data(), gradient.view(), team);
            });
            return nb::make_tuple(give(std::move(value)), give(std::move(gradient)));
          },
          "x"_a, "threads"_a)
      .def(
          "write",
          [](const LearnedPotential& v, const std::filesystem::path& path) { write_potential(path, v); },
          "path"_a);
  m.def(
      "read_potential", [](const std::filesystem::path& path) { return read_potential(path); }, "path"_a);
  bind_map(m);
}

}  // namespace brenier::python
