// SPDX-License-Identifier: MIT
// One JKO step on the device. Inside the inner loop the host launches, and looks where the device is while it
// still has work.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "kernels/cuda/cloud/cloud_forces.hpp"
#include "kernels/cuda/cloud/clouds.hpp"
#include "kernels/cuda/cloud/divergence.hpp"
#include "kernels/cuda/cloud/network_force.hpp"
#include "kernels/cuda/network/device_net.hpp"
#include "kernels/cuda/step/step_cg.hpp"
#include "kernels/operations.hpp"

namespace brenier::cuda {

/// One JKO step on the device: everything that its kernels read and write.
template <class T, class Policy>
class DeviceStep {
 public:
  DeviceStep(const InnerProblem<T>& problem, const T* theta, int iteration, Stream& stream)
      : problem_(problem),
        stream_(stream),
        n_(as_int(problem.minibatch > 0 ? problem.minibatch : problem.x.rows)),
        d_(as_int(problem.x.cols)),
        potential_(problem.objective->potential, stream),
        log_det_(log_det(problem)),
        net_(*problem.net, theta, n_, task(*problem.objective, log_det_), stream),
        cloud_(upload<T>(problem.x, stream)),
        log_density_(upload(problem.log_density, problem.log_density ? problem.x.rows : 0, stream)),
        partial_(Index{net_.grid()} * net_.packed()),
        gradient_(net_.packed()),
        reports_(!log_det_        ? 0
                 : net_.layered() ? n_
                                  : net_.grid()),
        pairs_(problem.objective->interaction, d_,
               std::max(pair_threads(n_), Index{net_.grid()} * kTileThreads), stream),
        forces_(n_, d_) {
    const std::vector<T> shift(problem.shift.begin(), problem.shift.end());
    shift_ = upload(shift.data(), d_, stream);
    start_ = {.iteration = iteration};
    control_ = upload(&start_, 1, stream);
    for (const InternalTerm& term : problem.objective->internal) {
      surrogates_.emplace_back(term.surrogate, stream);
      internal_host_.push_back({term.form, term.weight, term.exponent, surrogates_.back().view});
    }
    internal_ = upload(internal_host_.data(), static_cast<Index>(internal_host_.size()), stream);
    for (const NetworkTerm& term : problem.objective->network) {
      forces_.add(std::make_unique<NetworkForce<T, Policy>>(term, problem.shift, n_, raw(control_), stream));
    }
    for (const DivergenceTerm& term : problem.objective->divergence) {
      std::unique_ptr<DivergenceForce<T>> force =
          divergence_force<T>(term, problem.shift, n_, raw(control_), stream);
      divergences_.push_back(force.get());
      forces_.add(std::move(force));
    }
    // What nobody asks for takes no memory: a cloud of images is as large as the cloud.
    if (needs_images()) image_ = DeviceBuffer<T>(Index{n_} * d_, "images of the particles");
    if (interacting() && net_.layered()) force_ = DeviceBuffer<T>(Index{n_} * d_, "forces of interactions");
    if (!log_det_) return;
    reports_.fill_zero(stream);
    log_det_->reports = raw(reports_);
  }

  /// Before a loop is captured: launches everything that an iteration launches, so that no kernel has to be
  /// loaded and no product set up during a capture; `launch_update` is Adam's. Under a control that says stop
  /// nothing changes, but where the host must steer: divergences run their schedules, and the gradient is one
  /// that nobody reads.
  void prepare(const std::function<void()>& launch_update) {
    if (!divergences_.empty()) launch_gradient();
    const auto set = [&](const Control& control) {
      control_.copy_to_device(std::span<const Control>(&control, 1), stream_);
    };
    Control stopped = start_;
    stopped.stop = 1;
    set(stopped);
    if (divergences_.empty()) launch_gradient();
    launch_update();
    set(start_);
  }

  /// Launches the sums of one iteration's gradient.
  void launch_gradient() {
    StepArgs<T> args{.tile = net_.args(raw(cloud_), n_)};
    args.tile.partial = raw(partial_);
    args.cloud = as_int(problem_.x.rows);
    args.minibatch = as_int(problem_.minibatch);
    args.seed = problem_.seed;
    args.step = problem_.step;
    args.log_density = problem_.log_density ? raw(log_density_) : nullptr;
    args.shift = raw(shift_);
    args.scale = static_cast<T>(problem_.scale);
    args.inertia = static_cast<T>(problem_.scale * problem_.scale / problem_.tau);
    args.has_potential = problem_.objective->has_potential();
    args.potential = potential_.view;
    args.internal = raw(internal_);
    args.internal_terms = as_int(static_cast<Index>(internal_host_.size()));
    args.image = raw(image_);
    args.control = raw(control_);
    args.external = raw(forces_.external());
    if (log_det_) return launch_stochastic(args);
    net_.template run<Kernels::of_steps>(
        [&](auto form) {
          using Form = decltype(form);
          args.pairs = pairs_.terms();
          if (needs_images()) launch(image_kernel<Form>, net_.shape("images"), args);
          forces_.launch(image_.pointer(), stream_);
          launch(step_kernel<Form>, net_.shape("step"), args);
        },
        [&](LayeredNet<T>& layered) {
          args.force = raw(force_);
          layered.step(
              args, needs_images(), [&] { launch_forces(); }, stream_);
        });
  }
  /// Launches the sum over blocks; with Adam where `args` has what it needs.
  void launch_update(UpdateArgs<T> args) {
    args.partial = raw(partial_);
    args.blocks = net_.grid();
    args.packed = net_.packed();
    args.n = n_;
    args.control = raw(control_);
    cuda::launch_update(args, "update", stream_);
  }

  /// The gradient alone, net.parameters() elements.
  void gradient(double* out) {
    launch_gradient();
    UpdateArgs<T> args{};
    args.gradient = raw(gradient_);
    launch_update(args);
    net_.net().unpack(download(gradient_, stream_).data(), out);
  }

  DeviceNet<T, Policy>& net() { return net_; }
  DeviceBuffer<Control>& control() { return control_; }
  /// Of all transport problems so far.
  SinkhornReport transports() {
    SinkhornReport sum;
    for (DivergenceForce<T>* force : divergences_) sum.add(force->report(stream_));
    return sum;
  }
  /// Of all solves so far.
  CgReport solves() {
    CgReport sum;
    if (!log_det_) return sum;
    for (const CgReport& one : download(reports_, stream_)) sum.add(one);
    return sum;
  }

 private:
  /// Nothing where log det H is exact or not wanted.
  static std::optional<LogDetArgs> log_det(const InnerProblem<T>& problem) {
    const std::vector<InternalTerm>& internal = problem.objective->internal;
    const LogDetOptions options = problem.log_det.resolved(problem.net->dim());
    if (internal.empty() || options.method == LogDetOptions::Method::exact) return std::nullopt;
    LogDetArgs args;
    args.probes = problem.log_det.probes;
    args.options = problem.log_det.cg();
    for (const InternalTerm& term : internal) {
      // The weight of the entropy does not depend on log det H.
      if (term.form != InternalTerm::Form::entropy) args.recorded = problem.log_det.iterations;
    }
    return args;
  }
  bool interacting() const { return !problem_.objective->interaction.empty(); }
  /// Whether some term of F sees all particles at once.
  bool needs_images() const { return interacting() || !forces_.empty(); }
  /// Layer by layer: all forces on the images.
  void launch_forces() {
    if (interacting()) launch_tile_forces<T>(pairs_.terms(), image_.pointer(), n_, force_.pointer(), stream_);
    forces_.launch(image_.pointer(), stream_);
  }
  void launch_stochastic(const StepArgs<T>& step) {
    StepCgArgs<T> args{step, *log_det_, single_plan(step.tile.plan)};
    net_.run(
        [&](auto form) {
          using Form = decltype(form);
          args.step.pairs = pairs_.terms();
          if (needs_images()) {
            StepArgs<T> images = args.step;
            images.tile.plan.tangents = 0;
            launch(image_kernel<Form>, net_.shape("images"), images);
          }
          forces_.launch(image_.pointer(), stream_);
          launch(step_cg_kernel<Form>, net_.shape("step with solves"), args);
        },
        [&](LayeredNet<T>& layered) {
          args.step.force = raw(force_);
          layered.step_cg(
              args, needs_images(), [&] { launch_forces(); }, stream_);
        });
  }
  static TileTask task(const Objective& objective, const std::optional<LogDetArgs>& log_det) {
    TileTask task{.gradient = true, .step = !log_det};
    if (!objective.internal.empty()) task.directions = Directions::unit;
    task.interacting = !objective.interaction.empty();
    task.program_rows = as_int(objective.potential.workspace());
    for (const InternalTerm& term : objective.internal) {
      task.surrogate_rows = std::max(task.surrogate_rows, as_int(term.surrogate.workspace()));
    }
    if (log_det) add_log_det(task, *log_det);
    return task;
  }

  const InnerProblem<T>& problem_;
  Stream& stream_;
  int n_, d_;
  DeviceProgram potential_;
  std::optional<LogDetArgs> log_det_;
  DeviceNet<T, Policy> net_;
  DeviceBuffer<T> cloud_;
  DeviceBuffer<double> log_density_;
  DeviceBuffer<T> image_, force_, partial_;
  DeviceBuffer<double> gradient_;
  DeviceBuffer<CgReport> reports_;
  DeviceBuffer<T> shift_;
  Control start_;
  DeviceBuffer<Control> control_;
  std::vector<DeviceProgram> surrogates_;
  std::vector<InternalView> internal_host_;
  DeviceBuffer<InternalView> internal_;
  DevicePairs<T> pairs_;
  CloudForces<T> forces_;
  std::vector<DivergenceForce<T>*> divergences_;  // among forces_
};

/// Moments, bounds and the constants of Adam, beside a DeviceStep.
template <class T, class Policy>
class DeviceAdam {
 public:
  DeviceAdam(const InnerProblem<T>& problem, const InnerState<T>& state, int until,
             DeviceStep<T, Policy>& step, Stream& stream)
      : step_(step), first_iteration_(state.iteration) {
    const PackedNet& net = step.net().net();
    m_ = two_sets(net.pack(state.first_moment.data()), stream);
    v_ = two_sets(net.pack(state.second_moment.data()), stream);
    std::vector<T> lower, rate;
    for (const ParameterTensor& tensor : problem.net->tensors()) {
      lower.insert(lower.end(), static_cast<std::size_t>(tensor.size()), static_cast<T>(tensor.lower));
      rate.insert(rate.end(), static_cast<std::size_t>(tensor.size()), static_cast<T>(tensor.rate));
    }
    lower_ = upload(net.pack(lower.data()).data(), net.size(), stream);
    rate_ = upload(net.pack(rate.data()).data(), net.size(), stream);
    std::vector<AdamStep<T>> table;
    for (int k = state.iteration; k < until; ++k) table.emplace_back(problem.adam, k, problem.iterations);
    table_ = upload(table.data(), static_cast<Index>(table.size()), stream);
    norm2_ = DeviceBuffer<double>(update_blocks(step.net().packed()));
    ticket_ = DeviceBuffer<unsigned>(1);
    ticket_.fill_zero(stream);
    tolerance_ = problem.tolerance;
    gradient_scale_ = problem.gradient_scale;
  }

  void launch() {
    UpdateArgs<T> args{};
    args.theta = raw(step_.net().theta());
    args.m = raw(m_);
    args.v = raw(v_);
    args.lower = raw(lower_);
    args.rate = raw(rate_);
    args.adam = raw(table_);
    args.first_iteration = first_iteration_;
    args.tolerance = tolerance_;
    args.gradient_scale = gradient_scale_;
    args.norm2 = raw(norm2_);
    args.ticket = raw(ticket_);
    step_.launch_update(args);
  }
  /// Reads the current set back.
  void read(InnerState<T>& state, int current, Stream& stream) {
    const PackedNet& net = step_.net().net();
    const auto read = [&](const DeviceBuffer<T>& from, std::vector<T>& to) {
      net.unpack(download(from, stream).data() + current * net.size(), to.data());
    };
    read(step_.net().theta(), state.theta);
    read(m_, state.first_moment);
    read(v_, state.second_moment);
  }

 private:
  static DeviceBuffer<T> two_sets(std::vector<T> one, Stream& stream) {
    const std::size_t size = one.size();
    one.resize(2 * size);
    std::copy_n(one.begin(), size, one.begin() + static_cast<std::ptrdiff_t>(size));
    return upload(one.data(), static_cast<Index>(one.size()), stream);
  }

  DeviceStep<T, Policy>& step_;
  int first_iteration_;
  double tolerance_, gradient_scale_;
  DeviceBuffer<T> m_, v_, lower_, rate_;
  DeviceBuffer<AdamStep<T>> table_;
  DeviceBuffer<double> norm2_;
  DeviceBuffer<unsigned> ticket_;
};

/// Keeps the host two launches ahead of the device, instead of all of them: what it decides (an interruption,
/// an end of the launching) then comes soon. It waits for a launch behind which two others are queued, and
/// reads the flag through a stream of its own, which waits for nothing. Whether two are enough for the shortest
/// launches is to be measured on a device.
class LaunchPace {
 public:
  /// After a launch into `stream`; from the third on two waits of the host. Whether the device has decided to
  /// stop, two launches back or since: later iterations do nothing.
  bool launched(const DeviceBuffer<Control>& control, Stream& stream) {
    if (ends_.empty()) ends_ = std::vector<Event>(kAhead);
    Event& end = ends_[count_ % kAhead];
    bool stop = false;
    if (count_++ >= kAhead) {
      end.synchronise();
      if (!beside_) beside_.emplace();
      // The device may be writing: of what comes only this aligned word, which is 0 or 1, means something.
      stop = download(control, *beside_).front().stop != 0;
    }
    end.record(stream);
    return stop;
  }

 private:
  static constexpr std::size_t kAhead = 2;
  std::vector<Event> ends_;
  std::size_t count_ = 0;
  std::optional<Stream> beside_;
};

template <class T, class Policy>
void objective_gradient(const InnerProblem<T>& problem, const T* theta, int iteration, double* gradient,
                        Team&) {
  Stream stream;
  DeviceStep<T, Policy> step(problem, theta, iteration, stream);
  step.gradient(gradient);
}

template <class T, class Policy>
InnerReport inner_loop(const InnerProblem<T>& problem, InnerState<T>& state, int until, Team&) {
  Stream stream;
  DeviceStep<T, Policy> step(problem, state.theta.data(), state.iteration, stream);
  DeviceAdam<T, Policy> adam(problem, state, until, step, stream);
  // Iterations of one graph: the host launches seldom. Layer by layer, one iteration is launches enough.
  const int unrolled = step.net().layered() ? 1 : 16;
  // Recorded once, replayed without the host: the iteration number, the decision to stop and the norm that
  // decides it stay on the device.
  const auto iterate = [&](int iterations) {
    for (int k = 0; k < iterations; ++k) {
      step.launch_gradient();
      adam.launch();
    }
  };
  const auto record = [&](int iterations) { return Graph::capture(stream, [&] { iterate(iterations); }); };
  step.prepare([&] { adam.launch(); });
  const int todo = until - state.iteration;
  const bool recorded = !stream.options().synchronise_launches;
  std::optional<Graph> one, many;
  if (recorded) one.emplace(record(1));
  if (recorded && unrolled > 1 && todo >= unrolled) many.emplace(record(unrolled));
  InnerReport report;
  const auto interrupted = [&] {
    return problem.interrupt && problem.interrupt->load(std::memory_order_relaxed);
  };
  LaunchPace pace;
  bool stopped = false;
  for (int k = 0; k < todo && !report.interrupted && !stopped;) {
    const bool all = many && k + unrolled <= todo && !interrupted();
    if (!recorded) {
      iterate(1);
    } else {
      (all ? *many : *one).launch(stream);
    }
    k += all ? unrolled : 1;
    // The single iterations at the end of a loop are together less than one of its large graphs.
    if (all || unrolled == 1) stopped = pace.launched(step.control(), stream);
    report.interrupted = interrupted();
  }
  const Control control = download(step.control(), stream).front();
  adam.read(state, control.current, stream);
  state.iteration = control.iteration;
  static_cast<LoopProgress&>(report) = control.progress;
  report.cg = step.solves();
  report.sinkhorn = step.transports();
  return report;
}

}  // namespace brenier::cuda
