// SPDX-License-Identifier: MIT
// Runs tests on the current GPU. Exit code 77, which ctest reports as skipped, where there is none.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdio>

#include "kernels/cuda_devices.hpp"
#include "kernels/operations.hpp"

int main(int argc, char** argv) {
  if (brenier::cuda::devices() == 0) {
    std::printf("SKIPPED: no CUDA device: %s\n", brenier::cuda::trouble().c_str());
    return 77;
  }
  return doctest::Context(argc, argv).run();
}
