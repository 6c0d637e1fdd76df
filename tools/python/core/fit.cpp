// SPDX-License-Identifier: MIT
// Training of convex potentials.
#include "tools/python/core/options.hpp"

namespace brenier::python {
namespace {

nb::dict dict_of(const FitEpoch& epoch) {
  nb::dict out;
  out["epoch"] = epoch.epoch;
  out["rate"] = epoch.rate;
  out["train_loss"] = epoch.train_loss;
  out["validation_loss"] = epoch.validation_loss;
  return out;
}

nb::dict dict_of(const FitScore& score, FitOptions::Loss loss) {
  nb::dict out;
  out["count"] = score.count;
  out["loss"] = score.loss;
  if (loss == FitOptions::Loss::squared) {
    out["r2"] = score.accuracy;
    return out;
  }
  out["accuracy"] = score.accuracy;
  nb::list rows;
  for (const auto& row : score.confusion) rows.append(nb::make_tuple(row[0], row[1]));
  out["confusion"] = rows;
  return out;
}

}  // namespace

void bind_fit(nb::module_& m) {
  m.def(
      "fit",
      [](const Array& x, const Array& labels, const std::string& precision, const nb::object& callback,
         const nb::dict& given) {
        const FitOptions options = fit_options(given);
        const MatrixView<const double> points = view(x);
        const std::span<const double> wanted(labels.data(), labels.size());
        const FitProgress progress = [&](const FitEpoch& epoch) {
          const nb::gil_scoped_acquire gil;
          if (PyErr_CheckSignals() != 0) throw nb::python_error();
          if (callback.is_none()) return true;
          const nb::object answer = callback(dict_of(epoch));
          const int ends = PyObject_IsTrue(answer.ptr());
          if (ends < 0) throw nb::python_error();
          return ends == 0;
        };
        FitResult found = without_gil([&] {
          return precision == "double" ? fit<double>(points, wanted, options, progress)
                                       : fit<float>(points, wanted, options, progress);
        });
        nb::dict out;
        nb::list history;
        for (const FitEpoch& epoch : found.history) history.append(dict_of(epoch));
        out["potential"] = std::move(found.potential);
        out["history"] = history;
        out["best_epoch"] = found.best_epoch;
        out["train"] = dict_of(found.train, options.loss);
        out["validation"] = dict_of(found.validation, options.loss);
        out["test"] = dict_of(found.test, options.loss);
        out["interrupted"] = found.interrupted;
        out["seconds"] = found.seconds;
        return out;
      },
      "x"_a, "labels"_a, "precision"_a, "callback"_a.none(), "given"_a);
}

}  // namespace brenier::python
