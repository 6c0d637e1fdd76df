// SPDX-License-Identifier: MIT
// Points between NumPy and the library. They come as C-contiguous (N, d) arrays of doubles and go as arrays that own what
// the library gave, without a copy; the Python side of the package has the conventions of Python.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <brenier/brenier.hpp>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace brenier::python {

namespace nb = nanobind;
using namespace nb::literals;

using Array = nb::ndarray<const double, nb::c_contig, nb::device::cpu>;
using Output = nb::ndarray<nb::numpy, double>;

/// ValueError: more particles than any memory holds.
inline void check_count(Index n, Index dim) {
  const Index most = std::numeric_limits<Index>::max() / static_cast<Index>(sizeof(double)) / dim;
  if (n > most)
    throw ValueError("n is " + std::to_string(n) + "; no memory holds more than " + std::to_string(most) +
                     " particles of dimension " + std::to_string(dim));
}

inline MatrixView<const double> view(const Array& x) {
  if (x.ndim() != 2)
    throw ShapeError("points are an array of " + std::to_string(x.ndim()) + " axes; they must be (N, d)");
  return {x.data(), static_cast<Index>(x.shape(0)), static_cast<Index>(x.shape(1))};
}
inline Matrix<double> matrix(const Array& x) {
  const MatrixView<const double> from = view(x);
  Matrix<double> out(from.rows, from.cols);
  std::copy_n(from.data, from.rows * from.cols, out.data());
  return out;
}
inline std::vector<double> values(const std::optional<Array>& x) {
  if (!x) return {};
  return {x->data(), x->data() + x->size()};
}

/// An array that owns the elements.
inline Output give(std::vector<double> values, std::vector<std::size_t> shape) {
  auto held = std::make_unique<std::vector<double>>(std::move(values));
  double* const data = held->data();
  nb::capsule owner(held.release(), [](void* p) noexcept { delete static_cast<std::vector<double>*>(p); });
  return Output(data, shape.size(), shape.data(), owner);
}
inline Output give(Matrix<double> x) {
  const auto rows = static_cast<std::size_t>(x.rows()), cols = static_cast<std::size_t>(x.cols());
  return give(std::move(x.elements()), {rows, cols});
}
inline Output give(std::vector<double> values) {
  const std::size_t n = values.size();
  return give(std::move(values), {n});
}
/// (x, log-densities or None).
inline nb::tuple give(Cloud cloud) {
  nb::object log_density = nb::none();
  if (!cloud.log_density.empty()) log_density = nb::cast(give(std::move(cloud.log_density)));
  return nb::make_tuple(give(std::move(cloud.x)), log_density);
}

/// The square of a blur. ValueError.
inline double epsilon_of(double blur) {
  if (!(blur > 0))
    throw ValueError("blur = " + std::to_string(blur) + "; it must be above 0, in the units of x");
  return blur * blur;
}

/// What the library computes meanwhile holds up no other thread of Python. `work` uses no object of Python.
template <class Work>
auto without_gil(Work&& work) {
  const nb::gil_scoped_release released;
  return work();
}

/// F with the functions of Python that it calls. F borrows them: who holds it holds these, and shows them to the garbage
/// collector, as they may lead back to it.
struct Terms {
  Functional value;
  std::vector<nb::object> callables;
};

/// For classes with a member `callables`.
template <class Held>
struct Collected {
  static int traverse(PyObject* self, visitproc visit, void* arg) {
    Py_VISIT(Py_TYPE(self));
    if (!nb::inst_ready(self)) return 0;
    for (const nb::object& callable : nb::inst_ptr<Held>(self)->callables) Py_VISIT(callable.ptr());
    return 0;
  }
  static int clear(PyObject* self) {
    // Whatever their destructors do finds the list empty.
    const std::vector<nb::object> gone = std::exchange(nb::inst_ptr<Held>(self)->callables, {});
    return 0;
  }
  static inline const PyType_Slot slots[] = {{Py_tp_traverse, reinterpret_cast<void*>(traverse)},
                                             {Py_tp_clear, reinterpret_cast<void*>(clear)},
                                             {0, nullptr}};
};

// Each file's part of the module.
void bind_functionals(nb::module_& m);
void bind_densities(nb::module_& m);
void bind_options(nb::module_& m);
void bind_maps(nb::module_& m);
void bind_flows(nb::module_& m);
void bind_fit(nb::module_& m);
void bind_distances(nb::module_& m);
void bind_runs(nb::module_& m);

}  // namespace brenier::python
