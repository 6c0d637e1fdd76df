// SPDX-License-Identifier: MIT
// The cuda backend's table of operations: what the host does around the kernels. Compiled by nvcc for a GPU
// and by the host compiler for the emulator. Clouds come from and go to host memory.
#pragma once

#include "kernels/cuda/device_net.hpp"
#include "kernels/cuda/device_pairs.hpp"
#include "kernels/cuda/inner_loop.hpp"
#include "kernels/cuda/variants.hpp"

namespace brenier::cuda {

template <class T, class Policy>
void evaluate(const Icnn& net, const T* theta, MatrixView<const T> x, const MapOutputs<T>& out, Team&) {
  Stream stream;
  const int n = as_int(x.rows);
  const int d = net.dim();
  const bool curvature = out.hessian || out.log_det;
  DeviceNet<T, Policy> device(net, theta, n, {.directions = curvature ? Directions::unit : Directions::none},
                              stream);
  DeviceBuffer<T> cloud = upload<T>(x, stream);
  DeviceBuffer<T> potential(n), displacement(Index{n} * d), hessian(curvature ? Index{n} * d * d : 1);
  DeviceBuffer<double> log_det(n);
  TileArgs<T> args = device.args(raw(cloud), n);
  if (out.potential) args.potential = raw(potential);
  if (out.displacement) args.displacement = raw(displacement);
  if (out.hessian) args.hessian = raw(hessian);
  if (out.log_det) args.log_det = raw(log_det);
  device.run([&](auto form) { launch(evaluate_kernel<decltype(form)>, device.shape("evaluate"), args); },
             [&](LayeredNet<T>& layered) { layered.evaluate(args, stream); });
  if (out.potential) download(potential, MatrixView<T>(out.potential, n, 1), stream);
  if (out.displacement) download(displacement, out.displacement, stream);
  if (out.hessian) download(hessian, out.hessian, stream);
  if (out.log_det) download(log_det, MatrixView<double>(out.log_det, n, 1), stream);
}

template <class T, class Policy>
void hessian_vector(const Icnn& net, const T* theta, MatrixView<const T> x, MatrixView<const T> p,
                    MatrixView<T> out, Team&) {
  Stream stream;
  const TileTask task{.directions = Directions::single, .count = 1, .gradient = true};
  DeviceNet<T, Policy> device(net, theta, x.rows, task, stream);
  DeviceBuffer<T> cloud = upload<T>(x, stream), direction = upload<T>(p, stream), product(x.rows * x.cols);
  TileArgs<T> args = device.args(raw(cloud), as_int(x.rows));
  args.q = raw(direction);
  args.product = raw(product);
  device.run(
      [&](auto form) { launch(hessian_vector_kernel<decltype(form)>, device.shape("hessian_vector"), args); },
      [&](LayeredNet<T>& layered) { layered.hessian_vector(args, stream); });
  download(product, out, stream);
}

template <class T, class Policy>
void jet_gradient(const Icnn& net, const T* theta, MatrixView<const T> x, const JetSeeds<T>& seeds,
                  double* gradient, Team&) {
  Stream stream;
  TileTask task{.gradient = true};
  task.directions = seeds.metric            ? Directions::unit
                    : seeds.directions == 0 ? Directions::none
                    : seeds.p               ? Directions::pairs
                                            : Directions::single;
  task.count = seeds.metric ? 0 : seeds.directions;
  DeviceNet<T, Policy> device(net, theta, x.rows, task, stream);
  DeviceBuffer<T> cloud = upload<T>(x, stream), a = upload(seeds.a, seeds.a ? x.rows : 0, stream);
  DeviceBuffer<T> v = upload<T>(seeds.v, stream), q = upload<T>(seeds.q, stream),
                  p = upload<T>(seeds.p, stream);
  DeviceBuffer<T> metric = upload<T>(seeds.metric, stream), partial(Index{device.grid()} * device.packed());
  TileArgs<T> args = device.args(raw(cloud), as_int(x.rows));
  if (seeds.a) args.a = raw(a);
  if (seeds.v) args.v = raw(v);
  if (seeds.q) args.q = raw(q);
  if (seeds.p) args.p = raw(p);
  if (seeds.metric) args.metric = raw(metric);
  args.partial = raw(partial);
  device.run([&](auto form) { launch(jet_kernel<decltype(form)>, device.shape("jet_gradient"), args); },
             [&](LayeredNet<T>& layered) { layered.jet_gradient(args, stream); });
  DeviceBuffer<double> sum(device.packed());
  UpdateArgs<T> update{};
  update.partial = raw(partial);
  update.blocks = device.grid();
  update.packed = device.packed();
  update.n = 1;
  update.gradient = raw(sum);
  launch(update_kernel<T>,
         {update_blocks(update.packed), kUpdateThreads, sizeof(UpdateShared), stream, "sum"}, update);
  device.net().unpack(download(sum, stream).data(), gradient);
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
  const int n = as_int(y.rows);
  DeviceBuffer<T> cloud = upload<T>(y, stream), forces(y.rows * y.cols);
  DevicePairs<T> pairs(kernel, n, as_int(y.cols), stream);
  pairs.args.y = raw(cloud);
  pairs.args.factor = 1;
  if (force) pairs.args.force = raw(forces);
  if (energy) pairs.args.energy = raw(pairs.energy);
  pairs.launch_on(stream);
  if (force) download(forces, force, stream);
  if (!energy) return;
  double total = 0;
  for (const double part : download(pairs.energy, stream)) total += part;
  *energy = n > 1 ? total / (2.0 * n * (n - 1.0)) : 0.0;
}

template <class T, class Policy>
const Operations<T>& table() {
  constexpr bool chosen = std::is_same_v<T, float> && std::is_same_v<Policy, Fma>;
  constexpr const char* name = !kTiled<Policy> ? "cuda-cublas" : chosen ? "cuda-fma" : "cuda";
  static constexpr Operations<T> table = {.name = name,
                                          .evaluate = evaluate<T, Policy>,
                                          .hessian_vector = hessian_vector<T, Policy>,
                                          .jet_gradient = jet_gradient<T, Policy>,
                                          .evaluate_program = evaluate_program<T>,
                                          .interaction = interaction<T>,
                                          .objective_gradient = objective_gradient<T, Policy>,
                                          .inner_loop = inner_loop<T, Policy>};
  return table;
}

}  // namespace brenier::cuda
