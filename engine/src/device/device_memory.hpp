// SPDX-License-Identifier: MIT
// What to say where a flow does not fit the memory of the device.
#pragma once

#include <cstddef>
#include <functional>
#include <string>

#include "brenier/base/error.hpp"
#include "kernels/model/step.hpp"

namespace brenier {

/// "1.50 GiB", "12.0 MiB", "800 bytes".
std::string bytes_text(std::size_t bytes);

/// What does_not_fit() returns.
class InnerProblemTooLarge : public OutOfDeviceMemory {
 public:
  using OutOfDeviceMemory::OutOfDeviceMemory;
};

/// The error for the inner problem of step `step` that ran out of the current device's memory: how large it
/// is, how much it `needed`, how much is free, and the largest minibatch that fits, by what the solver takes that
/// minibatches of n particles would have. To be called after all that the problem held has been released.
template <class T>
InnerProblemTooLarge does_not_fit(const InnerProblem<T>& problem, int step, const OutOfDeviceMemory& cause,
                                  std::size_t needed,
                                  const std::function<std::size_t(Index n)>& with_minibatch);

/// The error for evaluations of a cloud (N, d) that ran out of it: of F, of maps, of densities.
OutOfDeviceMemory evaluation_does_not_fit(Index particles, Index dim, int step,
                                          const OutOfDeviceMemory& cause);

}  // namespace brenier
