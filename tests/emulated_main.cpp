// SPDX-License-Identifier: MIT
// Runs tests on the emulated device with the threads of a block in the order that the first argument names:
// forward or reverse. What depends on the order is a bug in a kernel. With a second argument, late, kernels run
// when something waits for them and no earlier: what depends on that is a bug of the host.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <string>

#include "kernels/device/device.hpp"

int main(int argc, char** argv) {
  using namespace brenier::device;
  emulator::Options options;
  options.memory = std::size_t{1} << 31;
  if (argc > 1 && std::string(argv[1]) == "reverse") {
    options.threads = emulator::Order::reverse;
    options.blocks = emulator::Order::reverse;
  }
  options.delay = argc > 2 && std::string(argv[2]) == "late";
  const emulator::ScopedOptions scope(options);
  return doctest::Context(argc, argv).run();
}
