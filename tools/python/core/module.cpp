// SPDX-License-Identifier: MIT
// brenier._core: what the Python package is written over.
#include <new>

#include "brenier/base/out_of_memory.hpp"
#include "engine/src/config/reader.hpp"
#include "tools/python/core/arrays.hpp"

namespace brenier::python {
namespace {

/// Each error of the library is one of Python's as well, so that `except ValueError` catches what it says. Later ones are
/// asked first: kinds come after their base.
void bind_errors(nb::module_& m) {
  const auto error = nb::exception<Error>(m, "Error", PyExc_RuntimeError);
  const auto also = [&](nb::handle python) { return nb::object(nb::make_tuple(error, python)); };
  nb::exception<ValueError>(m, "BadValue", also(PyExc_ValueError));
  nb::exception<ShapeError>(m, "ShapeError", also(PyExc_ValueError));
  nb::exception<ParseError>(m, "ParseError", also(PyExc_ValueError));
  nb::exception<ConfigError>(m, "ConfigError", also(PyExc_ValueError));
  nb::exception<IoError>(m, "IoError", also(PyExc_OSError));
  nb::exception<NumericalError>(m, "NumericalError", also(PyExc_ArithmeticError));
  nb::exception<NotAvailable>(m, "NotAvailable", also(PyExc_NotImplementedError));
  const auto device = nb::exception<DeviceError>(m, "DeviceError", error);
  nb::exception<OutOfDeviceMemory>(m, "OutOfDeviceMemory",
                                   nb::make_tuple(device, nb::handle(PyExc_MemoryError)));
  nb::register_exception_translator([](const std::exception_ptr& p, void*) {
    try {
      std::rethrow_exception(p);
    } catch (const OutOfMemory& e) {
      PyErr_SetString(PyExc_MemoryError, e.what());
    }
  });
}

}  // namespace
}  // namespace brenier::python

NB_MODULE(_core, m) {
  using namespace brenier::python;
  m.doc() =
      "What the package brenier is written over: its classes have the same in the conventions of Python.";
  m.attr("version") = BRENIER_VERSION;
  bind_errors(m);
  bind_functionals(m);
  bind_densities(m);
  bind_options(m);
  bind_maps(m);
  bind_flows(m);
  bind_fit(m);
  bind_distances(m);
  bind_runs(m);
}
