// SPDX-License-Identifier: MIT
// Flows, and their densities.
#include <atomic>
#include <csignal>
#include <limits>
#include <utility>

#include "brenier/atomic_file.hpp"
#include "brenier/text_file.hpp"
#include "engine/src/config/config.hpp"
#include "engine/src/flow/report_fields.hpp"
#include "kernels/base/of_file.hpp"
#include "tools/python/core/arrays.hpp"

namespace brenier::python {
namespace {

/// While it lives, Ctrl-C ends the running step of a flow, beside what Python does with the signal. For the main thread of
/// Python, the only one that handles signals; several where a function that a step calls runs a flow itself. Handlers of other
/// signals that are written in Python run after the step.
class EndsOnCtrlC {
 public:
  template <class T>
  explicit EndsOnCtrlC(Flow<T>& flow)
      : flow_(&flow), interrupt_([](void* of) { static_cast<Flow<T>*>(of)->interrupt(); }), outer_(inner) {
    inner = this;
    if (outer_) return;
    struct sigaction ours = {};
    sigaction(SIGINT, nullptr, &python);
    const bool none =
        !(python.sa_flags & SA_SIGINFO) && (python.sa_handler == SIG_DFL || python.sa_handler == SIG_IGN);
    if (none) return;
    ours.sa_sigaction = handle;
    ours.sa_flags = python.sa_flags | SA_SIGINFO;
    ours.sa_mask = python.sa_mask;
    sigaction(SIGINT, &ours, nullptr);
  }
  ~EndsOnCtrlC() {
    inner = outer_;
    struct sigaction now = {};
    if (outer_ || sigaction(SIGINT, nullptr, &now) != 0) return;
    // Somebody may have set another one meanwhile.
    if ((now.sa_flags & SA_SIGINFO) && now.sa_sigaction == handle) sigaction(SIGINT, &python, nullptr);
  }
  EndsOnCtrlC(const EndsOnCtrlC&) = delete;
  EndsOnCtrlC& operator=(const EndsOnCtrlC&) = delete;

 private:
  static void handle(int signal, siginfo_t* info, void* context) {
    if (const EndsOnCtrlC* one = inner) one->interrupt_(one->flow_);
    if (python.sa_flags & SA_SIGINFO) {
      python.sa_sigaction(signal, info, context);
    } else {
      python.sa_handler(signal);
    }
  }
  // A signal has no other way to what it ends.
  static inline std::atomic<EndsOnCtrlC*> inner = nullptr;
  static inline struct sigaction python = {};

  void* flow_;
  void (*interrupt_)(void*);
  EndsOnCtrlC* outer_;
};

nb::dict dict_of(const StepReport& report) {
  nb::dict out;
  const auto add = [&](const char* name, const auto& value) { out[name] = value; };
  for_each_field(report, add);
  for_each_part(report.functional, add);
  return out;
}

/// Computes points in blocks, rows [first, last), without the GIL; Ctrl-C ends between two. A point's result does not depend
/// on its block.
template <class Compute>
void in_blocks(Index rows, const Compute& compute) {
  constexpr Index block = 2048;
  for (Index first = 0; first < rows || first == 0; first += block) {
    without_gil([&] { compute(first, std::min(rows, first + block)); });
    if (PyErr_CheckSignals() != 0) throw nb::python_error();
  }
}

MatrixView<const double> rows_of(MatrixView<const double> all, Index first, Index last) {
  return {all.row(first), last - first, all.cols, all.ld};
}

/// `carry` of all points, block by block.
template <class Carry>
Output carried(const Array& points, const Carry& carry) {
  const MatrixView<const double> all = view(points);
  Matrix<double> out(all.rows, all.cols);
  in_blocks(all.rows, [&](Index first, Index last) {
    const Matrix<double> part = carry(rows_of(all, first, last));
    std::copy(part.elements().begin(), part.elements().end(), out.elements().begin() + first * all.cols);
  });
  return give(std::move(out));
}

/// Ends at once where another thread is inside the same object.
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

Cloud cloud_of(const Array& x, const std::optional<Array>& log_density) {
  return {matrix(x), values(log_density)};
}

/// A flow with the functions of Python that it calls.
template <class T>
struct HeldFlow {
  /// `sampling`: how fresh clouds are drawn from the law.
  HeldFlow(const Terms& functional, const Array& x, const std::optional<Array>& log_density,
           FlowOptions options, const std::optional<Density>& law, Sampling sampling)
      : callables(functional.callables), flow(functional.value, cloud_of(x, log_density), options) {
    if (law) flow.set_initial_density(*law);
    if (options.inner.refresh == 0) return;
    if (!law)
      throw ValueError(
          "refresh = " + std::to_string(options.inner.refresh) +
          "; it needs the law of the particles, which new ones are drawn from: law = Density.kde(x)");
    // As a configuration draws them.
    Config config;
    config.cloud.density = law;
    config.cloud.dim = static_cast<int>(law->dim());
    config.cloud.particles = static_cast<Index>(x.shape(0));
    config.cloud.sampling = sampling;
    config.flow.seed = options.seed;
    flow.set_source([config](std::uint32_t draw) { return config.fresh_cloud(draw); });
  }
  /// F of the particles that are held out; NaN where there are none.
  double held_out_functional() const {
    constexpr Index pairs = 8192;  // as reports of steps have them
    return held_out ? flow.functional_of(flow.tracked(0), pairs).total()
                    : std::numeric_limits<double>::quiet_NaN();
  }

  /// Goes on from a checkpoint; reports of another past end with it.
  void load(std::span<const std::byte> bytes) {
    flow.load(bytes);
    reports.clear();
    try {
      flow.tracked(0);
      held_out = true;
    } catch (const ValueError&) {
      held_out = false;
    }
  }

  std::vector<nb::object> callables;
  Flow<T> flow;
  bool held_out = false;                               // the flow tracks one cloud
  std::vector<std::pair<StepReport, double>> reports;  // with held_out_functional()
  std::atomic<bool> busy = false;
};

template <class T>
void bind_flow(nb::module_& m, const char* name) {
  using Held = HeldFlow<T>;
  nb::class_<Held>(m, name, nb::type_slots(Collected<Held>::slots))
      .def(nb::init<const Terms&, const Array&, const std::optional<Array>&, const FlowOptions&,
                    const std::optional<Density>&, Sampling>(),
           "functional"_a, "x"_a, "log_density"_a.none(), "options"_a, "law"_a.none(), "sampling"_a)
      .def(
          "step",
          [](Held& self, bool in_main_thread) {
            const Turn turn(self.busy);
            // Functions of Python may raise where the held-out particles are judged, after the step: it is undone then.
            std::vector<std::byte> before;
            if (self.held_out && !self.callables.empty()) before = self.flow.save();
            while (true) {
              const std::optional<StepReport> report = without_gil([&] {
                std::optional<EndsOnCtrlC> signals;
                if (in_main_thread) signals.emplace(self.flow);
                return self.flow.step();
              });
              if (report) {
                double held_out = std::numeric_limits<double>::quiet_NaN();
                try {
                  held_out = without_gil([&] { return self.held_out_functional(); });
                } catch (...) {
                  if (!before.empty())
                    self.flow.load(before);
                  else
                    self.reports.emplace_back(*report, held_out);
                  throw;
                }
                self.reports.emplace_back(*report, held_out);
                return true;
              }
              if (PyErr_CheckSignals() != 0) throw nb::python_error();
              if (self.flow.time() >= self.flow.options().adaptive.end_time) return false;
              // The signal came between two steps, or its handler does not raise: the step is done again.
            }
          },
          "in_main_thread"_a, "False at the end time.")
      .def(
          "take_reports",
          [](Held& self) {
            const Turn turn(self.busy);
            nb::list out;
            for (const auto& [report, held_out] : std::exchange(self.reports, {})) {
              out.append(dict_of(report));
              out[out.size() - 1]["functional_held_out"] = held_out;
            }
            return out;
          },
          "Of the steps since the last call.")
      .def("x",
           [](Held& self) {
             const Turn turn(self.busy);
             return give(Matrix<double>(self.flow.trajectory().x()));
           })
      .def("particle_log_density",
           [](Held& self) -> std::optional<Output> {
             const Turn turn(self.busy);
             if (!self.flow.trajectory().has_density()) return {};
             return give(std::vector<double>(self.flow.trajectory().log_density()));
           })
      .def("functional",
           [](Held& self) {
             const Turn turn(self.busy);
             return without_gil([&] { return self.flow.functional().total(); });
           })
      .def(
          "hold_out",
          [](Held& self, const Array& x, const std::optional<Array>& log_density) {
            const Turn turn(self.busy);
            self.flow.track(cloud_of(x, log_density));
            self.held_out = true;
          },
          "x"_a, "log_density"_a.none())
      .def("held_out",
           [](Held& self) -> std::optional<Output> {
             const Turn turn(self.busy);
             if (!self.held_out) return {};
             return give(Matrix<double>(self.flow.tracked(0).x()));
           })
      .def("held_out_functional",
           [](Held& self) {
             const Turn turn(self.busy);
             return without_gil([&] { return self.held_out_functional(); });
           })
      .def(
          "functional_of",
          [](Held& self, const Array& x, const std::optional<Array>& log_density) {
            const Turn turn(self.busy);
            Cloud cloud = cloud_of(x, log_density);
            return without_gil(
                [&] { return self.flow.functional_of(Trajectory(std::move(cloud), false)).total(); });
          },
          "x"_a, "log_density"_a.none())
      .def(
          "set_cloud",
          [](Held& self, const Array& x, const std::optional<Array>& log_density) {
            const Turn turn(self.busy);
            self.flow.set_cloud(cloud_of(x, log_density));
            self.held_out = false;
          },
          "x"_a, "log_density"_a.none())
      .def(
          "set_law",
          [](Held& self, const Density& law) {
            const Turn turn(self.busy);
            self.flow.set_initial_density(law);
          },
          "law"_a)
      .def(
          "set_functional",
          [](Held& self, const Terms& functional) {
            const Turn turn(self.busy);
            self.flow.set_functional(functional.value);
            // The old ones go last: what they are may end with them.
            const std::vector<nb::object> gone = std::exchange(self.callables, functional.callables);
          },
          "functional"_a)
      .def("particles", [](const Held& self) { return self.flow.trajectory().size(); })
      .def("has_initial_cloud", [](const Held& self) { return self.flow.has_initial_cloud(); })
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
      .def(
          "load",
          [](Held& self, const nb::bytes& bytes) {
            const Turn turn(self.busy);
            self.load({static_cast<const std::byte*>(bytes.data()), bytes.size()});
          },
          "bytes"_a)
      .def(
          "save_file",
          [](Held& self, const std::filesystem::path& path) {
            const Turn turn(self.busy);
            const std::vector<std::byte> bytes = self.flow.save();
            write_file_atomically(path, std::span<const std::byte>(bytes));
          },
          "path"_a)
      .def(
          "load_file",
          [](Held& self, const std::filesystem::path& path) {
            const Turn turn(self.busy);
            const std::string bytes = read_text_file(path, std::uint64_t{1} << 40);
            of_file(path, [&] { self.load(std::as_bytes(std::span(bytes))); });
          },
          "path"_a);
}

/// The maps of a flow, from its start to one of its steps.
struct HeldDensity {
  HeldDensity(std::vector<BrenierMap> of_flow, const std::optional<Density>& of_start, const Array& particles,
              int threads_in)
      : maps(std::move(of_flow)),
        law(of_start),
        threads(threads_in),
        // Order 2 finds origins from particles: those of the flow, around which its extrapolations are known to be fit.
        flow(maps, function(), matrix(particles), {.threads = threads}) {}

  FlowDensity::Function function() const {
    if (!law) return {};
    return [density = *law](std::span<const double> x) { return density.log_density(x); };
  }

  std::vector<BrenierMap> maps;
  std::optional<Density> law;
  int threads;
  FlowDensity flow;
  std::atomic<bool> busy = false;
};

/// As `brenier sample` draws: independent of the flow's own particles, whatever the seeds.
nb::tuple sample(HeldDensity& self, Index n, Sampling how, std::uint64_t seed) {
  const Turn turn(self.busy);
  if (!self.law)
    throw ValueError(
        "the law of the start is not known, of which new particles are drawn; give law = "
        "Density.kde(x), or push points of your own");
  Cloud cloud = without_gil([&] {
    Team team(self.threads);
    const bool second_order = std::any_of(self.maps.begin(), self.maps.end(), [](const BrenierMap& map) {
      return map.base == MapBase::extrapolated;
    });
    check_count(n, self.law->dim());
    Trajectory trajectory(self.law->sample(n, how, seed, RandomStream::fresh), second_order);
    for (const BrenierMap& map : self.maps) trajectory.advance(map, team);
    return Cloud{trajectory.x(), trajectory.log_density()};
  });
  return give(std::move(cloud));
}

}  // namespace

void bind_flows(nb::module_& m) {
  bind_flow<float>(m, "FlowFloat");
  bind_flow<double>(m, "FlowDouble");

  nb::class_<HeldDensity>(m, "FlowDensity")
      .def(nb::init<std::vector<BrenierMap>, const std::optional<Density>&, const Array&, int>(), "maps"_a,
           "law"_a.none(), "particles"_a, "threads"_a)
      .def(
          "push",
          [](HeldDensity& self, const Array& x) {
            const Turn turn(self.busy);
            return carried(x, [&](MatrixView<const double> points) { return self.flow.push(points); });
          },
          "x"_a)
      .def(
          "pull",
          [](HeldDensity& self, const Array& y) {
            const Turn turn(self.busy);
            return carried(y, [&](MatrixView<const double> points) { return self.flow.pull(points).x; });
          },
          "y"_a)
      .def(
          "log_density",
          [](HeldDensity& self, const Array& y) {
            const Turn turn(self.busy);
            if (!self.law)
              throw ValueError(
                  "the law of the start is not known, and with it the density elsewhere than at the "
                  "particles; give "
                  "law = Density.kde(x), or the Density that they are of");
            const MatrixView<const double> points = view(y);
            std::vector<double> out(static_cast<std::size_t>(points.rows));
            in_blocks(points.rows, [&](Index first, Index last) {
              const FlowDensity::LogDensities found = self.flow.log_density(rows_of(points, first, last));
              for (std::size_t i = 0; i < found.values.size(); ++i) {
                const bool known = found.status[i] != InverseStatus::unconverged;
                out[static_cast<std::size_t>(first) + i] =
                    known ? found.values[i] : std::numeric_limits<double>::quiet_NaN();
              }
            });
            return give(std::move(out));
          },
          "y"_a)
      .def("sample", &sample, "n"_a, "how"_a, "seed"_a);
}

}  // namespace brenier::python
