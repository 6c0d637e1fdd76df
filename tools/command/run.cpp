// SPDX-License-Identifier: MIT
// `brenier run` and `brenier resume`.
#include "tools/runs/run.hpp"

#include <CLI/CLI.hpp>
#include <memory>
#include <optional>
#include <ostream>

#include "tools/command/command.hpp"
#include "tools/command/commands.hpp"
#include "tools/runs/run_folder.hpp"

namespace brenier::app {
namespace {

struct RunArguments {
  std::filesystem::path config, out;
  std::string device;
  std::vector<std::string> set;
  std::optional<long long> seed;
  std::optional<int> threads, steps;
  bool resume = false, quiet = false, plot = false;

  std::vector<std::string> overrides() const {
    std::vector<std::string> all;
    if (seed) all.push_back("seed=" + std::to_string(*seed));
    if (!device.empty()) all.push_back("device=\"" + device + "\"");
    if (threads) all.push_back("threads=" + std::to_string(*threads));
    if (steps) all.push_back("flow.steps=" + std::to_string(*steps));
    all.insert(all.end(), set.begin(), set.end());
    return all;
  }
};

int exit_code(RunStatus status) {
  switch (status) {
    case RunStatus::done:
      return ExitCode::ok;
    case RunStatus::unsolved:
      return ExitCode::unsolved;
    case RunStatus::interrupted:
      return ExitCode::interrupted;
    case RunStatus::failed:
      break;
  }
  return ExitCode::failed;
}

/// Draws the figures of a run that has completed steps, where that was asked for.
int finish(const RunArguments& arguments, const RunResult& result, const Console& console) {
  console.out.flush();
  // Without progress a flow that failed has said nothing yet.
  if (arguments.quiet && result.status == RunStatus::failed)
    console.err << "brenier: " << result.folder.string() << ": the flow failed after " << result.steps
                << (result.steps == 1 ? " step: " : " steps: ") << result.reason << std::endl;
  if (arguments.quiet && result.status == RunStatus::unsolved)
    console.err
        << "brenier: " << result.folder.string()
        << ": some steps are not solved as exactly as inner.accept asks for; see warnings in its summary.json"
        << std::endl;
  // Whoever presses Ctrl-C does not wait for figures.
  const bool first = !console.communicator || console.communicator->rank() == 0;
  const bool draw = first && arguments.plot && result.status != RunStatus::interrupted;
  if (draw && plot({result.folder}, {}, console.out) != 0 && result.status == RunStatus::done)
    return ExitCode::failed;
  return exit_code(result.status);
}

RunOptions options_of(const RunArguments& arguments, const Console& console) {
  RunOptions options;
  options.out = arguments.out;
  options.log = arguments.quiet ? nullptr : &console.out;
  options.terminal = console.terminal;
  options.communicator = console.communicator;
  return options;
}

/// Options of both, after their own.
void add_common(CLI::App& command, RunArguments& arguments, const std::string& about_set) {
  command.add_option("--set", arguments.set, about_set)->allow_extra_args(false);
  add_device_option(command, arguments.device);
  command.add_option("--threads", arguments.threads,
                     "threads; 0: all processors. Results do not depend on it");
  command.add_flag("-q,--quiet", arguments.quiet, "no progress");
  command.add_flag("--plot", arguments.plot, "draw the figures at the end, as `brenier plot` does");
}

}  // namespace

Command add_run(CLI::App& app) {
  CLI::App* command = app.add_subcommand("run", "run a flow from a TOML file");
  const auto arguments = std::make_shared<RunArguments>();
  command->add_option("CONFIG", arguments->config, "the TOML file")->required();
  command->add_option("-o,--out", arguments->out, "run folder, new or empty (runs/CONFIG-N)");
  command->add_option("--seed", arguments->seed, "of all random numbers, instead of the file's")
      ->check(CLI::Validator(check_seed, "0..9223372036854775807"));
  command->add_flag("--resume", arguments->resume, "continue where the run folder exists already");
  add_common(*command, *arguments, "KEY=VALUE: replace a value, for example flow.tau=1e-4; may be repeated");
  return {command, [arguments](const Console& console) {
            const Config config = load_config(arguments->config, arguments->overrides());
            RunOptions options = options_of(*arguments, console);
            options.name = arguments->config.stem().string();
            const bool go_on = arguments->resume && RunFolder::is_run(options.out);
            return finish(*arguments, go_on ? resume(config, options) : run(config, options), console);
          }};
}

Command add_resume(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("resume", "continue an interrupted run, bit for bit, or make it longer");
  const auto arguments = std::make_shared<RunArguments>();
  command->add_option("RUN", arguments->out, "run folder")->required();
  command->add_option("--steps", arguments->steps, "new number of steps in all");
  add_common(*command, *arguments,
             "KEY=VALUE: other values in [output], and in [inner] where the run has failed");
  return {command, [arguments](const Console& console) {
            const RunOptions options = options_of(*arguments, console);
            const RunFolder folder = RunFolder::open(options.out);
            const Config config = load_config(folder.config(), arguments->overrides());
            return finish(*arguments, resume(config, options), console);
          }};
}

}  // namespace brenier::app
