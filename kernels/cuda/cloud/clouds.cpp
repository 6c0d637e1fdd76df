// SPDX-License-Identifier: MIT
// Compiled once, as CUDA into the library, and by the host compiler for the emulated device.
#include "kernels/cuda/cloud/clouds.hpp"

#include <algorithm>

#include "kernels/cuda/cloud/program_kernel.hpp"
#include "kernels/cuda/transfer.hpp"

namespace brenier::cuda {
namespace {

/// Threads for one element each, at most so many that their work arrays stay small.
int grid_for(Index n) {
  return as_int(std::clamp<Index>((n + kThreads - 1) / kThreads, 1, 1024));
}

/// Interactions and a cloud of n particles in R^d, both on the device.
template <class T>
class CloudPairs final : public PairEnergy<T> {
 public:
  CloudPairs(const DevicePairs<T>& pairs, int n, Stream& stream)
      : pairs_(pairs), n_(n), d_(pairs.terms().dim), stream_(stream) {
    const int tiles = (n + kCloudTile - 1) / kCloudTile;
    splits_ = std::clamp(kBlocks / tiles, 1, std::max(1, n / kCloudTile));
    grid_ = tiles * splits_;
    moments_ = DeviceBuffer<PairMoments>(d_);
    energies_ = DeviceBuffer<double>(std::max(grid_, pair_grid(n)));
  }

  /// force (n, d), see Operations::interaction.
  void forces(DevicePointer<const T> y, DevicePointer<T> force) {
    const PairTerms<T>& terms = pairs_.terms();
    const bool logarithmic = terms.log_coefficient != 0;
    if (terms.program_count > 0 || (logarithmic && d_ > kMostRegisterDims)) {
      launch_tile_forces(terms, y, n_, force, stream_);
      return;
    }
    measure(y, stream_);
    DeviceBuffer<double> partial(logarithmic ? Index{splits_} * n_ * d_ : 1);
    if (logarithmic) {
      const std::size_t shared = sizeof(double) * kPairThreads / kWarpSize * kCloudTile * d_;
      launch_logs(log_force_kernel<T, 1>, log_force_kernel<T, 2>, log_force_kernel<T, 3>, shared,
                  "log_forces", y, partial, stream_);
    }
    PairSumArgs<T> args{};
    args.y = raw(y);
    args.n = n_;
    args.d = d_;
    args.splits = splits_;
    args.quadratic = terms.quadratic;
    args.log_coefficient = terms.log_coefficient;
    args.moments = raw(moments_);
    args.partial = logarithmic ? raw(partial) : nullptr;
    args.force = raw(force);
    const int blocks = static_cast<int>(std::clamp<Index>(Index{n_} * d_ / kPairThreads, 1, 1024));
    device::launch(pair_sum_kernel<T>, {blocks, kPairThreads, 0, stream_, "pair_sum"}, args);
  }

  void launch(DevicePointer<const T> y, DeviceValue& value, Stream& stream) override {
    if (n_ < 2) return;
    const double share = 0.5 / (static_cast<double>(n_) * (n_ - 1.0));
    PairTerms<T> others = pairs_.terms();
    const double logs = others.log_coefficient;
    const bool fast_logs = logs != 0 && d_ <= kMostRegisterDims;
    if (others.quadratic != 0 || fast_logs) measure(y, stream);
    if (others.quadratic != 0) {
      constexpr int stride = sizeof(PairMoments) / sizeof(double);
      value.add("quadratic interactions", share * 2 * others.quadratic * n_, d_,
                Numbers{&raw(moments_)->square, stride}, stream);
    }
    if (fast_logs) {
      launch_logs(log_energy_kernel<T, 1>, log_energy_kernel<T, 2>, log_energy_kernel<T, 3>,
                  sizeof(MomentsShared), "log_energy", y, energies_, stream);
      value.add("logarithmic interactions", share * logs, grid_, Numbers{raw(energies_)}, stream);
      others.log_coefficient = 0;
    }
    if (others.log_coefficient == 0 && others.program_count == 0) return;
    device::launch(pairwise_energy_kernel<T>,
                   {pair_grid(n_), kPairThreads, sizeof(MomentsShared), stream, "pairwise_energy"}, others, y,
                   n_, energies_.pointer());
    value.add("interactions", share, pair_grid(n_), Numbers{raw(energies_)}, stream);
  }

 private:
  static constexpr int kBlocks = 1056;  // eight for each multiprocessor of a large device

  void measure(DevicePointer<const T> y, Stream& stream) {
    device::launch(pair_moments_kernel<T>,
                   {d_, kMomentThreads, sizeof(MomentsShared), stream, "pair_moments"}, y, n_, d_,
                   moments_.pointer());
  }

  using LogKernel = void (*)(CloudPairArgs<T>);
  void launch_logs(LogKernel line, LogKernel plane, LogKernel space, std::size_t shared, const char* name,
                   DevicePointer<const T> y, DeviceBuffer<double>& partial, Stream& stream) {
    CloudPairArgs<T> args{};
    args.y = raw(y);
    args.n = n_;
    args.splits = splits_;
    args.moments = raw(moments_);
    args.partial = raw(partial);
    const LogKernel kernel = d_ == 1 ? line : d_ == 2 ? plane : space;
    device::launch(kernel, {grid_, kPairThreads, shared, stream, name}, args);
  }

  const DevicePairs<T>& pairs_;
  int n_, d_, splits_, grid_;
  DeviceBuffer<PairMoments> moments_;
  DeviceBuffer<double> energies_;  // sums of blocks
  Stream& stream_;
};

}  // namespace

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
  const int n = as_int(y.rows);
  const DevicePairs<T> terms({{1.0, kernel}}, as_int(y.cols), pair_threads(n), stream);
  CloudPairs<T> pairs(terms, n, stream);
  if (force) {
    DeviceBuffer<T> forces(y.rows * y.cols);
    pairs.forces(cloud.pointer(), forces.pointer());
    download(forces, force, stream);
  }
  if (!energy) return;
  *energy = 0;
  if (n < 2) return;
  DeviceBuffer<double> sum(1);
  sum.fill_zero(stream);
  DeviceValue value(sum.pointer(), nullptr, stream);
  pairs.launch(cloud.pointer(), value, stream);
  *energy = terms.constant() / 2 + download(sum, stream).front();
}

template <class T>
std::unique_ptr<PairEnergy<T>> pair_energy(const DevicePairs<T>& pairs, int n, Stream& stream) {
  return std::make_unique<CloudPairs<T>>(pairs, n, stream);
}

template <class T>
void launch_tile_forces(const PairTerms<T>& terms, DevicePointer<const T> y, int n, DevicePointer<T> force,
                        Stream& stream) {
  const std::size_t shared =
      sizeof(T) * static_cast<std::size_t>(tile_scratch<T>(kForceTile, kPairThreads / kWarpSize, terms.dim));
  launch(tile_force_kernel<T>, {pair_grid(n), kPairThreads, shared, stream, "tile_forces"}, terms, y, n,
         force);
}

template <class T>
void launch_update(const UpdateArgs<T>& args, const char* name, Stream& stream) {
  launch(update_kernel<T>, {update_blocks(args.packed), kUpdateThreads, sizeof(UpdateShared), stream, name},
         args);
}

template void evaluate_program(const Program&, MatrixView<const float>, float*, MatrixView<float>, Team&);
template void evaluate_program(const Program&, MatrixView<const double>, double*, MatrixView<double>, Team&);
template void interaction(const PairKernel&, MatrixView<const float>, double*, MatrixView<float>, Team&);
template void interaction(const PairKernel&, MatrixView<const double>, double*, MatrixView<double>, Team&);
template std::unique_ptr<PairEnergy<float>> pair_energy(const DevicePairs<float>&, int, Stream&);
template std::unique_ptr<PairEnergy<double>> pair_energy(const DevicePairs<double>&, int, Stream&);
template void launch_tile_forces(const PairTerms<float>&, DevicePointer<const float>, int,
                                 DevicePointer<float>, Stream&);
template void launch_tile_forces(const PairTerms<double>&, DevicePointer<const double>, int,
                                 DevicePointer<double>, Stream&);
template void launch_update(const UpdateArgs<float>&, const char*, Stream&);
template void launch_update(const UpdateArgs<double>&, const char*, Stream&);

}  // namespace brenier::cuda
