// SPDX-License-Identifier: MIT
// Runs tests on the current GPU. Exit code 77, which ctest reports as skipped, where there is none.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdio>

#include "kernels/ops.hpp"

int main(int argc, char** argv) {
  if (brenier::cuda::devices() == 0) {
    std::printf("SKIPPED: there is no CUDA device here, or no driver for it\n");
    return 77;
  }
  return doctest::Context(argc, argv).run();
}
