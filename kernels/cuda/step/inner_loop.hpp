// SPDX-License-Identifier: MIT
// Adam's inner loop. Inside it the host launches, and looks where the device is while it still has work.
#pragma once

#include <algorithm>
#include <functional>
#include <optional>
#include <vector>

#include "kernels/cuda/step/device_step.hpp"
#include "kernels/cuda/step/pace.hpp"
#include "kernels/cuda/step/shared_call.hpp"

namespace brenier::cuda {

/// Moments, bounds and the constants of Adam, beside a DeviceStep.
template <class T, class Policy>
class DeviceAdam {
 public:
  DeviceAdam(const InnerProblem<T>& problem, const InnerState<T>& state, int until,
             DeviceStep<T, Policy>& step, Stream& stream)
      : step_(step), first_iteration_(state.iteration) {
    const PackedNet& net = step.net().net();
    m_ = two_sets(net, state.first_moment, stream);
    v_ = two_sets(net, state.second_moment, stream);
    lower_ = DeviceBuffer<T>(net.size());
    rate_ = DeviceBuffer<T>(net.size());
    DeviceTensors tensors(*problem.net, net, stream);
    BoundsArgs<T> fill = tensors.bounds<T>();
    fill.lower = raw(lower_);
    fill.rate = raw(rate_);
    launch_bounds(fill, stream);
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
  /// Reads the current set back; `known`, if any, knows its parameters from now on. Waits.
  void read(InnerState<T>& state, int current, ResidentParameters<T>* known, Stream& stream) {
    const PackedNet& net = step_.net().net();
    const auto set = [&](const DeviceBuffer<T>& of) { return of.pointer(current * net.size()); };
    std::vector<T> packed(static_cast<std::size_t>(net.size()));
    const auto read = [&](const DeviceBuffer<T>& from, std::vector<T>& to) {
      copy_to_host(std::span<T>(packed), set(from), stream);
      net.unpack(packed.data(), to.data());
    };
    read(step_.net().theta(), state.theta);
    if (known) {
      static_cast<DeviceParameters<T>*>(known)->keep(state.theta.data(), set(step_.net().theta()), stream);
      stream.synchronise();
    }
    if (state.ends) return;
    read(m_, state.first_moment);
    read(v_, state.second_moment);
  }

 private:
  static DeviceBuffer<T> two_sets(const PackedNet& net, const std::vector<T>& moments, Stream& stream) {
    DeviceBuffer<T> out(2 * net.size());
    if (std::all_of(moments.begin(), moments.end(), [](T m) { return m == T(0); })) {
      out.fill_zero(stream);  // a loop that begins
      return out;
    }
    copy_to_device(out.pointer(), net.pack(moments.data()), stream);
    const DeviceBuffer<T>& first = out;
    copy_on_device(out.pointer(net.size()), first.pointer(), net.size(), stream);
    return out;
  }

  DeviceStep<T, Policy>& step_;
  int first_iteration_;
  double tolerance_, gradient_scale_;
  DeviceBuffer<T> m_, v_, lower_, rate_;
  DeviceBuffer<AdamStep<T>> table_;
  DeviceBuffer<double> norm2_;
  DeviceBuffer<unsigned> ticket_;
};

template <class T, class Policy>
void objective_gradient(const InnerProblem<T>& problem, const T* theta, int iteration, double* gradient,
                        Team& team) {
  Stream stream;
  const SharedCall call(team.ranks());
  DeviceStep<T, Policy> step(problem, theta, iteration, stream, false, call.devices());
  const SharedCall::End end{call};
  call.agree();
  step.launch_gradient();
  step.launch_sum();
  call.agree();
  step.read(gradient);
}

template <class T, class Policy>
InnerReport inner_loop(const InnerProblem<T>& problem, InnerState<T>& state, int until, Team& team) {
  Stream stream;
  const SharedCall call(team.ranks());
  DeviceStep<T, Policy> step(problem, state.theta.data(), state.iteration, stream, false, call.devices());
  DeviceAdam<T, Policy> adam(problem, state, until, step, stream);
  const SharedCall::End end{call};
  call.agree();
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
    if (all || unrolled == 1) stopped = call.any(pace.launched(step.control(), stream));
    report.interrupted = interrupted();
  }
  call.agree();
  const Control control = download(step.control(), stream).front();
  adam.read(state, control.current, problem.known, stream);
  state.iteration = control.iteration;
  static_cast<LoopProgress&>(report) = control.progress;
  report.cg = step.solves();
  report.sinkhorn = step.transports();
  return report;
}

}  // namespace brenier::cuda
