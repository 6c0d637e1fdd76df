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

/// One pair kernel and a cloud of n particles in R^d, both on the device.
template <class T>
class CloudPairs {
 public:
  CloudPairs(const PairKernel& kernel, int n, int d, Stream& stream)
      : kernel_(kernel), n_(n), d_(d), pairs_({{1.0, kernel}}, d, pair_threads(n), stream), stream_(stream) {
    const int tiles = (n + kCloudTile - 1) / kCloudTile;
    splits_ = std::clamp(kBlocks / tiles, 1, std::max(1, n / kCloudTile));
    grid_ = tiles * splits_;
    moments_ = DeviceBuffer<PairMoments>(d);
  }

  /// force (n, d), see Operations::interaction.
  void forces(DevicePointer<const T> y, DevicePointer<T> force) {
    const bool logarithmic = kernel_.log_coefficient != 0;
    if (kernel_.form != PairKernel::Form::quadratic_log || (logarithmic && d_ > kMostRegisterDims)) {
      launch_tile_forces(pairs_.terms(), y, n_, force, stream_);
      return;
    }
    measure(y);
    DeviceBuffer<double> partial(logarithmic ? Index{splits_} * n_ * d_ : 1);
    if (logarithmic) {
      const std::size_t shared = sizeof(double) * kPairThreads / kWarpSize * kCloudTile * d_;
      launch_logs(log_force_kernel<T, 1>, log_force_kernel<T, 2>, log_force_kernel<T, 3>, shared,
                  "log_forces", y, partial);
    }
    PairSumArgs<T> args{};
    args.y = raw(y);
    args.n = n_;
    args.d = d_;
    args.splits = splits_;
    args.quadratic = kernel_.quadratic;
    args.log_coefficient = kernel_.log_coefficient;
    args.moments = raw(moments_);
    args.partial = logarithmic ? raw(partial) : nullptr;
    args.force = raw(force);
    const int blocks = static_cast<int>(std::clamp<Index>(Index{n_} * d_ / kPairThreads, 1, 1024));
    launch(pair_sum_kernel<T>, {blocks, kPairThreads, 0, stream_, "pair_sum"}, args);
  }

  /// 1/(2 n (n-1)) sum_{i != j} W(y_i - y_j), see Operations::interaction. Waits.
  double energy(DevicePointer<const T> y) {
    if (n_ < 2) return 0;
    const double pairs = static_cast<double>(n_) * (n_ - 1.0);
    if (kernel_.form != PairKernel::Form::quadratic_log) return pairwise(y) / (2 * pairs);
    measure(y);
    double total = kernel_.constant * pairs;
    if (kernel_.quadratic != 0) {
      for (const PairMoments& m : download(moments_, stream_)) total += 2 * kernel_.quadratic * n_ * m.square;
    }
    if (kernel_.log_coefficient != 0) {
      total += d_ > kMostRegisterDims ? pairwise(y) : kernel_.log_coefficient * logarithms(y);
    }
    return total / (2 * pairs);
  }

 private:
  static constexpr int kBlocks = 1056;  // eight for each multiprocessor of a large device

  void measure(DevicePointer<const T> y) {
    launch(pair_moments_kernel<T>, {d_, kMomentThreads, sizeof(MomentsShared), stream_, "pair_moments"}, y,
           n_, d_, moments_.pointer());
  }

  using LogKernel = void (*)(CloudPairArgs<T>);
  void launch_logs(LogKernel line, LogKernel plane, LogKernel space, std::size_t shared, const char* name,
                   DevicePointer<const T> y, DeviceBuffer<double>& partial) {
    CloudPairArgs<T> args{};
    args.y = raw(y);
    args.n = n_;
    args.splits = splits_;
    args.moments = raw(moments_);
    args.partial = raw(partial);
    const LogKernel kernel = d_ == 1 ? line : d_ == 2 ? plane : space;
    launch(kernel, {grid_, kPairThreads, shared, stream_, name}, args);
  }

  double sum(const DeviceBuffer<double>& partial) {
    double total = 0;
    for (const double part : download(partial, stream_)) total += part;
    return total;
  }

  double logarithms(DevicePointer<const T> y) {
    DeviceBuffer<double> partial(grid_);
    launch_logs(log_energy_kernel<T, 1>, log_energy_kernel<T, 2>, log_energy_kernel<T, 3>,
                sizeof(MomentsShared), "log_energy", y, partial);
    return sum(partial);
  }

  double pairwise(DevicePointer<const T> y) {
    DeviceBuffer<double> partial(pair_grid(n_));
    launch(pairwise_energy_kernel<T>,
           {pair_grid(n_), kPairThreads, sizeof(MomentsShared), stream_, "pairwise_energy"}, pairs_.terms(),
           y, n_, partial.pointer());
    return sum(partial);
  }

  const PairKernel& kernel_;
  int n_, d_, splits_, grid_;
  DevicePairs<T> pairs_;
  DeviceBuffer<PairMoments> moments_;
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
  CloudPairs<T> pairs(kernel, as_int(y.rows), as_int(y.cols), stream);
  if (force) {
    DeviceBuffer<T> forces(y.rows * y.cols);
    pairs.forces(cloud.pointer(), forces.pointer());
    download(forces, force, stream);
  }
  if (energy) *energy = pairs.energy(cloud.pointer());
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
template void launch_tile_forces(const PairTerms<float>&, DevicePointer<const float>, int,
                                 DevicePointer<float>, Stream&);
template void launch_tile_forces(const PairTerms<double>&, DevicePointer<const double>, int,
                                 DevicePointer<double>, Stream&);
template void launch_update(const UpdateArgs<float>&, const char*, Stream&);
template void launch_update(const UpdateArgs<double>&, const char*, Stream&);

}  // namespace brenier::cuda
