// SPDX-License-Identifier: MIT
// What does not depend on how products of matrices are formed: operations on clouds, forces of a cloud, and
// the end of an inner iteration. Defined for float and double in kernels/cuda/cloud/clouds.cpp.
#pragma once

#include <memory>

#include "kernels/cuda/cloud/pair_kernels.hpp"
#include "kernels/cuda/cloud/value.hpp"
#include "kernels/cuda/step/update.hpp"
#include "kernels/operations.hpp"

namespace brenier::cuda {

/// See Operations.
template <class T>
void evaluate_program(const Program& program, MatrixView<const T> x, T* value, MatrixView<T> gradient, Team&);
template <class T>
void interaction(const PairKernel& kernel, MatrixView<const T> y, double* energy, MatrixView<T> force, Team&);

/// force (n, d) of a cloud y (n, d), both on the device, by tile_forces; `terms` for pair_threads(n).
template <class T>
void launch_tile_forces(const PairTerms<T>& terms, DevicePointer<const T> y, int n, DevicePointer<T> force,
                        Stream& stream);

/// The energy of a cloud's interactions, by launches alone.
template <class T>
class PairEnergy {
 public:
  virtual ~PairEnergy() = default;

  /// value += 1/(2 n (n-1)) sum_{i != j} W(y_i - y_j), but for constants in W (DevicePairs::constant).
  virtual void launch(DevicePointer<const T> y, DeviceValue& value, Stream& stream) = 0;
};

/// For clouds of n particles; `pairs`, for pair_threads(n), must outlive it.
template <class T>
std::unique_ptr<PairEnergy<T>> pair_energy(const DevicePairs<T>& pairs, int n, Stream& stream);

/// The sum over blocks; with Adam where `args` has what it needs.
template <class T>
void launch_update(const UpdateArgs<T>& args, const char* name, Stream& stream);

}  // namespace brenier::cuda
