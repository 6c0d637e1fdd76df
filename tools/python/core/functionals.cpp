// SPDX-License-Identifier: MIT
// The terms of F.
#include "tools/python/core/arrays.hpp"

namespace brenier::python {
namespace {

Parameters parameters_of(const nb::dict& given) {
  Parameters out;
  for (const auto& [key, value] : given) {
    const auto array = nb::cast<Array>(value);
    const std::string name = nb::cast<std::string>(key);
    if (array.ndim() == 0) {
      out[name] = Parameter::scalar(*array.data());
    } else if (array.ndim() == 1) {
      out[name] = Parameter::vector({array.data(), array.data() + array.size()});
    } else {
      out[name] = Parameter::matrix(matrix(array));
    }
  }
  return out;
}

[[noreturn]] void bad_result(const std::string& name, const std::string& what) {
  throw ValueError("potential " + name + " " + what +
                   "; it must return (value, gradient), arrays of numbers");
}

/// One of the two arrays that a function returned, without a copy where it is one of doubles.
Array result_of(nb::handle result, const std::string& name) {
  Array out;
  if (nb::hasattr(result, "mask") || !nb::try_cast(result, out)) {  // a mask is in no buffer
    const nb::object array = nb::module_::import_("brenier.arrays").attr("numbers")(result, name);
    if (!nb::try_cast(array, out)) bad_result(name, "returned something else than arrays of numbers");
  }
  return out;
}

/// A callable v(x) -> (value (N,), gradient (N, d)), called with the GIL from whatever thread the flow runs in.
Terms black_box(nb::object v, int dim, const std::string& name) {
  const auto call = [borrowed = v.ptr(), name](MatrixView<const double> x, double* value,
                                               MatrixView<double> gradient) {
    const nb::gil_scoped_acquire gil;
    std::vector<double> copy(static_cast<std::size_t>(x.rows * x.cols));
    for (Index i = 0; i < x.rows; ++i) std::copy_n(x.row(i), x.cols, copy.data() + i * x.cols);
    const auto n = static_cast<std::size_t>(x.rows), d = static_cast<std::size_t>(x.cols);
    const nb::object result = nb::borrow(borrowed)(give(std::move(copy), {n, d}));
    if (!PyTuple_Check(result.ptr()) || nb::len(result) != 2)
      bad_result(name, "returned something else than two arrays");
    const Array values = result_of(result[0], name), gradients = result_of(result[1], name);
    const auto shape = [](const Array& a) {
      std::string out = "(";
      for (std::size_t i = 0; i < a.ndim(); ++i) out += (i ? ", " : "") + std::to_string(a.shape(i));
      return out + (a.ndim() == 1 ? ",)" : ")");
    };
    if (values.size() != n || gradients.ndim() != 2 || gradients.shape(0) != n || gradients.shape(1) != d)
      throw ShapeError("potential " + name + ": for x of shape (" + std::to_string(n) + ", " +
                       std::to_string(d) +
                       ") the value must have shape (N,) and the gradient (N, d); it returned " +
                       shape(values) + " and " + shape(gradients));
    if (value) std::copy_n(values.data(), n, value);
    if (!gradient) return;
    for (Index i = 0; i < x.rows; ++i) std::copy_n(gradients.data() + i * x.cols, x.cols, gradient.row(i));
  };
  return {potential(dim, call, {.thread_safe = false, .name = name}), {std::move(v)}};
}

}  // namespace

void bind_functionals(nb::module_& m) {
  nb::class_<Terms>(m, "Terms", nb::type_slots(Collected<Terms>::slots), "F in R^d.")
      .def("__add__",
           [](const Terms& a, const Terms& b) {
             Terms out{a.value + b.value, a.callables};
             out.callables.insert(out.callables.end(), b.callables.begin(), b.callables.end());
             return out;
           })
      .def(
          "scaled",
          [](const Terms& f, double factor) {
            return Terms{factor * f.value, f.callables};
          },
          "factor"_a)
      .def("needs_density", [](const Terms& f) { return f.value.needs_density(); })
      .def("describe", [](const Terms& f) { return f.value.describe(); });
  m.def(
      "potential",
      [](const std::string& v, int dim, const nb::dict& parameters) {
        return Terms{potential(v, dim, parameters_of(parameters)), {}};
      },
      "v"_a, "dim"_a, "parameters"_a);
  m.def("black_box", &black_box, "v"_a, "dim"_a, "name"_a);
  m.def(
      "learned_potential",
      [](const LearnedPotential& v, const std::string& text) {
        return Terms{learned_potential(v, text), {}};
      },
      "v"_a, "text"_a);
  m.def(
      "gaussian_mixture",
      [](const Array& means, const std::optional<Array>& variances, const std::optional<Array>& weights) {
        return Terms{gaussian_mixture_potential(matrix(means), values(variances), values(weights)), {}};
      },
      "means"_a, "variances"_a, "weights"_a);
  m.def(
      "interaction",
      [](const std::string& w, int dim, const nb::dict& parameters) {
        return Terms{interaction(w, dim, parameters_of(parameters)), {}};
      },
      "w"_a, "dim"_a, "parameters"_a);
  m.def(
      "internal",
      [](const std::string& f, const nb::dict& parameters) {
        return Terms{internal(f, parameters_of(parameters)), {}};
      },
      "f"_a, "parameters"_a);
  m.def("entropy", [] { return Terms{entropy(), {}}; });
  m.def(
      "porous_medium",
      [](double exponent) {
        return Terms{porous_medium(exponent), {}};
      },
      "m"_a);
  m.def(
      "sinkhorn",
      [](const Array& reference, double blur, double scaling, bool debias, int iterations,
         int warm_iterations, double tolerance, const std::optional<Array>& weights) {
        return Terms{sinkhorn(matrix(reference),
                              {.epsilon = epsilon_of(blur),
                               .scaling = scaling,
                               .iterations = iterations,
                               .warm_iterations = warm_iterations,
                               .tolerance = tolerance,
                               .debiased = debias},
                              values(weights)),
                     {}};
      },
      "reference"_a, "blur"_a, "scaling"_a, "debias"_a, "iterations"_a, "warm_iterations"_a, "tolerance"_a,
      "weights"_a.none());
  m.def(
      "mmd",
      [](const Array& reference, double bandwidth, const std::optional<Array>& weights) {
        return Terms{mmd(matrix(reference), bandwidth, values(weights)), {}};
      },
      "reference"_a, "bandwidth"_a, "weights"_a.none());
  m.def(
      "energy_distance",
      [](const Array& reference, const std::optional<Array>& weights) {
        return Terms{energy_distance_to(matrix(reference), values(weights)), {}};
      },
      "reference"_a, "weights"_a.none());
}

}  // namespace brenier::python
