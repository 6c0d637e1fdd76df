// SPDX-License-Identifier: MIT
// L-BFGS on a device: gradient, value and decision are launches, recorded once and replayed. The host launches,
// and looks where the device is two launches back.
#pragma once

#include <limits>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "kernels/cuda/step/device_step.hpp"
#include "kernels/cuda/step/pace.hpp"
#include "kernels/cuda/step/search_kernel.hpp"
#include "kernels/cuda/step/shared_call.hpp"

namespace brenier::cuda {

/// The vectors of a search, beside a DeviceStep whose parameters are its trials.
template <class T, class Policy>
class DeviceLbfgs {
 public:
  /// From the parameters that `step` has.
  DeviceLbfgs(const Icnn& of, const SearchBounds<T>& bounds, const LbfgsOptions& options,
              DeviceStep<T, Policy>& step, Stream& stream)
      : step_(step), stream_(stream), n_(step.net().packed()) {
    const PackedNet& net = step.net().net();
    elements_ = DeviceBuffer<T>(3 * n_, "points of L-BFGS");
    const DeviceBuffer<T>& start = step.net().theta();
    for (int copy = 1; copy < 3; ++copy)
      copy_on_device(elements_.pointer(copy * n_), start.pointer(), n_, stream);
    const Index pairs = Index{options.memory} + 1;
    doubles_ = DeviceBuffer<double>((5 + 2 * pairs) * n_, "vectors of L-BFGS");
    // Gaps between parameters have the metric 0: they stay as they are.
    if (bounds.lower.empty()) {
      DeviceTensors tensors(of, net, stream);
      BoundsArgs<T> fill = tensors.bounds<T>();
      fill.lower = raw(elements_);
      fill.start = raw(elements_) + n_;
      fill.metric = raw(doubles_);
      launch_bounds(fill, stream);
    } else {
      copy_to_device(elements_.pointer(), net.pack(bounds.lower.data(), -std::numeric_limits<T>::infinity()),
                     stream);
      copy_to_device(doubles_.pointer(), net.pack(bounds.metric.data()), stream);
    }
    const LbfgsState fresh;
    state_ = upload(&fresh, 1, stream);
    args_.options = options;
    args_.options.interrupt = nullptr;
    LbfgsVectors<T>& vectors = args_.vectors;
    vectors.n = n_;
    vectors.gradient = raw(step.sums());
    vectors.trial = raw(step.net().theta());
    vectors.lower = raw(elements_);
    vectors.at = raw(elements_) + n_;
    vectors.best = raw(elements_) + 2 * n_;
    vectors.metric = raw(doubles_);
    vectors.at_gradient = raw(doubles_) + n_;
    vectors.direction = raw(doubles_) + 2 * n_;
    vectors.free = raw(doubles_) + 3 * n_;
    vectors.free_before = raw(doubles_) + 4 * n_;
    vectors.s = raw(doubles_) + 5 * n_;
    vectors.y = vectors.s + pairs * n_;
    args_.value = raw(step.sums()) + n_;
    args_.state = raw(state_);
    args_.control = raw(step.control());
  }

  /// An evaluation, and what is decided after it.
  void launch() {
    step_.launch_evaluation();
    launch_search(args_, stream_);
  }
  /// The lowest point so far, which `known`, if any, knows from now on; waits.
  LbfgsReport read(std::vector<T>& theta, ResidentParameters<T>* known) {
    std::vector<T> best(static_cast<std::size_t>(n_));
    const DevicePointer<const T> there = std::as_const(elements_).pointer(2 * n_);
    copy_to_host(std::span<T>(best), there, stream_);
    step_.net().net().unpack(best.data(), theta.data());
    if (known) static_cast<DeviceParameters<T>*>(known)->keep(theta.data(), there, stream_);
    return download(state_, stream_).front().report;
  }

 private:
  DeviceStep<T, Policy>& step_;
  Stream& stream_;
  Index n_;
  // One buffer of each type: allocations take longer than the evaluations of an easy step.
  DeviceBuffer<T> elements_;
  DeviceBuffer<double> doubles_;
  DeviceBuffer<LbfgsState> state_;
  SearchArgs<T> args_{};
};

template <class T, class Policy>
LbfgsReport search(const InnerProblem<T>& problem, const SearchBounds<T>& bounds, const LbfgsOptions& options,
                   std::vector<T>& theta, SinkhornReport& transports, Team& team) {
  validate(options);
  Stream stream;
  const SharedCall call(team.ranks());
  DeviceStep<T, Policy> step(problem, theta.data(), 0, stream, true, call.devices());
  if (!step.has_value()) return {.end = LbfgsReport::End::not_finite};
  DeviceLbfgs<T, Policy> lbfgs(*problem.net, bounds, options, step, stream);
  const SharedCall::End end{call};
  call.agree();
  // The first evaluation loads kernels, and steers the schedules of divergences.
  lbfgs.launch();
  std::optional<Graph> graph;
  if (!stream.options().synchronise_launches) graph = Graph::capture(stream, [&] { lbfgs.launch(); });
  const auto interrupted = [&] {
    return options.interrupt && options.interrupt->load(std::memory_order_relaxed);
  };
  LaunchPace pace;
  for (int k = 1; k < options.evaluations && !interrupted(); ++k) {
    if (graph) {
      graph->launch(stream);
    } else {
      lbfgs.launch();
    }
    if (call.any(pace.launched(step.control(), stream))) break;
  }
  call.agree();
  LbfgsReport report = lbfgs.read(theta, problem.known);
  transports.add(step.transports());
  // The machine ends by itself but where the host has stopped launching.
  if (!download(step.control(), stream).front().stop) report.end = LbfgsReport::End::interrupted;
  return report;
}

}  // namespace brenier::cuda
