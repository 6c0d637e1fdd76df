// SPDX-License-Identifier: MIT
// How a benchmark program begins and ends.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "brenier/device.hpp"
#include "kernels/operations.hpp"

namespace brenier::bench {

/// The whole of main(): arguments into `options`, then run(options), which returns the exit status; 2 with a message
/// where it throws.
template <class Options, class Run>
int run_program(int argc, char** argv, const std::string& about, Options options, const Run& run) {
  CLI::App app(about);
  options.add_to(app);
  CLI11_PARSE(app, argc, argv);
  try {
    return run(options);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", std::filesystem::path(argv[0]).filename().c_str(), error.what());
    return 2;
  }
}

/// The same for run(options) on the device of the options; without a status of its own.
template <class Options, class Run>
int run_on_device(int argc, char** argv, const std::string& about, const Options& options, const Run& run) {
  return run_program(argc, argv, about, options, [&](const Options& given) {
    const DeviceScope device(given.device);
    run(given);
    return 0;
  });
}

/// The option --threads, and with it --device.
inline void add_threads(CLI::App& app, int& threads) {
  app.add_option("--threads", threads, "0: all processors")->check(CLI::NonNegativeNumber);
}
inline void add_device(CLI::App& app, std::string& device, int& threads) {
  app.add_option("--device", device, "auto, cpu, cpu:VARIANT, ref, cuda or cuda:K");
  add_threads(app, threads);
}

/// A line of results, and the exit status of success.
inline int print(const nlohmann::ordered_json& line) {
  std::printf("%s\n", line.dump().c_str());
  return 0;
}

}  // namespace brenier::bench
