// SPDX-License-Identifier: MIT
// `brenier sample`: new points of a run's flow, drawn from the initial density and carried through the maps.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <ostream>

#include "brenier/base/error.hpp"
#include "brenier/npy.hpp"
#include "engine/src/config/config.hpp"
#include "kernels/base/show.hpp"
#include "tools/command/command.hpp"
#include "tools/command/commands.hpp"
#include "tools/runs/run_folder.hpp"

namespace brenier::app {
namespace {

struct SampleOptions {
  std::filesystem::path run, out;     // run folder; .npy (N, d)
  std::filesystem::path log_density;  // .npy (N), or empty
  Index count = 0;                    // N
  std::optional<int> step;            // nothing: the last one; 0: the start
  std::optional<double> time;         // instead of the step
  std::string sampling = "random";
  std::uint64_t seed = 0;
  int threads = 0;
};

/// The maps up to the time: a step ends there, up to rounding. ValueError with the nearest step otherwise.
std::vector<BrenierMap> until(std::vector<BrenierMap> maps, double start, double time) {
  double near = start;
  int step = 0;
  for (const BrenierMap& map : maps) {
    if (!map.closes_step || std::abs(map.time - time) >= std::abs(near - time)) continue;
    near = map.time;
    step = map.step;
  }
  if (!(std::abs(near - time) <= 1e-9 * std::max(std::abs(time), std::abs(near - start)))) {
    throw ValueError("--time " + exact_text(time) + ": no step ends there; the nearest is step " +
                     std::to_string(step) + ", at " + exact_text(near));
  }
  std::erase_if(maps, [step](const BrenierMap& map) { return map.step > step; });
  return maps;
}

void sample(const SampleOptions& options, std::ostream& log) {
  const RunFolder folder = RunFolder::open(options.run);
  const Config config = load_config(folder.config());
  if (!config.cloud.density) {
    throw ValueError(
        "'" + options.run.string() +
        "' starts from a file of particles, of which no more can be drawn; `brenier push` carries "
        "other points through its maps");
  }
  std::vector<std::filesystem::path> inputs;
  for (const auto& [key, file] : config.files) inputs.push_back(file);
  folder.check_output(options.out, inputs);
  if (!options.log_density.empty()) {
    folder.check_output(options.log_density, inputs);
    if (std::filesystem::weakly_canonical(options.log_density) ==
        std::filesystem::weakly_canonical(options.out))
      throw ValueError("'" + options.out.string() +
                       "' is given for the points and for their log-densities; choose another file for one");
  }
  const double start = config.flow.start_time;
  std::vector<BrenierMap> maps;
  if (options.step != 0) maps = read_maps(folder.path(), options.step.value_or(0));
  if (options.time) maps = until(std::move(maps), start, *options.time);
  const Sampling how = options.sampling == "random"       ? Sampling::random
                       : options.sampling == "stratified" ? Sampling::stratified
                                                          : Sampling::whitened;
  // The stream keeps the points independent of the run's own particles and held-out ones, whatever the seeds.
  Cloud cloud = config.cloud.density->sample(options.count, how, options.seed, RandomStream::fresh);
  if (options.log_density.empty()) cloud.log_density.clear();
  const bool second_order = std::any_of(
      maps.begin(), maps.end(), [](const BrenierMap& map) { return map.base == MapBase::extrapolated; });
  Team team(options.threads);
  Trajectory trajectory(std::move(cloud), second_order);
  for (const BrenierMap& map : maps) trajectory.advance(map, team);
  write_npy(options.out, trajectory.x());
  if (trajectory.has_density())
    write_npy(options.log_density, std::span<const double>(trajectory.log_density()));
  log << options.count << " points at step " << (maps.empty() ? 0 : maps.back().step)
      << ", t = " << (maps.empty() ? start : maps.back().time) << ": " << options.out.string();
  if (trajectory.has_density()) log << ", log-densities: " << options.log_density.string();
  log << "\n";
}

}  // namespace

Command add_sample(CLI::App& app) {
  CLI::App* command = app.add_subcommand("sample", "new points of a run's flow");
  const auto options = std::make_shared<SampleOptions>();
  command->add_option("RUN", options->run, "run folder")->required();
  command->add_option("N", options->count, "how many")->required()->check(check_positive);
  command->add_option("-o,--out", options->out, ".npy file to write, (N, d)")->required();
  command->add_option("--log-density", options->log_density, ".npy file for their log-densities, (N)");
  CLI::Option* step =
      command->add_option("--step", options->step, "after step K; 0: the start (the last step)")
          ->check(check_not_negative);
  command->add_option("--time", options->time, "at the time T, where a step ends")->excludes(step);
  command->add_option("--sampling", options->sampling, "random, stratified or whitened (random)")
      ->check(CLI::IsMember({"random", "stratified", "whitened"}));
  command->add_option("--seed", options->seed, "of the points (0); they are independent of the run's own")
      ->check(CLI::Validator(check_seed, "0..9223372036854775807"));
  add_threads_option(*command, options->threads);
  return {command, [options](const Console& console) {
            sample(*options, console.out);
            return ExitCode::ok;
          }};
}

}  // namespace brenier::app
