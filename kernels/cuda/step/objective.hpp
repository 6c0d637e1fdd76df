// SPDX-License-Identifier: MIT
// The objective of an inner problem for solvers on the host: cloud, buffers and programs stay on the device, and
// an evaluation sends parameters up and brings gradient and value down.
#pragma once

#include <memory>
#include <optional>

#include "kernels/cuda/step/device_step.hpp"

namespace brenier::cuda {

template <class T, class Policy>
class DeviceObjective final : public StepObjective<T> {
 public:
  explicit DeviceObjective(const InnerProblem<T>& problem)
      : step_(problem, std::vector<T>(static_cast<std::size_t>(problem.net->parameters())).data(), 0, stream_,
              true) {}

  double evaluate(const T* theta, int iteration, double* gradient) override {
    step_.set(theta, iteration);
    // The first evaluation loads kernels and steers the schedules of divergences; those after it are a graph.
    if (evaluated_ && !graph_ && !stream_.options().synchronise_launches) {
      graph_ = Graph::capture(stream_, [&] { step_.launch_evaluation(); });
    }
    if (graph_) {
      graph_->launch(stream_);
    } else {
      step_.launch_evaluation();
    }
    evaluated_ = true;
    return step_.read(gradient);
  }
  CgReport cg() const override { return step_.solves(); }
  SinkhornReport sinkhorn() const override { return step_.transports(); }

 private:
  Stream stream_;
  mutable DeviceStep<T, Policy> step_;  // reports are read from the device
  bool evaluated_ = false;
  std::optional<Graph> graph_;
};

template <class T, class Policy>
std::unique_ptr<StepObjective<T>> step_objective(const InnerProblem<T>& problem, Team&) {
  return std::make_unique<DeviceObjective<T, Policy>>(problem);
}

}  // namespace brenier::cuda
