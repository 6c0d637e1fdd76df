// SPDX-License-Identifier: MIT
// Runs tests on the current GPU. Exit code 77, which ctest reports as skipped, where there is none; the list of the
// cases is there all the same.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdio>
#include <cstring>

#include "kernels/cuda_devices.hpp"
#include "kernels/operations.hpp"

int main(int argc, char** argv) {
  bool only_list = false;
  for (int k = 1; k < argc; ++k) only_list = only_list || std::strcmp(argv[k], "--list-test-cases") == 0;
  if (!only_list && brenier::cuda::devices() == 0) {
    std::printf("SKIPPED: no CUDA device: %s\n", brenier::cuda::trouble().c_str());
    return 77;
  }
  return doctest::Context(argc, argv).run();
}
