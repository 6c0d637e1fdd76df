// SPDX-License-Identifier: MIT
// The command, and those of its subcommands that others call.
#pragma once

#include <filesystem>
#include <functional>
#include <iosfwd>
#include <memory>
#include <string>
#include <vector>

#include "brenier/communicator.hpp"

namespace brenier::app {

/// What the process ends with; the README has the table.
struct ExitCode {
  static constexpr int ok = 0;
  static constexpr int failed = 1;  // a flow diverged or its device failed; its folder has the steps so far
  static constexpr int bad_input = 2;  // options, configuration, files that are missing or may not be written
  static constexpr int unsolved =
      3;  // steps are not solved, or too few for flow.end_time; F rose in `descend`
  static constexpr int not_written = 74;   // reading or writing failed on the way (EX_IOERR of sysexits.h)
  static constexpr int disk_full = 75;     // or a quota is (EX_TEMPFAIL)
  static constexpr int out_of_time = 124;  // --max-time or output.max_seconds, as timeout(1) says it
  static constexpr int interrupted = 130;  // by Ctrl-C, or by another process
  /// Interrupted by a signal; 0: it is not known by which.
  static constexpr int by_signal(int signal) { return signal == 0 ? interrupted : 128 + signal; }
};

/// The whole command. Never throws: messages go to `err`. `out_is_terminal` says whether progress may be
/// redrawn. Processes that were started together share runs; the first of them speaks.
int run_command_line(int argc, const char* const* argv, std::ostream& out, std::ostream& err,
                     bool out_is_terminal = false, const std::shared_ptr<Communicator>& communicator = {});

struct PushOptions {
  std::filesystem::path maps;         // run folder, folder of maps, or one map
  std::filesystem::path cloud;        // .npy (N, d)
  std::filesystem::path log_density;  // .npy (N), or empty
  std::filesystem::path out;          // empty: CLOUD-pushed.npy beside the cloud
  int steps = 0;                      // 0: all
  int threads = 0;
};
/// Carries a cloud through maps; writes the cloud and, where log-densities came in, OUT's name with
/// -log-density.
void push(const PushOptions& options, std::ostream& log);

struct DistanceOptions {
  std::filesystem::path a, b;        // .npy (N, d) and (M, d)
  std::vector<std::string> metrics;  // of w2, energy, mmd, gaussian, sinkhorn; empty: all
  double bandwidth = 0;              // of mmd; 0: the median distance
  double epsilon = 0;                // of sinkhorn; 0: the square of a twentieth of the median distance
  bool json = false;
  int threads = 0;
};
/// Distances between two clouds, a line each.
void distance(const DistanceOptions& options, std::ostream& out);

/// Checks the files and calls plot.py with more options; returns ok, not_written, disk_full or bad_input. IoError: a file that it needs is damaged.
/// NotAvailable: no Python with numpy and matplotlib, or no plot.py.
int plot(const std::vector<std::filesystem::path>& runs, const std::filesystem::path& out, std::ostream& log,
         const std::vector<std::string>& more = {});
/// A page about runs, as one .html file. Returns and errors as for plot().
int report(const std::vector<std::filesystem::path>& runs, const std::filesystem::path& out,
           std::ostream& log);
/// The same of the summary of fit(): the figure beside it, with .png.
int plot_fit(const std::filesystem::path& summary);
/// Calls draw(), which returns and throws as these, after work that ended with `code`, and gives what the command ends with.
/// Results are not less for a figure that is missing: a warning says that `what` is whole and how to draw it `later`, and
/// the code stays, but for a disk that cannot be written where it was ok.
int after(int code, const std::string& what, const std::string& later, std::ostream& err,
          const std::function<int()>& draw);

}  // namespace brenier::app
