// SPDX-License-Identifier: MIT
// Learned potentials on the device: the gradient of a network at the images of the particles.
//
//   computes   external_i += weight * grad V(image_i + m), the network as a force (write_as_force): it is
//              V(y + m) + |y|^2/2, so that its displacements are gradients of V
//   launch     as the kernels of tiles; a network that has no room in the shared memory of a block goes layer
//              by layer, like any other
//   stop       under the control of an inner loop that has stopped, it does nothing
#pragma once

#include <memory>
#include <vector>

#include "kernels/cuda/cloud/cloud_forces.hpp"
#include "kernels/cuda/network/device_net.hpp"
#include "kernels/cuda/network/gather.hpp"
#include "kernels/cuda/step/control.hpp"

namespace brenier::cuda {

template <class T>
struct NetworkForceArgs {
  TileArgs<T> tile;  // x: the images
  T weight = 1;
  T* external = nullptr;  // (n, d)
  const Control* control = nullptr;
};

template <class Form>
BRENIER_KERNEL BRENIER_LAUNCH_BOUNDS(kTileThreads, Form::kResident) void network_force_kernel(
    BRENIER_ARGUMENT NetworkForceArgs<typename Form::Type> args) {
  const TileMemory<Form> memory(args.tile, 0);
  auto tile = make_tile<Form>(args.tile, memory);
  const int n = args.control->stop ? 0 : args.tile.n;
  for (int begin = block_index() * Form::kParticles; begin < n; begin += grid_size() * Form::kParticles) {
    gather_cloud(tile, args.tile, begin);
    sync_block();
    tile.forward();
    tile.adjoint();
    tile.displace();
    sync_block();
    add_displacement(tile, args.tile, begin, args.weight, args.external);
    if (args.tile.potential) scatter_potential(tile, args.tile, begin);
    sync_block();
  }
}

/// V at the images, from the potential of the network as a force.
template <class T>
struct LearnedValues {
  const T* potential;
  const T* image;  // (n, d)
  int d;
  BRENIER_DEVICE double operator()(Index i, const SumThread&) const {
    double squares = 0;
    for (int c = 0; c < d; ++c) {
      const double y = static_cast<double>(image[i * d + c]);
      squares = fma(y, y, squares);
    }
    return static_cast<double>(potential[i]) - squares / 2;
  }
};

/// One learned potential. `control` is that of the inner loop; with `values`, it has them as well.
template <class T, class Policy>
class NetworkForce final : public CloudForce<T> {
 public:
  NetworkForce(const NetworkTerm& term, const std::vector<double>& shift, int n, const Control* control,
               bool values, Stream& stream)
      : weight_(static_cast<T>(term.weight)),
        factor_(term.weight / n),
        n_(n),
        control_(control),
        net_(*term.net, as_force(term, shift).data(), n, {}, stream) {
    if (values) potential_ = DeviceBuffer<T>(n, "values of a learned potential");
  }

  void launch(DevicePointer<const T> image, DevicePointer<T> external, Stream& stream) override {
    NetworkForceArgs<T> args{.tile = net_.args(raw(image), n_)};
    args.weight = weight_;
    args.external = raw(external);
    args.control = control_;
    args.tile.potential = raw(potential_);
    net_.run(
        [&](auto form) {
          device::launch(network_force_kernel<decltype(form)>, net_.shape("learned potential"), args);
        },
        [&](LayeredNet<T>& layered) {
          StepArgs<T> step{.tile = args.tile};
          step.control = control_;
          layered.add_displacement(step, weight_, external, stream);
        });
  }
  void launch_value(DevicePointer<const T> image, DeviceValue& value, Stream& stream) override {
    value.add("learned potential", factor_, n_,
              LearnedValues<T>{raw(potential_), raw(image), net_.net().view().dim}, stream);
  }

 private:
  static std::vector<T> as_force(const NetworkTerm& term, const std::vector<double>& shift) {
    std::vector<double> exact(static_cast<std::size_t>(term.net->parameters()));
    write_as_force(*term.net, *term.theta, shift, exact);
    return {exact.begin(), exact.end()};
  }

  T weight_;
  double factor_;
  int n_;
  const Control* control_;
  DeviceNet<T, Policy> net_;
  DeviceBuffer<T> potential_;  // (n), where values are wanted
};

}  // namespace brenier::cuda
