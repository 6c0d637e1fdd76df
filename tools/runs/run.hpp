// SPDX-License-Identifier: MIT
// `brenier run` and `brenier resume`.
#pragma once

#include <filesystem>
#include <functional>
#include <iosfwd>
#include <memory>
#include <optional>
#include <string>

#include "brenier/communicator.hpp"
#include "engine/src/config/config.hpp"

namespace brenier::app {

struct RunOptions {
  std::filesystem::path out;    // run folder; empty: runs/NAME-1, or the next number that is free
  std::string name = "flow";    // NAME
  std::ostream* log = nullptr;  // progress; nullptr: silent
  bool terminal = false;        // redraw one line
  std::shared_ptr<Communicator> communicator{};  // processes that compute the run; the first one writes
  std::function<void(int step)> on_step;         // after each step is recorded
  std::optional<double> max_seconds{};           // as output.max_seconds, of this process alone
  std::string command;                           // for the summary: how the process was called
};

enum class RunStatus {
  done,
  /// All steps were taken, and some are known not to be solved, see StepReport::solved; or flow.steps ended a flow of
  /// adaptive steps before its end_time, which is the reason then.
  unsolved,
  interrupted,
  failed,
};

struct RunResult {
  RunStatus status = RunStatus::done;  // interrupted: also while the last numbers were computed
  std::string reason;                  // of a failure, an interrupt, or an end before flow.end_time
  int signal = 0;                      // that interrupted; 0: none did, or it came to another process
  bool out_of_time = false;            // interrupted by output.max_seconds
  int steps = 0;                       // completed
  std::filesystem::path folder;        // where it is
};

/// Checks everything, then makes the folder and runs. Errors before the first step leave nothing behind; a
/// flow that diverges, or an interrupt, leaves a valid folder with the steps so far. IoError: the files, also
/// during the run. The signals of InterruptScope are taken from before the first file to after the last one.
RunResult run(const Config& config, const RunOptions& options);

/// Continues the run in options.out from its checkpoint, bit for bit. `config` is that of the run; it may
/// differ in flow.steps, device, threads and [output], and in [inner] where the run has failed (ConfigError
/// for anything else).
RunResult resume(const Config& config, const RunOptions& options);

}  // namespace brenier::app
