// SPDX-License-Identifier: MIT
// The cuda backend's table of operations: what the host does around the kernels. Compiled by nvcc for a GPU
// and by the host compiler for the emulator. Clouds come from and go to host memory.
#pragma once

#include "kernels/cuda/cloud/clouds.hpp"
#include "kernels/cuda/cloud/resident.hpp"
#include "kernels/cuda/network/device_net.hpp"
#include "kernels/cuda/network/solve_kernels.hpp"
#include "kernels/cuda/network/tile_kernels.hpp"
#include "kernels/cuda/network/variants.hpp"
#include "kernels/cuda/step/inner_loop.hpp"
#include "kernels/cuda/step/objective.hpp"
#include "kernels/cuda/step/search.hpp"

namespace brenier::cuda {

/// evaluate() at particles x (n, d) on the device, to outputs there. Waits.
template <class T, class Policy>
void evaluate_on_device(const Icnn& net, const NetParameters<T>& theta, const T* x, int n,
                        const DeviceMapOutputs<T>& out, Stream& stream) {
  const bool curvature = out.hessian || out.log_det;
  DeviceNet<T, Policy> device(net, theta, n, {.directions = curvature ? Directions::unit : Directions::none},
                              stream);
  TileArgs<T> args = device.args(x, n);
  args.potential = out.potential;
  args.displacement = out.displacement;
  args.hessian = out.hessian;
  args.log_det = out.log_det;
  device.run([&](auto form) { launch(evaluate_kernel<decltype(form)>, device.shape("evaluate"), args); },
             [&](LayeredNet<T>& layered) { layered.evaluate(args, stream); });
}

template <class T, class Policy>
void evaluate(const Icnn& net, const T* theta, MatrixView<const T> x, const MapOutputs<T>& out, Team&) {
  Stream stream;
  const int n = as_int(x.rows);
  const int d = net.dim();
  DeviceBuffer<T> cloud = upload<T>(x, stream);
  // What nobody asks for takes no memory.
  DeviceBuffer<T> potential(out.potential ? n : 0), displacement(out.displacement ? Index{n} * d : 0),
      hessian(out.hessian ? Index{n} * d * d : 0);
  DeviceBuffer<double> log_det(out.log_det ? n : 0);
  evaluate_on_device<T, Policy>(net, theta, raw(cloud), n,
                                {raw(potential), raw(displacement), raw(hessian), raw(log_det)}, stream);
  if (out.potential) download(potential, MatrixView<T>(out.potential, n, 1), stream);
  if (out.displacement) download(displacement, out.displacement, stream);
  if (out.hessian) download(hessian, out.hessian, stream);
  if (out.log_det) download(log_det, MatrixView<double>(out.log_det, n, 1), stream);
}

template <class T, class Policy>
void hessian_vector(const Icnn& net, const T* theta, MatrixView<const T> x, MatrixView<const T> p,
                    MatrixView<T> out, Team&) {
  Stream stream;
  const TileTask task{.directions = Directions::single, .count = 1, .product = true};
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
CgReport solve_hessian(const Icnn& net, const T* theta, MatrixView<const T> x, MatrixView<const T> p,
                       MatrixView<T> z, const CgOptions& options, Team&) {
  Stream stream;
  const TileTask task{.directions = Directions::single,
                      .count = 1,
                      .product = true,
                      .vectors = 2,
                      .state_doubles = kStateDoubles<SolveState>};
  DeviceNet<T, Policy> device(net, theta, x.rows, task, stream);
  DeviceBuffer<T> cloud = upload<T>(x, stream), rhs = upload<T>(p, stream),
                  solution = upload(MatrixView<const T>(z), stream);
  DeviceBuffer<CgReport> reports(x.rows);
  SolveArgs<T> args{.tile = device.args(raw(cloud), as_int(x.rows))};
  args.count = as_int(p.cols / net.dim());
  args.p = raw(rhs);
  args.z = raw(solution);
  args.options = options;
  args.reports = raw(reports);
  device.run([&](auto form) { launch(solve_kernel<decltype(form)>, device.shape("solve_hessian"), args); },
             [&](LayeredNet<T>& layered) { layered.solve(args, stream); });
  download(solution, z, stream);
  CgReport report;
  for (const CgReport& one : download(reports, stream)) report.add(one);
  return report;
}

template <class T, class Policy>
void log_det_lanczos(const Icnn& net, const T* theta, MatrixView<const T> x, MatrixView<const T> p, int steps,
                     double* estimate, double* variance, Team&) {
  Stream stream;
  const int taken = std::min(steps, net.dim());  // more would find nothing
  const TileTask task{.directions = Directions::single,
                      .count = 1,
                      .product = true,
                      .vectors = taken,
                      .state_doubles = kStateDoubles<LanczosState> + 3 * taken};
  DeviceNet<T, Policy> device(net, theta, x.rows, task, stream);
  DeviceBuffer<T> cloud = upload<T>(x, stream), probes = upload<T>(p, stream);
  DeviceBuffer<double> means(x.rows), variances(x.rows);
  SolveArgs<T> args{.tile = device.args(raw(cloud), as_int(x.rows))};
  args.count = as_int(p.cols / net.dim());
  args.p = raw(probes);
  args.steps = taken;
  args.estimate = raw(means);
  args.variance = raw(variances);
  device.run(
      [&](auto form) { launch(lanczos_kernel<decltype(form)>, device.shape("log_det_lanczos"), args); },
      [&](LayeredNet<T>& layered) { layered.log_det_lanczos(args, stream); });
  download(means, MatrixView<double>(estimate, x.rows, 1), stream);
  if (variance) download(variances, MatrixView<double>(variance, x.rows, 1), stream);
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
  launch_update(update, "sum", stream);
  device.net().unpack(download(sum, stream).data(), gradient);
}

/// See Operations::reside.
template <class Policy>
std::shared_ptr<const ResidentCloud> reside(MatrixView<const double> x, const double* log_density) {
  return resident_cloud(x, log_density, evaluate_on_device<double, Policy>);
}

/// See Operations::gather.
template <class Policy>
std::shared_ptr<const ResidentCloud> gather(const DeviceCloud& from) {
  return gathered_cloud(from, evaluate_on_device<double, Policy>);
}

/// See Operations::know.
template <class T>
std::unique_ptr<ResidentParameters<T>> know(const Icnn& net) {
  return std::make_unique<DeviceParameters<T>>(net);
}

/// Clouds reside in double.
template <class T, class Policy>
constexpr auto residence() {
  if constexpr (std::is_same_v<T, double>) {
    return reside<Policy>;
  } else {
    return nullptr;
  }
}
template <class T, class Policy>
constexpr auto gathering() {
  if constexpr (std::is_same_v<T, double>) {
    return gather<Policy>;
  } else {
    return nullptr;
  }
}

template <class T, class Policy>
const Operations<T>& table() {
  constexpr const char* name = kTiled<Policy> ? "cuda" : "cuda-cublas";
  static constexpr Operations<T> table = {.name = name,
                                          .reside = residence<T, Policy>(),
                                          .gather = gathering<T, Policy>(),
                                          .know = know<T>,
                                          .evaluate = evaluate<T, Policy>,
                                          .hessian_vector = hessian_vector<T, Policy>,
                                          .solve_hessian = solve_hessian<T, Policy>,
                                          .log_det_lanczos = log_det_lanczos<T, Policy>,
                                          .jet_gradient = jet_gradient<T, Policy>,
                                          .evaluate_program = evaluate_program<T>,
                                          .interaction = interaction<T>,
                                          .divergence = divergence<T>,
                                          .objective_gradient = objective_gradient<T, Policy>,
                                          .step_objective = step_objective<T, Policy>,
                                          .search = search<T, Policy>,
                                          .inner_loop = inner_loop<T, Policy>};
  return table;
}

}  // namespace brenier::cuda
