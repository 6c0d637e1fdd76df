// SPDX-License-Identifier: MIT
// Operations on a network whose parameters and rows have no room in a block's shared memory: chunks of
// thousands of particles, products of whole matrices by cuBLAS in T, and between them the kernels of
// kernels/cuda/layered/kernels.hpp. Defined in kernels/cuda/layered/layered.cpp.
//
//   layout   Z_l, ... (width, n) row-major for the n particles of a chunk; tangents (width, K n), so that all
//            tangents of a layer are one product
//   sums     over particles are products as well; chunks are added in order, into one set of sums
//   host     only launches: everything here can be captured in a graph
#pragma once

#include <functional>
#include <memory>

#include "kernels/cuda/network/solve_kernels.hpp"
#include "kernels/cuda/step/step_cg.hpp"

namespace brenier::cuda {

/// Launches what the kernels of tiles compute, from the same arguments.
template <class T>
class LayeredNet {
 public:
  virtual ~LayeredNet() = default;

  virtual const TilePlan& plan() const = 0;
  virtual void evaluate(const TileArgs<T>& tile, Stream& stream) = 0;
  /// to (n, d) += factor * displacements, under the control of args.control; and potentials to
  /// args.tile.potential, where that is given.
  virtual void add_displacement(const StepArgs<T>& args, T factor, DevicePointer<T> to, Stream& stream) = 0;
  virtual void hessian_vector(const TileArgs<T>& tile, Stream& stream) = 0;
  /// tile.partial = the gradient of the jet with the seeds in `tile`.
  virtual void jet_gradient(const TileArgs<T>& tile, Stream& stream) = 0;
  virtual void solve(const SolveArgs<T>& args, Stream& stream) = 0;
  virtual void log_det_lanczos(const SolveArgs<T>& args, Stream& stream) = 0;
  /// args.tile.partial = sums over particles of one iteration's gradient. Where `images` are wanted,
  /// launch_forces() is called once, when those of all particles are there. Displacements and log-determinants
  /// are written where args.tile has room for them.
  virtual void step(const StepArgs<T>& args, bool images, const std::function<void()>& launch_forces,
                    Stream& stream) = 0;
  /// The same with a stochastic log-determinant; the plan of this network is that of its pairs.
  virtual void step_cg(const StepCgArgs<T>& args, bool images, const std::function<void()>& launch_forces,
                       Stream& stream) = 0;
};

/// For T = float and double; has the buffers for clouds of `particles`.
template <class T>
std::unique_ptr<LayeredNet<T>> layered_net(const NetView& net, const TileTask& task, Index particles,
                                           Stream& stream);

}  // namespace brenier::cuda
