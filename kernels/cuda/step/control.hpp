// SPDX-License-Identifier: MIT
// What an inner loop keeps on the device, and every kernel in it looks at.
#pragma once

namespace brenier::cuda {

/// State of an inner loop that lives on the device.
struct Control {
  int iteration = 0;  // of the step, the next to be done
  int done = 0;       // in this call
  int current = 0;    // which of the two sets of parameters and moments holds
  int stop = 0;       // 1: later kernels of the loop do nothing
  int finite = 1, converged = 0;
  double first_gradient = 0, gradient = 0;
};

}  // namespace brenier::cuda
