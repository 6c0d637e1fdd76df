// SPDX-License-Identifier: MIT
// `brenier run` and `brenier resume`.
#include "tools/runs/run.hpp"

#include <CLI/CLI.hpp>
#include <charconv>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <ostream>

#include "brenier/base/error.hpp"
#include "kernels/base/show.hpp"
#include "tools/command/command.hpp"
#include "tools/command/commands.hpp"
#include "tools/command/sweep.hpp"
#include "tools/runs/provenance.hpp"
#include "tools/runs/run_folder.hpp"

namespace brenier::app {
namespace {

struct RunArguments {
  std::filesystem::path config, out;
  std::string device;
  std::vector<std::string> set;
  std::string seed;
  std::vector<std::string> sweep;
  std::optional<int> threads, steps;
  int jobs = 1;
  std::optional<double> max_seconds;
  bool resume = false, quiet = false, plot = false, report = false;

  std::vector<std::string> overrides() const {
    std::vector<std::string> all;
    if (!seed.empty()) all.push_back("seed=" + seed);
    if (!device.empty()) all.push_back("device=\"" + device + "\"");
    if (threads) all.push_back("threads=" + std::to_string(*threads));
    if (steps) all.push_back("flow.steps=" + std::to_string(*steps));
    all.insert(all.end(), set.begin(), set.end());
    return all;
  }
};

int exit_code(const RunResult& result) {
  switch (result.status) {
    case RunStatus::done:
      return ExitCode::ok;
    case RunStatus::unsolved:
      return ExitCode::unsolved;
    case RunStatus::interrupted:
      return result.out_of_time ? ExitCode::out_of_time : ExitCode::by_signal(result.signal);
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
    console.err << "brenier: " << result.folder.string() << ": "
                << (result.reason.empty() ? "some steps are not solved as exactly as inner.accept asks for"
                                          : result.reason)
                << "; see warnings in its summary.json" << std::endl;
  // Whoever presses Ctrl-C does not wait for figures.
  const bool first = !console.communicator || console.communicator->rank() == 0;
  const std::string what = "the run folder '" + result.folder.string() + "'";
  const auto later = [&](const char* command) {
    const std::string folder = result.folder.string();
    const char* const words[] = {"brenier", command, folder.c_str()};
    return shell_line(3, words);
  };
  int code = exit_code(result);
  if (first && arguments.plot && result.status != RunStatus::interrupted) {
    code =
        after(code, what, later("plot"), console.err, [&] { return plot({result.folder}, {}, console.out); });
  }
  // A page is for a run that ended early too, but for Ctrl-C.
  if (first && arguments.report && result.signal == 0) {
    code = after(code, what, later("report"), console.err,
                 [&] { return report({result.folder}, result.folder / "report.html", console.out); });
  }
  return code;
}

RunOptions options_of(const RunArguments& arguments, const Console& console) {
  RunOptions options;
  options.out = arguments.out;
  options.log = arguments.quiet ? nullptr : &console.out;
  options.terminal = console.terminal;
  options.communicator = console.communicator;
  options.command = console.command;
  options.max_seconds = arguments.max_seconds;
  return options;
}

/// "3h50m", "90s", "2d", a number of seconds, or "1:30:00" as batch systems write it; nothing for other texts.
std::optional<double> seconds_of(const std::string& text) {
  double total = 0;
  const char *at = text.data(), *end = at + text.size();
  if (text.find(':') != std::string::npos) {
    for (int parts = 1;; ++parts) {
      double value = 0;
      const auto read = std::from_chars(at, end, value, std::chars_format::fixed);
      if (read.ec != std::errc() || !(value >= 0) || (parts > 1 && value >= 60)) return std::nullopt;
      total = 60 * total + value;
      if (read.ptr == end) return parts == 2 || parts == 3 ? std::optional(total) : std::nullopt;
      if (*read.ptr != ':' || parts == 3) return std::nullopt;
      at = read.ptr + 1;
    }
  }
  double last = std::numeric_limits<double>::infinity();  // units grow shorter, and none comes twice
  while (at != end) {
    double value = 0;
    const auto read = std::from_chars(at, end, value);
    if (read.ec != std::errc() || !(value >= 0)) return std::nullopt;
    // 3h50 are minutes to some and seconds to others.
    if (read.ptr == end && std::isfinite(last)) return std::nullopt;
    const char name = read.ptr == end ? 's' : *read.ptr;
    const double unit = name == 'd' ? 86400 : name == 'h' ? 3600 : name == 'm' ? 60 : name == 's' ? 1 : 0;
    if (unit == 0 || unit >= last) return std::nullopt;
    last = unit;
    total += value * unit;
    at = read.ptr == end ? end : read.ptr + 1;
  }
  return total > 0 && std::isfinite(total) ? std::optional(total) : std::nullopt;
}

/// Options of both, after their own.
void add_common(CLI::App& command, RunArguments& arguments, const std::string& about_set) {
  command.add_option("--set", arguments.set, about_set)->allow_extra_args(false);
  add_device_option(command, arguments.device);
  command.add_option("--threads", arguments.threads,
                     "threads; 0: all processors. Results do not depend on it");
  command.add_option_function<std::string>(
      "--max-time",
      [&arguments](const std::string& text) {
        arguments.max_seconds = seconds_of(text);
        if (!arguments.max_seconds)
          throw CLI::ValidationError("--max-time",
                                     "'" + text +
                                         "' is no time above 0 with a unit after each number; write "
                                         "for example 3h50m, 90s or 1:30:00 (hours, minutes, seconds)");
      },
      "3h50m: ends with the whole step after that time, to be resumed; exit code 124");
  command.add_flag("-q,--quiet", arguments.quiet, "no progress");
  command.add_flag("--report", arguments.report,
                   "write report.html into the folder at the end, as `brenier report` does");
  command.add_flag("--plot", arguments.plot, "draw the figures at the end, as `brenier plot` does");
}

/// A run for each combination of values and seeds.
int sweep(const RunArguments& arguments, const std::vector<long long>& seeds, const Console& console) {
  if (console.communicator && console.communicator->size() > 1)
    throw NotAvailable("--sweep and several seeds are for one process, and " +
                       std::to_string(console.communicator->size()) + " were started");
  SweepOptions options;
  options.config = arguments.config;
  options.out = arguments.out;
  options.set = arguments.set;
  options.sweep = arguments.sweep;
  options.seeds = seeds;
  if (!arguments.device.empty()) {
    options.set.insert(options.set.begin(), "device=\"" + arguments.device + "\"");
  }
  if (arguments.max_seconds) options.arguments = {"--max-time", exact_text(*arguments.max_seconds) + "s"};
  options.jobs = arguments.jobs;
  options.threads = arguments.threads.value_or(0);
  options.resume = arguments.resume;
  options.quiet = arguments.quiet;
  options.plot = arguments.plot;
  return sweep(options, console);
}

}  // namespace

Command add_run(CLI::App& app) {
  CLI::App* command = app.add_subcommand("run", "run a flow from a TOML file");
  const auto arguments = std::make_shared<RunArguments>();
  command->add_option("CONFIG", arguments->config, "the TOML file")->required();
  command->add_option("-o,--out", arguments->out, "run folder, new or empty (runs/CONFIG-N)");
  command->add_option("--seed", arguments->seed,
                      "of all random numbers, instead of the file's; 1:5 or 1,4,9: a run for each");
  command
      ->add_option(
          "--sweep", arguments->sweep,
          "KEY=VALUE,VALUE: a run for each value, for all combinations where repeated; OUT then has a "
          "folder for each run, and summary.csv")
      ->allow_extra_args(false);
  command->add_option("--jobs", arguments->jobs, "runs at a time, where there are several (1)")
      ->check(CLI::Range(1, 4096));
  command->add_flag("--resume", arguments->resume, "continue where the run folder exists already");
  add_common(*command, *arguments, "KEY=VALUE: replace a value, for example flow.tau=1e-4; may be repeated");
  return {command, [arguments](const Console& console) {
            std::vector<long long> seeds;
            if (!arguments->seed.empty()) seeds = seeds_of(arguments->seed);
            if (!arguments->sweep.empty() || seeds.size() > 1) return sweep(*arguments, seeds, console);
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
