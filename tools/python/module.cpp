// SPDX-License-Identifier: MIT
// brenier._core: what the Python package is written over. Points come as C-contiguous (N, d) arrays of doubles and go as
// arrays that own what the library gave, without a copy. The package has the conventions of Python.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <atomic>
#include <brenier/brenier.hpp>
#include <chrono>
#include <future>
#include <memory>
#include <utility>

namespace nb = nanobind;
using namespace nb::literals;
using namespace brenier;

namespace {

using Array = nb::ndarray<const double, nb::c_contig, nb::device::cpu>;
using Output = nb::ndarray<nb::numpy, double>;

MatrixView<const double> view(const Array& x) {
  if (x.ndim() != 2)
    throw ShapeError("points are an array of " + std::to_string(x.ndim()) + " axes; wanted (N, d)");
  return {x.data(), static_cast<Index>(x.shape(0)), static_cast<Index>(x.shape(1))};
}
Matrix<double> matrix(const Array& x) {
  const MatrixView<const double> from = view(x);
  Matrix<double> out(from.rows, from.cols);
  std::copy_n(from.data, from.rows * from.cols, out.data());
  return out;
}

/// An array that owns the elements.
Output give(std::vector<double> values, std::vector<std::size_t> shape) {
  auto held = std::make_unique<std::vector<double>>(std::move(values));
  double* const data = held->data();
  nb::capsule owner(held.release(), [](void* p) noexcept { delete static_cast<std::vector<double>*>(p); });
  return Output(data, shape.size(), shape.data(), owner);
}
Output give(Matrix<double> x) {
  const auto rows = static_cast<std::size_t>(x.rows()), cols = static_cast<std::size_t>(x.cols());
  return give(std::move(x.elements()), {rows, cols});
}
Output give(std::vector<double> values) {
  const std::size_t n = values.size();
  return give(std::move(values), {n});
}
nb::tuple give(Cloud cloud) {
  nb::object log_density = nb::none();
  if (!cloud.log_density.empty()) log_density = nb::cast(give(std::move(cloud.log_density)));
  return nb::make_tuple(give(std::move(cloud.x)), log_density);
}

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

/// A callable v(x) -> (value (N,), gradient (N, d)). It is called with the GIL, from whatever thread the flow runs in.
Functional black_box(nb::object v, int dim, const std::string& name) {
  // The last copy may go in a thread without the GIL.
  const std::shared_ptr<nb::object> held(new nb::object(std::move(v)), [](nb::object* object) {
    const nb::gil_scoped_acquire gil;
    delete object;
  });
  const auto call = [held, name](MatrixView<const double> x, double* value, MatrixView<double> gradient) {
    const nb::gil_scoped_acquire gil;
    std::vector<double> copy(static_cast<std::size_t>(x.rows * x.cols));
    for (Index i = 0; i < x.rows; ++i) std::copy_n(x.row(i), x.cols, copy.data() + i * x.cols);
    const auto n = static_cast<std::size_t>(x.rows), d = static_cast<std::size_t>(x.cols);
    const nb::object result = (*held)(give(std::move(copy), {n, d}));
    if (!nb::isinstance<nb::tuple>(result) || nb::len(result) != 2)
      throw ValueError("potential " + name + " returned something else than (value, gradient)");
    const auto values = nb::cast<Array>(result[0]), gradients = nb::cast<Array>(result[1]);
    if (values.size() != n || gradients.ndim() != 2 || gradients.shape(0) != n || gradients.shape(1) != d)
      throw ShapeError("potential " + name + ": for x of shape (" + std::to_string(n) + ", " +
                       std::to_string(d) + ") the value must have shape (N,) and the gradient (N, d)");
    if (value) std::copy_n(values.data(), n, value);
    if (!gradient) return;
    for (Index i = 0; i < x.rows; ++i) std::copy_n(gradients.data() + i * x.cols, x.cols, gradient.row(i));
  };
  return potential(dim, call, {.thread_safe = false, .name = name});
}

/// Runs `work` in a thread of its own while this one looks for signals, so that Ctrl-C ends it; the GIL is released
/// meanwhile. What `work` throws is thrown here.
template <class Work, class Stop>
auto interruptibly(Work&& work, Stop&& stop) {
  auto result = std::async(std::launch::async, std::forward<Work>(work));
  bool signalled = false;
  {
    const nb::gil_scoped_release released;
    while (result.wait_for(std::chrono::milliseconds(50)) != std::future_status::ready) {
      const nb::gil_scoped_acquire gil;
      if (!signalled && PyErr_CheckSignals() != 0) {
        // The exception waits until the step is undone.
        signalled = true;
        nb::python_error pending;
        stop();
        const nb::gil_scoped_release waiting;
        result.wait();
        const nb::gil_scoped_acquire again;
        throw pending;
      }
    }
  }
  return result.get();
}

nb::dict dict_of(const StepReport& r) {
  nb::dict out;
  out["step"] = r.step;
  out["time"] = r.time;
  out["tau"] = r.tau;
  out["order"] = r.order;
  out["functional"] = r.functional.total();
  out["transport"] = r.transport;
  out["decrease"] = r.decrease;
  out["iterations"] = r.iterations;
  out["solved"] = r.solved;
  out["missed_share"] = r.missed_share;
  out["missed_share_held_out"] = r.missed_share_held_out;
  out["displacement_error"] = r.displacement_error;
  out["min_eigenvalue"] = r.min_eigenvalue;
  out["round_trip"] = r.round_trip;
  out["residual"] = r.residual;
  out["time_error"] = r.time_error;
  out["rejected"] = r.rejected;
  out["retries"] = r.retries;
  out["seconds"] = r.seconds;
  return out;
}

/// Ends at once where another thread is inside the same flow.
class Turn {
 public:
  explicit Turn(std::atomic<bool>& busy) : busy_(busy) {
    if (busy_.exchange(true)) throw ValueError("this flow is running in another thread");
  }
  ~Turn() { busy_ = false; }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

 private:
  std::atomic<bool>& busy_;
};

template <class T>
struct HeldFlow {
  HeldFlow(const Functional& functional, const Array& x, const std::optional<Array>& log_density,
           const FlowOptions& options, const std::optional<Density>& law)
      : flow(functional, cloud(x, log_density), options) {
    if (law && options.certificates) flow.set_initial_density(*law);
  }
  static Cloud cloud(const Array& x, const std::optional<Array>& log_density) {
    Cloud out{matrix(x), {}};
    if (log_density) out.log_density.assign(log_density->data(), log_density->data() + log_density->size());
    return out;
  }
  Flow<T> flow;
  std::atomic<bool> busy = false;
};

template <class T>
void bind_flow(nb::module_& m, const char* name) {
  using Held = HeldFlow<T>;
  nb::class_<Held>(m, name)
      .def(nb::init<const Functional&, const Array&, const std::optional<Array>&, const FlowOptions&,
                    const std::optional<Density>&>(),
           "functional"_a, "x"_a, "log_density"_a.none(), "options"_a, "law"_a.none())
      .def("step",
           [](Held& self) -> nb::object {
             const Turn turn(self.busy);
             const std::optional<StepReport> report =
                 interruptibly([&] { return self.flow.step(); }, [&] { self.flow.interrupt(); });
             return report ? nb::object(dict_of(*report)) : nb::none();
           })
      .def("x",
           [](Held& self) {
             const Turn turn(self.busy);
             return give(Matrix<double>(self.flow.trajectory().x()));
           })
      .def("particle_log_density",
           [](Held& self) -> nb::object {
             const Turn turn(self.busy);
             if (!self.flow.trajectory().has_density()) return nb::none();
             return nb::cast(give(std::vector<double>(self.flow.trajectory().log_density())));
           })
      .def("functional",
           [](Held& self) {
             const Turn turn(self.busy);
             return self.flow.functional().total();
           })
      .def("steps", [](const Held& self) { return self.flow.steps(); })
      .def("time", [](const Held& self) { return self.flow.time(); })
      .def("maps",
           [](Held& self) {
             const Turn turn(self.busy);
             return self.flow.maps();
           })
      .def("save",
           [](Held& self) {
             const Turn turn(self.busy);
             const std::vector<std::byte> bytes = self.flow.save();
             return nb::bytes(bytes.data(), bytes.size());
           })
      .def("load", [](Held& self, const nb::bytes& bytes) {
        const Turn turn(self.busy);
        self.flow.load({static_cast<const std::byte*>(bytes.data()), bytes.size()});
      });
}

}  // namespace

NB_MODULE(_core, m) {
  m.attr("__version__") = BRENIER_VERSION;

  // Each error of the library is one of Python's as well, so that `except ValueError` catches what it says.
  const auto error = nb::exception<Error>(m, "Error", PyExc_RuntimeError);
  const nb::object both = nb::make_tuple(error, nb::handle(PyExc_ValueError));
  nb::exception<ValueError>(m, "BadValue", both);
  nb::exception<ShapeError>(m, "ShapeError", both);
  nb::exception<ParseError>(m, "ParseError", both);
  nb::exception<IoError>(m, "IoError", error);
  nb::exception<NumericalError>(m, "NumericalError", error);
  nb::exception<NotAvailable>(m, "NotAvailable", error);

  nb::class_<Functional>(m, "Functional")
      .def("__add__", [](const Functional& a, const Functional& b) { return a + b; })
      .def("scaled", [](const Functional& f, double factor) { return factor * f; })
      .def("needs_density", &Functional::needs_density)
      .def("describe", &Functional::describe);
  m.def("potential", [](const std::string& v, int dim, const nb::dict& parameters) {
    return potential(v, dim, parameters_of(parameters));
  });
  m.def("black_box", &black_box);
  m.def("interaction", [](const std::string& w, int dim, const nb::dict& parameters) {
    return interaction(w, dim, parameters_of(parameters));
  });
  m.def("internal", [](const std::string& f, const nb::dict& parameters) {
    return internal(f, parameters_of(parameters));
  });
  m.def("entropy", &entropy);
  m.def("porous_medium", &porous_medium);
  m.def("sinkhorn", [](const Array& reference, double blur, double scaling, bool debias, int iterations) {
    return sinkhorn(
        matrix(reference),
        {.epsilon = blur * blur, .scaling = scaling, .iterations = iterations, .debiased = debias});
  });

  nb::class_<Density>(m, "Density")
      .def_static("normal",
                  [](const std::vector<double>& mean, const Array& covariance) {
                    return Density::gaussian(mean, matrix(covariance));
                  })
      .def_static("uniform", &Density::uniform)
      .def_static("mixture", &Density::mixture)
      .def_static("kde",
                  [](const Array& x, const std::string& rule) {
                    return Density::kde(view(x),
                                        rule == "scott" ? BandwidthRule::scott : BandwidthRule::silverman);
                  })
      .def_static("kde_width",
                  [](const Array& x, double bandwidth) { return Density::kde(view(x), bandwidth); })
      .def("dim", &Density::dim)
      .def("log_density", [](const Density& self, const Array& x) { return give(self.log_density(view(x))); })
      .def("sample", [](const Density& self, Index n, const std::string& how, std::uint64_t seed) {
        const Sampling sampling = how == "random"       ? Sampling::random
                                  : how == "stratified" ? Sampling::stratified
                                                        : Sampling::whitened;
        return give(self.sample(n, sampling, seed));
      });

  nb::class_<FlowOptions>(m, "Options")
      .def(nb::init<>())
      .def_rw("tau", &FlowOptions::tau)
      .def_rw("order", &FlowOptions::order)
      .def_rw("seed", &FlowOptions::seed)
      .def_rw("threads", &FlowOptions::threads)
      .def_rw("device", &FlowOptions::device)
      .def_rw("start_time", &FlowOptions::start_time)
      .def_rw("mass", &FlowOptions::mass)
      .def_rw("certificates", &FlowOptions::certificates)
      .def_rw("keep_maps", &FlowOptions::keep_maps)
      .def("set_hidden", [](FlowOptions& o, const std::vector<int>& hidden) { o.network.hidden = hidden; })
      .def("set_quadratic_rank", [](FlowOptions& o, int rank) { o.network.quadratic_rank = rank; })
      .def("set_iterations", [](FlowOptions& o, int iterations) { o.inner.iterations = iterations; })
      .def("set_minibatch", [](FlowOptions& o, Index minibatch) { o.inner.minibatch = minibatch; })
      .def("set_rate", [](FlowOptions& o, double rate) { o.inner.adam.rate = rate; })
      .def("set_adaptive", [](FlowOptions& o, double tolerance, double end_time) {
        o.adaptive = {.tolerance = tolerance, .end_time = end_time};
      });

  nb::class_<BrenierMap>(m, "Map")
      .def_ro("step", &BrenierMap::step)
      .def_ro("time", &BrenierMap::time)
      .def_ro("tau", &BrenierMap::tau)
      .def_prop_ro("dim", [](const BrenierMap& map) { return map.net.dim(); });
  bind_flow<float>(m, "FlowFloat");
  bind_flow<double>(m, "FlowDouble");

  nb::class_<FlowDensity>(m, "FlowDensity")
      .def(nb::new_([](std::vector<BrenierMap> maps, const std::optional<Density>& law,
                       const Array& particles, int threads) {
             const FlowDensityOptions options{.threads = threads};
             return law ? FlowDensity(std::move(maps), *law, options)
                        : FlowDensity(std::move(maps), FlowDensity::Function(), matrix(particles), options);
           }),
           "maps"_a, "law"_a.none(), "particles"_a, "threads"_a)
      .def("push", [](const FlowDensity& self, const Array& x) { return give(self.push(view(x))); })
      .def("pull", [](const FlowDensity& self, const Array& y) { return give(self.pull(view(y)).x); })
      .def("log_density",
           [](const FlowDensity& self, const Array& y) {
             FlowDensity::LogDensities found = self.log_density(view(y));
             for (std::size_t i = 0; i < found.values.size(); ++i) {
               if (found.status[i] == InverseStatus::unconverged)
                 found.values[i] = std::numeric_limits<double>::quiet_NaN();
             }
             return give(std::move(found.values));
           })
      .def("sample", [](const FlowDensity& self, Index n, std::uint64_t seed) {
        return give(self.sample(n, Sampling::random, seed));
      });

  m.def("entropic_transport",
        [](const Array& x, const Array& y, double blur, double scaling, bool debias, int threads) {
          Team team(threads);
          return entropic_transport(view(x), view(y),
                                    {.epsilon = blur * blur, .scaling = scaling, .debiased = debias}, team)
              .value;
        });
}
