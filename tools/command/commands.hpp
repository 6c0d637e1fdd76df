// SPDX-License-Identifier: MIT
// The subcommands, as functions.
#pragma once

#include <filesystem>
#include <iosfwd>
#include <optional>
#include <string>
#include <vector>

#include "brenier/fit.hpp"

namespace brenier::app {

/// What the process ends with.
struct ExitCode {
  static constexpr int ok = 0;
  static constexpr int failed = 1;  // a flow diverged or its device failed; its folder has the steps so far
  static constexpr int bad_input = 2;  // options, configuration, files
  static constexpr int interrupted = 130;
};

/// The whole command. Never throws: messages go to `err`. `out_is_terminal` says whether progress may be
/// redrawn.
int run_command_line(int argc, const char* const* argv, std::ostream& out, std::ostream& err,
                     bool out_is_terminal = false);

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

struct PointOptions {
  std::filesystem::path run;     // run folder
  std::filesystem::path points;  // .npy (N, d)
  std::filesystem::path out;     // empty: POINTS-pulled.npy or POINTS-density.npy beside the points
  std::optional<int> step;       // nothing: the last; 0: the start
  int threads = 0;
  bool linear = false;  // densities instead of their logarithms
};
/// Writes where the flow carries the points from, (N, d); rows without an origin are NaN. ShapeError: points
/// of another dimension. IoError: files, a run folder whose maps are missing or damaged.
void pull(const PointOptions& options, std::ostream& log);
/// Writes the log-densities of the flow at the points, float64 (N), natural logarithm; -inf where there is no
/// origin. Errors as for pull(); ValueError: a run that starts from a file has no density.
void density(const PointOptions& options, std::ostream& log);

struct FitCommand {
  std::filesystem::path data, labels;  // .npy (N, d) and (N)
  std::filesystem::path out;           // .safetensors; the summary is beside it, with .json
  FitOptions options;
  bool double_precision = false;  // of the training
  bool quiet = false;
};
/// Trains a convex potential, writes it and a summary. False where it was interrupted: what there is then is
/// written. Errors as for fit(), and of the files.
bool fit(const FitCommand& command, std::ostream& out);

/// About the build, a run folder, a configuration, a .npy or a .safetensors file.
void info(const std::optional<std::filesystem::path>& path, std::ostream& out);

/// All keys of a configuration, what they may be and mean, in Markdown.
void show_keys(std::ostream& out);

/// Calls plot.py; returns its exit code. NotAvailable: no Python with numpy and matplotlib, or no plot.py.
int plot(const std::vector<std::filesystem::path>& runs, const std::filesystem::path& out);
/// The same of the summary of fit(): the figure beside it, with .png.
int plot_fit(const std::filesystem::path& summary);

}  // namespace brenier::app
