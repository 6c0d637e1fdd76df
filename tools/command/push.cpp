// SPDX-License-Identifier: MIT
// `brenier push`: points through the maps of a run.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <ostream>

#include "brenier/base/error.hpp"
#include "brenier/npy.hpp"
#include "tools/command/command.hpp"
#include "tools/command/commands.hpp"
#include "tools/runs/manifest.hpp"
#include "tools/runs/run_folder.hpp"

namespace brenier::app {

void push(const PushOptions& options, std::ostream& log) {
  namespace fs = std::filesystem;
  int unchecked = 0;
  const std::vector<BrenierMap> maps = read_maps(options.maps, options.steps, &unchecked);
  Cloud cloud;
  cloud.x = read_npy(options.cloud);
  if (!options.log_density.empty()) cloud.log_density = read_npy_vector(options.log_density);
  const int dim = maps.front().net.dim();
  if (cloud.x.cols() != dim) {
    throw ShapeError("'" + options.cloud.string() + "' has points in dimension " +
                     std::to_string(cloud.x.cols()) + ", the maps are of dimension " + std::to_string(dim));
  }
  if (maps.front().base == MapBase::extrapolated) {
    throw ValueError("'" + options.maps.string() + "' begins with the map of step " +
                     std::to_string(maps.front().step) +
                     ", of the second order: it starts from two clouds; give the whole run");
  }
  const bool second_order = std::any_of(
      maps.begin(), maps.end(), [](const BrenierMap& map) { return map.base == MapBase::extrapolated; });
  const fs::path stem = options.cloud.parent_path() / options.cloud.stem();
  const fs::path out = options.out.empty() ? fs::path(stem.string() + "-pushed.npy") : options.out;
  const fs::path density = out.parent_path() / (out.stem().string() + "-log-density.npy");
  std::error_code code;
  if (fs::equivalent(out, options.cloud, code)) {
    throw ValueError("'" + out.string() + "' is the cloud itself; choose another file with --out");
  }
  for (const fs::path& written : {out, density}) {
    if (written == density && options.log_density.empty()) continue;
    if (RunFolder::is_run(options.maps))
      RunFolder::open(options.maps).check_output(written, {options.log_density});
    if (fs::equivalent(written, options.log_density, code) || fs::equivalent(written, options.maps, code))
      throw ValueError("'" + written.string() + "' is read here; choose another file with --out");
  }

  Team team(options.threads);
  Trajectory trajectory(std::move(cloud), second_order);
  for (const BrenierMap& map : maps) trajectory.advance(map, team);

  write_npy(out, trajectory.x());
  log << unchecked_text(unchecked) << trajectory.x().rows() << " points through " << maps.back().step
      << " steps, to t = " << maps.back().time << ": " << out.string() << "\n";
  if (!trajectory.has_density()) return;
  write_npy(density, std::span<const double>(trajectory.log_density()));
  log << "log-densities: " << density.string() << "\n";
}

Command add_push(CLI::App& app) {
  CLI::App* command = app.add_subcommand("push", "carry other points through the maps of a run");
  const auto options = std::make_shared<PushOptions>();
  command->add_option("RUN", options->maps, "run folder, folder of maps, or one map")->required();
  command->add_option("POINTS", options->cloud, ".npy file of the points, (N, d)")->required();
  command->add_option("--log-density", options->log_density, ".npy file of their log-densities, (N)");
  command->add_option("-o,--out", options->out, ".npy file to write (POINTS-pushed.npy)");
  command->add_option("--step,--steps", options->steps, "up to step K (the last one)")->check(check_positive);
  add_threads_option(*command, options->threads);
  return {command, [options](const Console& console) {
            push(*options, console.out);
            return ExitCode::ok;
          }};
}

}  // namespace brenier::app
