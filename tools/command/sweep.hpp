// SPDX-License-Identifier: MIT
// `brenier run --sweep`: one configuration with several values and seeds, a run each.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "tools/command/command.hpp"

namespace brenier::app {

struct SweepOptions {
  std::filesystem::path config, out;   // out: folder of the runs; empty: runs/CONFIG-sweep-N
  std::vector<std::string> set;        // KEY=VALUE, of every run
  std::vector<std::string> sweep;      // KEY=VALUE,VALUE,...: all combinations
  std::vector<long long> seeds;        // none: that of the file
  std::vector<std::string> arguments;  // more of `brenier run`, for every run
  int jobs = 1;                        // runs at a time
  int threads = 0;                     // of a run; 0: all processors, shared by the jobs
  bool resume = false, quiet = false, plot = false;
};

/// Checks every combination, then runs them as processes of this program, each in a folder that is named after its
/// values. summary.csv has a row a run, from the first one on. Returns an exit code: that of an interrupt, or the worst of
/// the runs (a failure, wrong input, unsolved steps). ValueError, ConfigError: values that cannot be used; nothing is
/// written then.
int sweep(const SweepOptions& options, const Console& console);

/// "7", "1:5" (both ends), "1,4,9" as seeds. ValueError.
std::vector<long long> seeds_of(const std::string& text);

}  // namespace brenier::app
