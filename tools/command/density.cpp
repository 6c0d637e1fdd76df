// SPDX-License-Identifier: MIT
// `brenier pull` and `brenier density`: where points of a flow come from, and its density there.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cmath>
#include <memory>
#include <ostream>

#include "brenier/base/error.hpp"
#include "brenier/flow_density.hpp"
#include "brenier/npy.hpp"
#include "engine/src/config/config.hpp"
#include "tools/command/command.hpp"
#include "tools/command/commands.hpp"
#include "tools/runs/manifest.hpp"
#include "tools/runs/run_folder.hpp"

namespace brenier::app {
namespace {

namespace fs = std::filesystem;

struct PointOptions {
  fs::path run;             // run folder
  fs::path points;          // .npy (N, d)
  fs::path out;             // empty: POINTS-pulled.npy or POINTS-density.npy beside the points
  std::optional<int> step;  // nothing: the last; 0: the start
  int threads = 0;
  std::string grid;     // in the place of the points
  bool linear = false;  // densities instead of their logarithms
};

/// "-3:3:61,-3:3:61": of each axis the first point, the last one and how many, all of them, the last axis fastest.
struct Grid {
  Matrix<double> points;      // (N, d)
  std::vector<Index> counts;  // d
};

Grid grid_of(const std::string& text, int dim) {
  const auto bad = [&](const std::string& why) {
    return ValueError("--grid=" + text + ": " + why + "; it must be FIRST:LAST:COUNT for each of the " +
                      std::to_string(dim) + " axes, with commas between: " +
                      (dim == 1 ? "--grid=-3:3:61" : "--grid=-3:3:61,-3:3:61"));
  };
  std::vector<double> numbers;
  std::vector<char> ends;
  for (const char *at = text.data(), *end = at + text.size(); at < end;) {
    double value = 0;
    const auto read = std::from_chars(at, end, value);
    if (read.ec != std::errc() || !std::isfinite(value))
      throw bad("'" + std::string(at, end) + "' is no number");
    numbers.push_back(value);
    ends.push_back(read.ptr == end ? ',' : *read.ptr);
    at = read.ptr == end ? end : read.ptr + 1;
  }
  if (numbers.size() != 3 * static_cast<std::size_t>(dim))
    throw bad("there are " + std::to_string(numbers.size()) + " numbers");
  Grid grid;
  double total = 1;
  for (std::size_t axis = 0; axis < static_cast<std::size_t>(dim); ++axis) {
    const double count = numbers[3 * axis + 2];
    if (ends[3 * axis] != ':' || ends[3 * axis + 1] != ':' || ends[3 * axis + 2] != ',')
      throw bad("colons and commas are not where they must be");
    if (count != std::round(count) || count < 1 || (total *= count) > 1e8)
      throw bad("counts are whole numbers, at least 1, and at most 1e8 together");
    grid.counts.push_back(static_cast<Index>(count));
  }
  grid.points = Matrix<double>(static_cast<Index>(total), dim);
  for (Index i = 0; i < grid.points.rows(); ++i) {
    Index rest = i;
    for (Index axis = dim - 1; axis >= 0; --axis) {
      const Index count = grid.counts[axis], k = rest % count;
      rest /= count;
      const double first = numbers[3 * axis], last = numbers[3 * axis + 1];
      grid.points(i, axis) = k == count - 1 && count > 1
                                 ? last
                                 : first + (last - first) * static_cast<double>(k) /
                                               static_cast<double>(std::max<Index>(1, count - 1));
    }
  }
  return grid;
}

/// The flow of a run folder and the points, checked against each other.
struct Problem {
  Config config;
  FlowDensity flow;
  Matrix<double> points;
  double time;
  fs::path out;
  std::string notes;          // lines on files without checksums
  std::vector<Index> counts;  // of a grid
};

std::vector<BrenierMap> maps_of(const RunFolder& folder, const std::optional<int>& step, int& unchecked) {
  if (step == 0) return {};
  try {
    return read_maps(folder.path(), step.value_or(0), &unchecked);
  } catch (const IoError& error) {
    throw IoError(std::string(error.what()) +
                  "; ask for an earlier step with --step, or make the maps again: brenier run " +
                  folder.config().string() + " --out OTHER");
  }
}

Problem load(const PointOptions& options, const char* suffix) {
  const RunFolder folder = RunFolder::open(options.run);
  Config config = load_config(folder.config());
  const std::optional<Manifest> manifest = Manifest::read(folder.path());
  // The maps are of the problem as it was.
  if (manifest) check_settings(folder.path(), *manifest, config, false);
  if (options.points.empty() == options.grid.empty())
    throw ValueError(options.grid.empty() ? "POINTS is required, a file of points, or --grid=-3:3:61"
                                          : "POINTS and --grid stand side by side; give one of them");
  if (!options.grid.empty() && options.out.empty())
    throw ValueError("--grid=" + options.grid + " needs a file to write: -o OUT.npy");
  Grid grid;
  if (!options.grid.empty()) grid = grid_of(options.grid, config.cloud.dim);
  Matrix<double> points = options.grid.empty() ? read_npy(options.points) : std::move(grid.points);
  if (points.cols() != config.cloud.dim) {
    throw ShapeError("'" + options.points.string() + "' has points in dimension " +
                     std::to_string(points.cols()) + ", the run is of dimension " +
                     std::to_string(config.cloud.dim) + "; the shape must be (N, " +
                     std::to_string(config.cloud.dim) + ")");
  }
  const fs::path stem = options.points.parent_path() / options.points.stem();
  fs::path out = options.out.empty() ? fs::path(stem.string() + suffix) : options.out;
  std::error_code code;
  if (options.grid.empty() && fs::equivalent(out, options.points, code)) {
    throw ValueError("'" + out.string() + "' is the file of points itself; choose another one with --out");
  }
  std::vector<fs::path> inputs;
  for (const auto& [key, file] : config.files) inputs.push_back(file);
  folder.check_output(out, inputs);
  int unchecked = 0;
  std::vector<BrenierMap> maps = maps_of(folder, options.step, unchecked);
  std::string notes = unchecked_text(unchecked);
  if (!manifest) notes += "'" + options.run.string() + "' has no manifest.json: its settings are unchecked\n";
  const double time = maps.empty() ? config.flow.start_time : maps.back().time;
  FlowDensityOptions flow_options;
  flow_options.threads = options.threads;
  // Order 2 starts from particles: those of the run, around which its extrapolations are known to be fit.
  const auto rho0 = [&]() -> FlowDensity::Function {
    if (!config.cloud.density) return {};
    return [density = *config.cloud.density](std::span<const double> x) { return density.log_density(x); };
  };
  FlowDensity flow(std::move(maps), rho0(), config.initial_cloud().x, flow_options);
  return {std::move(config), std::move(flow),  std::move(points),     time,
          std::move(out),    std::move(notes), std::move(grid.counts)};
}

/// "30 points at step 5, t = 0.1: ", with a word on those that are no points.
std::ostream& begin_line(std::ostream& log, const Problem& problem) {
  Index broken = 0;
  for (Index i = 0; i < problem.points.rows(); ++i) {
    const double* x = problem.points.row(i);
    broken += !std::all_of(x, x + problem.points.cols(), [](double c) { return std::isfinite(c); });
  }
  log << problem.notes << problem.points.rows() << " points at step " << problem.flow.steps()
      << ", t = " << problem.time;
  if (broken > 0) log << ", " << broken << " with coordinates that are not finite";
  return log << ": ";
}

/// Writes where the flow carries the points from, (N, d); rows without an origin are NaN. ShapeError: points
/// of another dimension. IoError: files, a run folder whose maps are missing or damaged.
void pull(const PointOptions& options, std::ostream& log) {
  const Problem problem = load(options, "-pulled.npy");
  const FlowDensity::Origins origins = problem.flow.pull(problem.points);
  write_npy(problem.out, origins.x);
  begin_line(log, problem) << origins.count(InverseStatus::outside) << " outside, "
                           << origins.count(InverseStatus::unconverged)
                           << " unconverged (rows of NaN); worst round trip " << origins.worst_round_trip
                           << ": " << problem.out.string() << "\n";
}

/// Writes the log-densities of the flow at the points, float64 (N), or in the shape of a grid of two axes, natural
/// logarithm; -inf where there is no origin, NaN where Newton's method found none and the density is not known. Errors as for pull(); ValueError: a run that starts from a file has no density.
void density(const PointOptions& options, std::ostream& log) {
  const Problem problem = load(options, "-density.npy");
  if (!problem.config.cloud.density) {
    throw ValueError("'" + options.run.string() +
                     "' starts from a file of particles, whose density is known at the particles only; "
                     "`brenier push` carries it along with them");
  }
  FlowDensity::LogDensities at = problem.flow.log_density(problem.points);
  // The library has -inf for these: it promises no NaN.
  for (std::size_t i = 0; i < at.values.size(); ++i) {
    if (at.status[i] == InverseStatus::unconverged) at.values[i] = std::numeric_limits<double>::quiet_NaN();
  }
  const auto zeros = std::count(at.values.begin(), at.values.end(), -std::numeric_limits<double>::infinity());
  if (options.linear) {
    for (double& value : at.values) value = std::exp(value);
  }
  if (problem.counts.size() == 2) {
    write_npy(problem.out, MatrixView<const double>(at.values.data(), problem.counts[0], problem.counts[1]));
  } else {
    write_npy(problem.out, std::span<const double>(at.values));
  }
  begin_line(log, problem) << zeros << " of density 0, of which " << at.count(InverseStatus::outside)
                           << " outside the image of a map; " << at.count(InverseStatus::unconverged)
                           << " unconverged (NaN: not known); worst round trip " << at.worst_round_trip
                           << ": " << (options.linear ? "densities in " : "log-densities in ")
                           << problem.out.string() << "\n";
}

void add_options(CLI::App& command, PointOptions& options, const std::string& out) {
  command.add_option("RUN", options.run, "run folder")->required();
  command.add_option("POINTS", options.points, ".npy, .npz or .csv file of the points, (N, d)");
  command.add_option("-o,--out", options.out, out);
  command.add_option("--step", options.step, "after step K; 0: the start (the last step)")
      ->check(check_not_negative);
  add_threads_option(command, options.threads);
}

}  // namespace

Command add_pull(CLI::App& app) {
  CLI::App* command = app.add_subcommand("pull", "where the flow of a run carries points from");
  const auto options = std::make_shared<PointOptions>();
  add_options(*command, *options, "OUT (N, d), rows of NaN where there is no such point (POINTS-pulled.npy)");
  return {command, [options](const Console& console) {
            pull(*options, console.out);
            return ExitCode::ok;
          }};
}

Command add_density(CLI::App& app) {
  CLI::App* command = app.add_subcommand("density", "log-density of a run's flow at any points");
  const auto options = std::make_shared<PointOptions>();
  add_options(*command, *options,
              "OUT (N), float64, natural logarithms (POINTS-density.npy); NaN where not known");
  command->add_option(
      "--grid", options->grid,
      "in the place of POINTS, FIRST:LAST:COUNT of each axis: --grid=-3:3:61,-3:3:61; OUT then has "
      "the shape of the grid for one or two axes, and the last axis runs fastest");
  command->add_flag("--linear", options->linear, "densities instead of their logarithms");
  return {command, [options](const Console& console) {
            density(*options, console.out);
            return ExitCode::ok;
          }};
}

}  // namespace brenier::app
