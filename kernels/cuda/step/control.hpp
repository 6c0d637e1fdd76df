// SPDX-License-Identifier: MIT
// What an inner loop keeps on the device, and every kernel in it looks at.
#pragma once

#include "kernels/model/step.hpp"

namespace brenier::cuda {

/// State of an inner loop that lives on the device.
struct Control {
  int iteration = 0;        // of the step, the next to be done
  int current = 0;          // which of the two sets of parameters and moments holds
  int stop = 0;             // 1: later kernels of the loop do nothing
  LoopProgress progress{};  // in this call
};

}  // namespace brenier::cuda
