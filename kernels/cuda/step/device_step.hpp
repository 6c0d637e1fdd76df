// SPDX-License-Identifier: MIT
// One JKO step on the device: what its kernels read and write, and their launches.
#pragma once

#include <algorithm>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "kernels/cuda/cloud/cloud_forces.hpp"
#include "kernels/cuda/cloud/clouds.hpp"
#include "kernels/cuda/cloud/divergence.hpp"
#include "kernels/cuda/cloud/network_force.hpp"
#include "kernels/cuda/network/device_net.hpp"
#include "kernels/cuda/step/energies.hpp"
#include "kernels/cuda/step/step_cg.hpp"
#include "kernels/device/ranks.hpp"
#include "kernels/operations.hpp"

namespace brenier::cuda {

/// One JKO step on the device: everything that its kernels read and write.
template <class T, class Policy>
class DeviceStep {
 public:
  /// With `values`, launch_value() may be called, where log det H is not stochastic. `ranks`: the devices that form the
  /// gradient together, or null.
  DeviceStep(const InnerProblem<T>& problem, const T* theta, int iteration, Stream& stream,
             bool values = false, DeviceRanks* ranks = nullptr)
      : problem_(problem),
        stream_(stream),
        n_(as_int(problem.minibatch > 0 ? problem.minibatch : problem.x.rows)),
        d_(as_int(problem.x.cols)),
        potential_(problem.objective->potential, stream),
        log_det_(log_det(problem)),
        net_(*problem.net, {theta, problem.known}, n_, task(*problem.objective, log_det_), stream),
        ranks_(net_.layered() ? nullptr : ranks),
        share_(ranks_ ? (net_.grid() + ranks_->size() - 1) / ranks_->size() : net_.grid()),
        first_(ranks_ ? std::min(ranks_->rank() * share_, net_.grid()) : 0),
        blocks_(ranks_ ? ranks_->size() * share_ : net_.grid()),
        cloud_(problem.resident ? DeviceBuffer<T>() : upload<T>(problem.x, stream)),
        log_density_(problem.resident
                         ? DeviceBuffer<double>()
                         : upload(problem.log_density, problem.log_density ? problem.x.rows : 0, stream)),
        partial_(Index{blocks_} * net_.packed()),
        gradient_(net_.packed() + 1),
        reports_(!log_det_        ? 0
                 : net_.layered() ? n_
                                  : blocks_),
        pairs_(problem.objective->interaction, d_,
               std::max(pair_threads(n_), Index{net_.grid()} * kTileThreads), stream),
        forces_(n_, d_) {
    const std::vector<T> shift(problem.shift.begin(), problem.shift.end());
    shift_ = upload(shift.data(), d_, stream);
    start_ = {.iteration = iteration};
    control_ = upload(&start_, 1, stream);
    for (const InternalTerm& term : problem.objective->internal) {
      programs_.emplace_back(term.surrogate, stream);
      internal_host_.push_back({term.form, term.weight, term.exponent, programs_.back().view});
    }
    internal_ = upload(internal_host_.data(), static_cast<Index>(internal_host_.size()), stream);
    for (const NetworkTerm& term : problem.objective->network) {
      forces_.add(
          std::make_unique<NetworkForce<T, Policy>>(term, problem.shift, n_, raw(control_), values, stream));
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
    if (values && !log_det_) prepare_values();
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

  /// Whether there is a value: not of a stochastic log det.
  bool has_value() const { return value_.has_value(); }

  /// Launches the sums of one iteration's gradient, of the blocks of this process, and brings the rows of all blocks to
  /// all, with the maps that values need.
  void launch_gradient() {
    const StepArgs<T> args = arguments();
    if (log_det_) {
      launch_stochastic(args);
    } else {
      launch_exact(args);
    }
    gather(partial_.pointer(), net_.packed());
    if (!has_value()) return;
    const int maps = kept_.rounds * kept_.tile;
    gather(displacement_.pointer(), maps * d_);
    if (log_dets_.size() > 0) gather(log_dets_.pointer(), maps);
  }
  /// After launch_gradient(): the objective's value, up to a constant, behind the sums of its gradient.
  void launch_value() {
    value_->begin();
    ParticleEnergies<T> energies{.step = arguments()};
    energies.terms = raw(energies_);
    energies.inertia = problem_.scale * problem_.scale / (2 * problem_.tau);
    energies.rows = raw(rows_);
    energies.internal_rows = raw(internal_rows_);
    value_->add("energies of particles", 1.0 / n_, n_, energies, stream_);
    if (pair_energy_) pair_energy_->launch(image_.pointer(), *value_, stream_);
    forces_.launch_values(image_.pointer(), *value_, stream_);
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
  /// Launches the sum over blocks into sums().
  void launch_sum() {
    UpdateArgs<T> args{};
    args.gradient = raw(gradient_);
    launch_update(args);
  }

  /// Launches gradient and value, where there is one, into sums().
  void launch_evaluation() {
    launch_gradient();
    if (has_value()) launch_value();
    launch_sum();
  }
  /// (packed + 1): the gradient, and behind it the value.
  DeviceBuffer<double>& sums() { return gradient_; }

  /// Before an evaluation.
  void set(const T* theta, int iteration) {
    net_.set_theta(theta);
    if (iteration == start_.iteration) return;
    start_.iteration = iteration;
    control_.copy_to_device(std::span<const Control>(&start_, 1), stream_);
  }
  /// What the launches above have left; waits.
  double read(double* gradient) {
    const std::vector<double> sums = download(gradient_, stream_);
    net_.net().unpack(sums.data(), gradient);
    return has_value() ? sums.back() : std::numeric_limits<double>::quiet_NaN();
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
    gather(reports_.pointer(), 1);
    for (const CgReport& one : download(reports_, stream_)) sum.add(one);
    return sum;
  }

 private:
  /// Rows of `length` elements, a block each, to all processes.
  template <class Element>
  void gather(DevicePointer<Element> rows, int length) {
    const std::size_t row = static_cast<std::size_t>(length) * sizeof(Element);
    if (ranks_) ranks_->gather(rows.address(), static_cast<std::size_t>(share_) * row, stream_);
  }
  /// A kernel over the tiles of the blocks of this process, which may have none.
  template <class Kernel, class Args>
  void launch_tiles(Kernel* kernel, const char* name, const Args& args) {
    const int blocks = std::min(share_, net_.grid() - first_);
    if (blocks > 0) launch(kernel, net_.shape(name, blocks), args);
  }
  /// Of the kernels that compute an iteration's gradient.
  StepArgs<T> arguments() {
    StepArgs<T> args{.tile = net_.args(problem_.resident ? problem_.x.data : raw(cloud_), n_)};
    args.tile.partial = raw(partial_);
    args.tile.first = first_;
    args.cloud = as_int(problem_.x.rows);
    args.minibatch = as_int(problem_.minibatch);
    args.seed = problem_.seed;
    args.step = problem_.step;
    args.log_density = problem_.resident      ? problem_.log_density
                       : problem_.log_density ? raw(log_density_)
                                              : nullptr;
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
    if (!has_value()) return args;
    args.kept = kept_;
    args.tile.displacement = raw(displacement_);
    args.tile.log_det = args.internal_terms > 0 ? raw(log_dets_) : nullptr;
    return args;
  }
  void launch_exact(StepArgs<T> args) {
    net_.template run<Kernels::of_steps>(
        [&](auto form) {
          using Form = decltype(form);
          args.pairs = pairs_.terms();
          if (needs_images()) launch(image_kernel<Form>, net_.shape("images"), args);
          forces_.launch(image_.pointer(), stream_);
          if constexpr (Form::kParticles == 8) {
            if (on_the_line()) return launch_tiles(step_kernel<LineForm<T, Policy>>, "step", args);
          }
          launch_tiles(step_kernel<Form>, "step", args);
        },
        [&](LayeredNet<T>& layered) {
          args.force = raw(force_);
          layered.step(
              args, needs_images(), [&] { launch_forces(); }, stream_);
        });
  }
  void prepare_values() {
    value_.emplace(gradient_.pointer(net_.packed()), raw(control_), stream_);
    Index maps = n_;
    if (!net_.layered()) {
      const int tiles = (n_ + net_.tile() - 1) / net_.tile();
      kept_ = {net_.tile(), (tiles + net_.grid() - 1) / net_.grid()};
      maps = Index{blocks_} * kept_.rounds * kept_.tile;
    }
    displacement_ = DeviceBuffer<T>(maps * d_, "displacements of the particles");
    log_dets_ = DeviceBuffer<double>(internal_host_.empty() ? 0 : maps);
    const Index threads = DeviceValue::threads(n_);
    const Objective& objective = *problem_.objective;
    if (objective.has_potential())
      rows_ = DeviceBuffer<T>(threads * (d_ + as_int(objective.potential.workspace())));
    Index rows = 0;
    std::vector<InternalView> energies;
    for (const InternalTerm& term : objective.internal) {
      programs_.emplace_back(term.program, stream_);
      energies.push_back({term.form, term.weight, term.exponent, programs_.back().view});
      rows = std::max(rows, static_cast<Index>(term.program.workspace()));
    }
    energies_ = upload(energies.data(), static_cast<Index>(energies.size()), stream_);
    internal_rows_ = DeviceBuffer<double>(threads * rows);
    if (interacting()) pair_energy_ = pair_energy<T>(pairs_, n_, stream_);
  }
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
  /// What LineForm is for.
  bool on_the_line() const {
    const std::vector<InternalTerm>& internal = problem_.objective->internal;
    return d_ == 1 && !interacting() &&
           std::none_of(internal.begin(), internal.end(),
                        [](const InternalTerm& term) { return term.form == InternalTerm::Form::general; });
  }
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
          launch_tiles(step_cg_kernel<Form>, "step with solves", args);
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
  DeviceRanks* ranks_;          // null where this process computes all by itself
  int share_, first_, blocks_;  // blocks of a process, the first one here, and of all with what fills them up
  DeviceBuffer<T> cloud_;       // where the problem's does not reside on the device
  DeviceBuffer<double> log_density_;  // likewise
  DeviceBuffer<T> image_, force_, partial_;
  DeviceBuffer<double> gradient_;  // (packed), and the value
  DeviceBuffer<CgReport> reports_;
  DeviceBuffer<T> shift_;
  Control start_;
  DeviceBuffer<Control> control_;
  std::vector<DeviceProgram> programs_;  // of internal energies
  std::vector<InternalView> internal_host_;
  DeviceBuffer<InternalView> internal_;
  DevicePairs<T> pairs_;
  CloudForces<T> forces_;
  std::vector<DivergenceForce<T>*> divergences_;  // among forces_
  // Of the value, where it is wanted.
  std::optional<DeviceValue> value_;
  KeptOrder kept_;
  DeviceBuffer<T> displacement_, rows_;
  DeviceBuffer<double> log_dets_, internal_rows_;
  DeviceBuffer<InternalView> energies_;
  std::unique_ptr<PairEnergy<T>> pair_energy_;
};

}  // namespace brenier::cuda
