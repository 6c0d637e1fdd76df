// SPDX-License-Identifier: MIT
// The cuda backend's table of operations: what the host does around the kernels. Compiled by nvcc for a GPU
// and by the host compiler for the emulator. Clouds come from and go to host memory; inside an inner loop the
// host only launches.
#pragma once

#include <algorithm>
#include <vector>

#include "kernels/cuda/other_kernels.hpp"
#include "kernels/cuda/pair_kernels.hpp"
#include "kernels/cuda/transfer.hpp"
#include "kernels/ops.hpp"

namespace brenier::cuda {

/// Network, plan and parameters on the device, and how tile kernels are launched for them.
template <class T>
class DeviceNet {
 public:
  DeviceNet(const Icnn& net, const T* theta, Index particles, Directions directions, int count, bool gradient,
            int program_rows, Stream& stream)
      : stream_(stream),
        host_(net),
        plan_host_(host_, directions, count, gradient, program_rows, sizeof(T) == 8),
        net_(upload(&host_, 1, stream)),
        plan_(upload(&plan_host_, 1, stream)),
        theta_(upload(theta, net.parameters(), stream)),
        tiles_(static_cast<int>((particles + kTileLanes - 1) / kTileLanes)) {
    // The number of blocks fixes the order of sums: it depends on the problem, not on the device.
    grid_ = std::max(1, std::min(tiles_, kMaxBlocks));
    const std::size_t bytes = static_cast<std::size_t>(plan_host_.rows) * kRow * sizeof(T);
    if (bytes <= kSharedBytes) {
      shared_bytes_ = bytes;
    } else {
      slab_ = DeviceBuffer<T>(Index{grid_} * plan_host_.rows * kRow);
      slab_.fill_zero(stream);
    }
  }

  TileArgs<T> args(const T* x, int n) {
    TileArgs<T> out{};
    out.net = raw(net_);
    out.plan = raw(plan_);
    out.theta = raw(theta_);
    out.x = x;
    out.n = n;
    out.slab = slab_.size() > 0 ? raw(slab_) : nullptr;
    return out;
  }
  DeviceBuffer<T>& theta() { return theta_; }
  int grid() const { return grid_; }
  int parameters() const { return host_.parameters; }
  Launch shape(const char* name) const { return {grid_, kTileThreads, shared_bytes_, stream_, name}; }

 private:
  static constexpr int kMaxBlocks = 264;                   // two for each multiprocessor of a large device
  static constexpr std::size_t kSharedBytes = 160 * 1024;  // of the 227 KiB that a block may have

  Stream& stream_;
  NetView host_;
  TilePlan plan_host_;
  DeviceBuffer<NetView> net_;
  DeviceBuffer<TilePlan> plan_;
  DeviceBuffer<T> theta_, slab_;
  int tiles_, grid_ = 1;
  std::size_t shared_bytes_ = 0;
};

inline int as_int(Index n) {
  return static_cast<int>(n);
}

template <class T>
void evaluate(const Icnn& net, const T* theta, MatrixView<const T> x, const MapOutputs<T>& out, Team&) {
  Stream stream;
  const int n = as_int(x.rows);
  const int d = net.dim();
  const bool curvature = out.hessian || out.log_det;
  DeviceNet<T> device(net, theta, n, curvature ? Directions::unit : Directions::none, 0, false, 0, stream);
  DeviceBuffer<T> cloud = upload<T>(x, stream);
  DeviceBuffer<T> potential(n), displacement(Index{n} * d), hessian(curvature ? Index{n} * d * d : 1);
  DeviceBuffer<double> log_det(n);
  TileArgs<T> args = device.args(raw(cloud), n);
  if (out.potential) args.potential = raw(potential);
  if (out.displacement) args.displacement = raw(displacement);
  if (out.hessian) args.hessian = raw(hessian);
  if (out.log_det) args.log_det = raw(log_det);
  launch(evaluate_kernel<T>, device.shape("evaluate"), args);
  if (out.potential) download(potential, MatrixView<T>(out.potential, n, 1), stream);
  if (out.displacement) download(displacement, out.displacement, stream);
  if (out.hessian) download(hessian, out.hessian, stream);
  if (out.log_det) download(log_det, MatrixView<double>(out.log_det, n, 1), stream);
}

template <class T>
void hessian_vector(const Icnn& net, const T* theta, MatrixView<const T> x, MatrixView<const T> p,
                    MatrixView<T> out, Team&) {
  Stream stream;
  DeviceNet<T> device(net, theta, x.rows, Directions::single, 1, true, 0, stream);
  DeviceBuffer<T> cloud = upload<T>(x, stream), direction = upload<T>(p, stream), product(x.rows * x.cols);
  TileArgs<T> args = device.args(raw(cloud), as_int(x.rows));
  args.q = raw(direction);
  args.product = raw(product);
  launch(hessian_vector_kernel<T>, device.shape("hessian_vector"), args);
  download(product, out, stream);
}

template <class T>
void reduce(DeviceNet<T>& device, DeviceBuffer<T>& partial, double n, double* gradient, Stream& stream) {
  DeviceBuffer<double> sum(device.parameters());
  ReduceArgs<T> args{};
  args.partial = raw(partial);
  args.blocks = device.grid();
  args.parameters = device.parameters();
  args.n = n;
  args.gradient = raw(sum);
  const int blocks = (device.parameters() + kThreads - 1) / kThreads;
  launch(reduce_kernel<T>, {blocks, kThreads, sizeof(PairShared), stream, "reduce"}, args);
  download(sum, MatrixView<double>(gradient, device.parameters(), 1), stream);
}

template <class T>
void jet_gradient(const Icnn& net, const T* theta, MatrixView<const T> x, const JetSeeds<T>& seeds,
                  double* gradient, Team&) {
  Stream stream;
  const Directions directions = seeds.metric            ? Directions::unit
                                : seeds.directions == 0 ? Directions::none
                                : seeds.p               ? Directions::pairs
                                                        : Directions::single;
  const int count = seeds.metric ? 0 : seeds.directions;
  DeviceNet<T> device(net, theta, x.rows, directions, count, true, 0, stream);
  DeviceBuffer<T> cloud = upload<T>(x, stream), a = upload(seeds.a, seeds.a ? x.rows : 0, stream);
  DeviceBuffer<T> v = upload<T>(seeds.v, stream), q = upload<T>(seeds.q, stream),
                  p = upload<T>(seeds.p, stream);
  DeviceBuffer<T> metric = upload<T>(seeds.metric, stream), partial(Index{device.grid()} * net.parameters());
  TileArgs<T> args = device.args(raw(cloud), as_int(x.rows));
  if (seeds.a) args.a = raw(a);
  if (seeds.v) args.v = raw(v);
  if (seeds.q) args.q = raw(q);
  if (seeds.p) args.p = raw(p);
  if (seeds.metric) args.metric = raw(metric);
  args.partial = raw(partial);
  launch(jet_kernel<T>, device.shape("jet_gradient"), args);
  reduce(device, partial, 1.0, gradient, stream);
}

/// Threads for one element each, at most so many that their work arrays stay small.
inline int grid_for(Index n) {
  return as_int(std::clamp<Index>((n + kThreads - 1) / kThreads, 1, 1024));
}

template <class T>
void evaluate_program(const Program& program, MatrixView<const T> x, T* value, MatrixView<T> gradient,
                      Team&) {
  Stream stream;
  const DeviceProgram device(program, stream);
  DeviceBuffer<T> cloud = upload<T>(x, stream), values(x.rows), gradients(x.rows * x.cols);
  const int grid = grid_for(x.rows);
  DeviceBuffer<T> workspace(Index{grid} * kThreads * device.view.rows);
  launch(program_kernel<T>, {grid, kThreads, 0, stream, "program"}, device.view, cloud.pointer(),
         as_int(x.rows), values.pointer(), gradients.pointer(), workspace.pointer());
  if (value) download(values, MatrixView<T>(value, x.rows, 1), stream);
  if (gradient) download(gradients, gradient, stream);
}

template <class T>
void interaction(const PairKernel& kernel, MatrixView<const T> y, double* energy, MatrixView<T> force,
                 Team&) {
  Stream stream;
  DeviceBuffer<T> cloud = upload<T>(y, stream);
  CloudPairs<T> pairs(kernel, as_int(y.rows), as_int(y.cols), stream);
  if (force) {
    DeviceBuffer<T> forces(y.rows * y.cols);
    pairs.forces(cloud.pointer(), forces.pointer());
    download(forces, force, stream);
  }
  if (energy) *energy = pairs.energy(cloud.pointer());
}

/// One JKO step on the device: everything that its kernels read and write.
template <class T>
class DeviceStep {
 public:
  DeviceStep(const InnerProblem<T>& problem, const T* theta, int iteration, Stream& stream)
      : problem_(problem),
        stream_(stream),
        n_(as_int(problem.minibatch > 0 ? problem.minibatch : problem.x.rows)),
        d_(as_int(problem.x.cols)),
        potential_(problem.objective->potential, stream),
        net_(*problem.net, theta, n_,
             problem.objective->internal.empty() ? Directions::none : Directions::unit, 0, true,
             program_rows(*problem.objective), stream),
        cloud_(upload<T>(problem.x, stream)),
        log_density_(upload(problem.log_density, problem.log_density ? problem.x.rows : 0, stream)),
        image_(Index{n_} * d_),
        force_(Index{n_} * d_),
        partial_(Index{net_.grid()} * net_.parameters()),
        gradient_(net_.parameters()),
        norm2_((net_.parameters() + kThreads - 1) / kThreads),
        pairs_(problem.objective->interaction, d_, pair_threads(n_), stream) {
    const std::vector<T> shift(problem.shift.begin(), problem.shift.end());
    shift_ = upload(shift.data(), d_, stream);
    const Control start{iteration, 0, 0, 1, 0, 0.0, 0.0};
    control_ = upload(&start, 1, stream);
    for (const InternalTerm& term : problem.objective->internal) {
      surrogates_.emplace_back(term.surrogate, stream);
      internal_host_.push_back({term.form, term.weight, term.exponent, surrogates_.back().view});
    }
    internal_ = upload(internal_host_.data(), static_cast<Index>(internal_host_.size()), stream);
    std::vector<T> lower, active;
    for (const ParameterTensor& tensor : problem.net->tensors()) {
      lower.insert(lower.end(), static_cast<std::size_t>(tensor.size()), static_cast<T>(tensor.lower));
      active.insert(active.end(), static_cast<std::size_t>(tensor.size()), tensor.frozen ? T(0) : T(1));
    }
    lower_ = upload(lower.data(), net_.parameters(), stream);
    active_ = upload(active.data(), net_.parameters(), stream);
  }

  /// Launches the gradient of one iteration into gradient(), with its norm.
  void launch_gradient() {
    StepArgs<T> args{};
    args.tile = net_.args(raw(cloud_), n_);
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
    args.force = pairs_.empty() ? nullptr : raw(force_);
    args.control = raw(control_);
    if (!pairs_.empty()) {
      launch(image_kernel<T>, net_.shape("images"), args);
      launch_tile_forces<T>(pairs_.terms(), image_.pointer(), n_, force_.pointer(), stream_);
    }
    launch(step_kernel<T>, net_.shape("step"), args);
    ReduceArgs<T> sum{};
    sum.partial = raw(partial_);
    sum.blocks = net_.grid();
    sum.parameters = net_.parameters();
    sum.n = n_;
    sum.gradient = raw(gradient_);
    sum.norm2 = raw(norm2_);
    sum.theta = raw(net_.theta());
    sum.lower = raw(lower_);
    sum.active = raw(active_);
    launch(reduce_kernel<T>, {as_int(norm2_.size()), kThreads, sizeof(PairShared), stream_, "reduce"}, sum);
  }

  /// One iteration: gradient, Adam, bookkeeping.
  void launch_iteration(DeviceBuffer<T>& m, DeviceBuffer<T>& v) {
    launch_gradient();
    AdamArgs<T> args{};
    args.theta = raw(net_.theta());
    args.m = raw(m);
    args.v = raw(v);
    args.gradient = raw(gradient_);
    args.norm2 = raw(norm2_);
    args.norm_blocks = as_int(norm2_.size());
    args.parameters = net_.parameters();
    args.lower = raw(lower_);
    args.active = raw(active_);
    args.options = problem_.adam;
    args.iterations = problem_.iterations;
    args.tolerance = problem_.tolerance;
    args.gradient_scale = problem_.gradient_scale;
    args.control = raw(control_);
    launch(adam_kernel<T>, {as_int(norm2_.size()), kThreads, 0, stream_, "adam"}, args);
    launch(advance_kernel<T>, {1, 32, 0, stream_, "advance"}, args);
  }

  DeviceBuffer<double>& gradient() { return gradient_; }
  DeviceBuffer<T>& theta() { return net_.theta(); }
  DeviceBuffer<Control>& control() { return control_; }

 private:
  static int program_rows(const Objective& objective) {
    Index rows = objective.potential.workspace();
    for (const InternalTerm& term : objective.internal) rows = std::max(rows, term.surrogate.workspace());
    return as_int(rows);
  }

  const InnerProblem<T>& problem_;
  Stream& stream_;
  int n_, d_;
  DeviceProgram potential_;
  DeviceNet<T> net_;
  DeviceBuffer<T> cloud_;
  DeviceBuffer<double> log_density_;
  DeviceBuffer<T> image_, force_, partial_;
  DeviceBuffer<double> gradient_, norm2_;
  DeviceBuffer<T> shift_, lower_, active_;
  DeviceBuffer<Control> control_;
  std::vector<DeviceProgram> surrogates_;
  std::vector<InternalView> internal_host_;
  DeviceBuffer<InternalView> internal_;
  DevicePairs<T> pairs_;
};

template <class T>
void objective_gradient(const InnerProblem<T>& problem, const T* theta, int iteration, double* gradient,
                        Team&) {
  Stream stream;
  DeviceStep<T> step(problem, theta, iteration, stream);
  step.launch_gradient();
  download(step.gradient(), MatrixView<double>(gradient, problem.net->parameters(), 1), stream);
}

template <class T>
InnerReport inner_loop(const InnerProblem<T>& problem, InnerState<T>& state, int until, Team&) {
  Stream stream;
  DeviceStep<T> step(problem, state.theta.data(), state.iteration, stream);
  DeviceBuffer<T> m = upload(state.first_moment.data(), problem.net->parameters(), stream);
  DeviceBuffer<T> v = upload(state.second_moment.data(), problem.net->parameters(), stream);
  // Recorded once, replayed without the host: the iteration number, the decision to stop and the norm that
  // decides it stay on the device. An interruption ends the launching.
  Graph iteration = Graph::capture(stream, [&] { step.launch_iteration(m, v); });
  InnerReport report;
  for (int k = state.iteration; k < until; ++k) {
    iteration.launch(stream);
    report.interrupted = problem.interrupt && problem.interrupt->load(std::memory_order_relaxed);
    if (report.interrupted) break;
  }
  const Control control = download(step.control(), stream).front();
  state.theta = download(step.theta(), stream);
  state.first_moment = download(m, stream);
  state.second_moment = download(v, stream);
  state.iteration = control.iteration;
  report.iterations = control.done;
  report.first_gradient = control.first_gradient;
  report.gradient = control.gradient;
  report.finite = control.finite != 0;
  report.converged = control.converged != 0;
  return report;
}

template <class T>
const Operations<T>& operations() {
  static constexpr Operations<T> table = {.name = "cuda",
                                          .evaluate = evaluate<T>,
                                          .hessian_vector = hessian_vector<T>,
                                          .jet_gradient = jet_gradient<T>,
                                          .evaluate_program = evaluate_program<T>,
                                          .interaction = interaction<T>,
                                          .objective_gradient = objective_gradient<T>,
                                          .inner_loop = inner_loop<T>};
  return table;
}

}  // namespace brenier::cuda
