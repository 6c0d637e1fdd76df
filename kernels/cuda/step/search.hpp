// SPDX-License-Identifier: MIT
// L-BFGS on a device: gradient, value and decision are launches, recorded once and replayed. The host launches,
// and looks where the device is two launches back.
#pragma once

#include <algorithm>
#include <limits>
#include <optional>
#include <vector>

#include "kernels/cuda/step/device_step.hpp"
#include "kernels/cuda/step/pace.hpp"
#include "kernels/cuda/step/search_kernel.hpp"

namespace brenier::cuda {

/// The vectors of a search, beside a DeviceStep whose parameters are its trials.
template <class T, class Policy>
class DeviceLbfgs {
 public:
  /// From the parameters that `step` has.
  DeviceLbfgs(const SearchBounds<T>& bounds, const LbfgsOptions& options, const std::vector<T>& start,
              DeviceStep<T, Policy>& step, Stream& stream)
      : step_(step), stream_(stream), n_(step.net().packed()) {
    const PackedNet& net = step.net().net();
    lower_ = upload(net.pack(bounds.lower.data(), -std::numeric_limits<T>::infinity()).data(), n_, stream);
    // Gaps between parameters have the metric 0: they stay as they are.
    metric_ = upload(net.pack(bounds.metric.data()).data(), n_, stream);
    const std::vector<T> packed = net.pack(start.data());
    at_ = upload(packed.data(), n_, stream);
    best_ = upload(packed.data(), n_, stream);
    const Index pairs = Index{options.memory} + 1;
    for (DeviceBuffer<double>* vector : {&gradient_, &direction_, &free_, &free_before_})
      *vector = DeviceBuffer<double>(n_);
    s_ = DeviceBuffer<double>(pairs * n_, "steps of L-BFGS");
    y_ = DeviceBuffer<double>(pairs * n_, "changes of gradient of L-BFGS");
    const LbfgsState fresh;
    state_ = upload(&fresh, 1, stream);
    args_.options = options;
    args_.options.interrupt = nullptr;
    args_.vectors = {.n = n_, .lower = raw(lower_), .metric = raw(metric_)};
    args_.vectors.gradient = raw(step.sums());
    args_.vectors.trial = raw(step.net().theta());
    args_.vectors.at = raw(at_);
    args_.vectors.best = raw(best_);
    args_.vectors.at_gradient = raw(gradient_);
    args_.vectors.direction = raw(direction_);
    args_.vectors.free = raw(free_);
    args_.vectors.free_before = raw(free_before_);
    args_.vectors.s = raw(s_);
    args_.vectors.y = raw(y_);
    args_.value = raw(step.sums()) + n_;
    args_.state = raw(state_);
    args_.control = raw(step.control());
  }

  /// An evaluation, and what is decided after it.
  void launch() {
    step_.launch_evaluation();
    launch_search(args_, stream_);
  }
  /// The lowest point so far; waits.
  LbfgsReport read(std::vector<T>& theta) {
    step_.net().net().unpack(download(best_, stream_).data(), theta.data());
    return download(state_, stream_).front().report;
  }

 private:
  DeviceStep<T, Policy>& step_;
  Stream& stream_;
  Index n_;
  DeviceBuffer<T> lower_, at_, best_;
  DeviceBuffer<double> metric_, gradient_, direction_, free_, free_before_, s_, y_;
  DeviceBuffer<LbfgsState> state_;
  SearchArgs<T> args_{};
};

template <class T, class Policy>
LbfgsReport search(const InnerProblem<T>& problem, const SearchBounds<T>& bounds, const LbfgsOptions& options,
                   std::vector<T>& theta, SinkhornReport& transports, Team&) {
  validate(options);
  Stream stream;
  DeviceStep<T, Policy> step(problem, theta.data(), 0, stream, true);
  if (!step.has_value()) return {.end = LbfgsReport::End::not_finite};
  DeviceLbfgs<T, Policy> lbfgs(bounds, options, theta, step, stream);
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
    if (pace.launched(step.control(), stream)) break;
  }
  LbfgsReport report = lbfgs.read(theta);
  transports.add(step.transports());
  // The machine ends by itself but where the host has stopped launching.
  if (!download(step.control(), stream).front().stop) report.end = LbfgsReport::End::interrupted;
  return report;
}

}  // namespace brenier::cuda
