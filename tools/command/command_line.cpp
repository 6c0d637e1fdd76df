// SPDX-License-Identifier: MIT
// Options, help and exit codes.
#include <CLI/CLI.hpp>
#include <charconv>
#include <new>
#include <ostream>

#include "brenier/base/error.hpp"
#include "brenier/version.hpp"
#include "tools/command/commands.hpp"
#include "tools/runs/run.hpp"
#include "tools/runs/run_folder.hpp"

namespace brenier::app {
namespace {

constexpr const char* kAbout =
    "Wasserstein gradient flows by the JKO scheme with input-convex neural networks.\n"
    "A flow is described by a TOML file, and every run by a folder: its settings, a row of numbers per "
    "step,\n"
    "point clouds, maps, a checkpoint and figures.";

constexpr const char* kExamples =
    "Examples:\n"
    "  brenier run bench/paper/porous_medium.toml\n"
    "      the porous medium equation from a Barenblatt profile, into runs/porous_medium-1\n"
    "  brenier run flow.toml --out runs/a --seed 3 --set flow.tau=5e-4 --set functional.0.weight=2\n"
    "      with other values than the file's; they are part of the run's config.toml\n"
    "  brenier plot runs/a runs/b\n"
    "      densities, the objective and the certificates of several runs, as mean and band\n"
    "  brenier push runs/a points.npy --log-density points-log.npy --out moved.npy\n"
    "      the maps of a run on other points\n"
    "  brenier distance runs/a/clouds/step_000020.npy exact.npy\n"
    "      energy distance, MMD and W2 between two clouds, with standard errors\n"
    "  brenier density runs/a points.npy -o log-density.npy --step 10\n"
    "      the log-density of the flow at any points, after 10 steps; `pull` says where they come from\n"
    "  brenier fit points.npy labels.npy -o net.safetensors --residual --plot\n"
    "      a convex classifier, whose logit a functional can take as learned_potential\n"
    "  brenier info flow.toml\n"
    "      checks a file and shows every key with its value; `brenier info` alone shows the build\n"
    "\n"
    "A file to start from:\n"
    "  [cloud]\n"
    "  density = \"gaussian\"       # or uniform, mixture, barenblatt, file\n"
    "  dim = 2\n"
    "  variance = 4.0             # or a list, a matrix, a .npy file\n"
    "  particles = 1024\n"
    "  sampling = \"whitened\"      # or random, stratified\n"
    "  [[functional]]             # F is the sum of such terms\n"
    "  term = \"entropy\"           # or porous_medium (m), potential, interaction, internal (expression),\n"
    "                             # learned_potential (path), sinkhorn, mmd, energy_distance (reference)\n"
    "  [[functional]]\n"
    "  term = \"potential\"\n"
    "  expression = \"0.5*sum(x^2)\"\n"
    "  [flow]\n"
    "  tau = 0.05\n"
    "  steps = 20\n"
    "  [network]\n"
    "  hidden = [16]              # a wide network fits a small cloud instead of the density\n"
    "  quadratic_rank = 2         # maps between Gaussians become exact\n"
    "\n"
    "Notes:\n"
    "  F on the held-out particles tells whether the network has fitted the sample; where it has, the end of "
    "a\n"
    "  run and `warnings` in summary.json say so.\n"
    "  An interaction costs a time quadratic in the particles of an iteration: for many particles use\n"
    "  inner.minibatch, which takes the pairs within the minibatch. W acts through its even part only.\n"
    "  inner.logdet = \"exact\", \"cg\" (noisy, cheaper from 12 dimensions on; inner.probes, cg_iterations "
    "and\n"
    "  cg_tolerance) or \"auto\" (cg from 24 dimensions on) is for functionals with an internal energy.\n"
    "  std is the root mean square deviation over the components; error.w2 in summary.json is for dim = 1 "
    "only.\n"
    "  A resumed run may change flow.steps, device, threads and [output]; after status \"failed\" also "
    "[inner]:\n"
    "  brenier resume runs/a --set inner.rate=1e-4\n"
    "\n"
    "Exit codes: 0 done, 1 the flow diverged (its folder has the steps so far), 2 wrong options, "
    "configuration or\n"
    "files, 130 interrupted (Ctrl-C ends after the current iteration and leaves a run that can be resumed;\n"
    "twice kills).";

constexpr const char* kWhere = "Examples, a file to start from, and exit codes: brenier --help";

/// A seed is a whole number of TOML, which has 64 bits with a sign.
std::string check_seed(std::string& text) {
  long long value = 0;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
  if (result.ec == std::errc() && result.ptr == text.data() + text.size() && value >= 0) return "";
  return "'" + text + "' is no seed; it must be a whole number, at least 0 and at most 9223372036854775807";
}

/// Options of `run` and `resume`.
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
    case RunStatus::interrupted:
      return ExitCode::interrupted;
    case RunStatus::failed:
      break;
  }
  return ExitCode::failed;
}

/// Draws the figures of a run that has completed steps, where that was asked for.
int finish(const RunArguments& arguments, const RunResult& result, std::ostream& out) {
  out.flush();
  // Whoever presses Ctrl-C does not wait for figures.
  const bool draw = arguments.plot && result.status != RunStatus::interrupted;
  if (draw && plot({result.folder}, {}) != 0 && result.status == RunStatus::done) return ExitCode::failed;
  return exit_code(result.status);
}

int run_command(const RunArguments& arguments, std::ostream& out, bool terminal) {
  const Config config = load_config(arguments.config, arguments.overrides());
  RunOptions options;
  options.out = arguments.out;
  options.name = arguments.config.stem().string();
  options.log = arguments.quiet ? nullptr : &out;
  options.terminal = terminal;
  const bool go_on = arguments.resume && RunFolder::is_run(options.out);
  return finish(arguments, go_on ? resume(config, options) : run(config, options), out);
}

int resume_command(const RunArguments& arguments, std::ostream& out, bool terminal) {
  RunOptions options;
  options.out = arguments.out;
  options.log = arguments.quiet ? nullptr : &out;
  options.terminal = terminal;
  const RunFolder folder = RunFolder::open(options.out);
  const Config config = load_config(folder.config(), arguments.overrides());
  return finish(arguments, resume(config, options), out);
}

void add_run_options(CLI::App& command, RunArguments& arguments) {
  command.add_option("--device", arguments.device, "auto, cpu, cpu:VARIANT, ref, cuda or cuda:K");
  command.add_option("--threads", arguments.threads,
                     "threads; 0: all processors. Results do not depend on it");
  command.add_flag("-q,--quiet", arguments.quiet, "no progress");
  command.add_flag("--plot", arguments.plot, "draw the figures at the end, as `brenier plot` does");
}

/// The command line as it is built up; parse() may throw CLI::ParseError.
class CommandLine {
 public:
  CommandLine() : app_(kAbout, "brenier") {
    app_.footer(kExamples);
    app_.set_version_flag("--version", BRENIER_VERSION);
    app_.require_subcommand(1);

    run_ = app_.add_subcommand("run", "run a flow from a TOML file");
    run_->add_option("CONFIG", arguments_.config, "the TOML file")->required();
    run_->add_option("-o,--out", arguments_.out, "run folder, new or empty (runs/CONFIG-N)");
    run_->add_option("--seed", arguments_.seed, "of all random numbers, instead of the file's")
        ->check(CLI::Validator(check_seed, "0..9223372036854775807"));
    add_set(*run_, "KEY=VALUE: replace a value, for example flow.tau=1e-4; may be repeated");
    run_->add_flag("--resume", arguments_.resume, "continue where the run folder exists already");
    add_run_options(*run_, arguments_);

    resume_ = app_.add_subcommand("resume", "continue an interrupted run, bit for bit, or make it longer");
    resume_->add_option("RUN", arguments_.out, "run folder")->required();
    resume_->add_option("--steps", arguments_.steps, "new number of steps in all");
    add_set(*resume_, "KEY=VALUE: other values in [output], and in [inner] where the run has failed");
    add_run_options(*resume_, arguments_);

    push_ = app_.add_subcommand("push", "carry other points through the maps of a run");
    push_->add_option("RUN", push_options_.maps, "run folder, folder of maps, or one map")->required();
    push_->add_option("POINTS", push_options_.cloud, ".npy file of the points, (N, d)")->required();
    push_->add_option("--log-density", push_options_.log_density, ".npy file of their log-densities, (N)");
    push_->add_option("-o,--out", push_options_.out, ".npy file to write (POINTS-pushed.npy)");
    push_->add_option("--step,--steps", push_options_.steps, "up to step K (the last one)")
        ->check(CLI::PositiveNumber);
    push_->add_option("--threads", push_options_.threads, "threads; 0: all processors")
        ->check(CLI::NonNegativeNumber);

    distance_ = app_.add_subcommand("distance", "how far two clouds are from each other");
    distance_->add_option("A", distance_options_.a, ".npy file of points, (N, d)")->required();
    distance_->add_option("B", distance_options_.b, ".npy file of points, (M, d)")->required();
    distance_
        ->add_option("--metric", distance_options_.metrics,
                     "w2, energy, mmd, gaussian, sinkhorn (all); may be repeated")
        ->check(CLI::IsMember({"w2", "energy", "mmd", "gaussian", "sinkhorn"}))
        ->allow_extra_args(false);
    distance_->add_option("--bandwidth", distance_options_.bandwidth, "of mmd (the median distance)")
        ->check(CLI::PositiveNumber);
    distance_
        ->add_option(
            "--epsilon", distance_options_.epsilon,
            "of sinkhorn, in the unit of the cost |x - y|^2 / 2 (the square of a twentieth of the median "
            "distance)")
        ->check(CLI::PositiveNumber);
    distance_->add_flag("--json", distance_options_.json, "one JSON object");
    distance_->add_option("--threads", distance_options_.threads, "threads; 0: all processors")
        ->check(CLI::NonNegativeNumber);

    add_fit();
    pull_ = app_.add_subcommand("pull", "where the flow of a run carries points from");
    add_point_options(*pull_, "OUT (N, d), rows of NaN where there is no such point (POINTS-pulled.npy)");
    density_ = app_.add_subcommand("density", "log-density of a run's flow at any points");
    add_point_options(*density_, "OUT (N), float64, natural logarithms (POINTS-density.npy)");
    density_->add_flag("--linear", point_options_.linear, "densities instead of their logarithms");

    info_ =
        app_.add_subcommand("info", "about the build, a run, a configuration, a .npy or .safetensors file");
    info_->add_option("PATH", info_path_, "nothing: the build and this machine");
    info_->add_flag("--keys", info_keys_, "every key of a configuration, in Markdown");

    plot_ = app_.add_subcommand("plot", "draw density, objective and certificates of runs into figures/");
    plot_->add_option("RUN", plot_runs_, "run folders; several give means with bands")->required();
    plot_->add_option("-o,--out", plot_out_, "folder for the figures");
    for (CLI::App* command : app_.get_subcommands({})) command->footer(kWhere);
  }

  CLI::App& app() { return app_; }

  int execute(std::ostream& out, bool terminal) {
    if (run_->parsed()) return run_command(arguments_, out, terminal);
    if (resume_->parsed()) return resume_command(arguments_, out, terminal);
    if (push_->parsed()) {
      push(push_options_, out);
    } else if (distance_->parsed()) {
      distance(distance_options_, out);
    } else if (fit_->parsed()) {
      return fit_command(out);
    } else if (pull_->parsed()) {
      pull(point_options_, out);
    } else if (density_->parsed()) {
      density(point_options_, out);
    } else if (info_->parsed() && info_keys_) {
      show_keys(out);
    } else if (info_->parsed()) {
      info(info_path_.empty() ? std::nullopt : std::optional<std::filesystem::path>(info_path_), out);
    } else if (plot_->parsed()) {
      out.flush();
      return plot(plot_runs_, plot_out_) == 0 ? ExitCode::ok : ExitCode::bad_input;
    }
    return ExitCode::ok;
  }

 private:
  void add_set(CLI::App& command, const std::string& about) {
    command.add_option("--set", arguments_.set, about)->allow_extra_args(false);
  }

  void add_point_options(CLI::App& command, const std::string& out) {
    command.add_option("RUN", point_options_.run, "run folder")->required();
    command.add_option("POINTS", point_options_.points, ".npy file of the points, (N, d)")->required();
    command.add_option("-o,--out", point_options_.out, out);
    command.add_option("--step", point_options_.step, "after step K; 0: the start (the last step)")
        ->check(CLI::NonNegativeNumber);
    command.add_option("--threads", point_options_.threads, "threads; 0: all processors")
        ->check(CLI::NonNegativeNumber);
  }

  void add_fit() {
    FitOptions& options = fit_options_.options;
    fit_ = app_.add_subcommand("fit", "train a convex potential on labelled points");
    fit_->add_option("DATA", fit_options_.data, ".npy file of the points, (N, d)")->required();
    fit_->add_option("LABELS", fit_options_.labels, ".npy file of their labels, (N): 0 and 1, or numbers")
        ->required();
    fit_->add_option("-o,--out", fit_options_.out,
                     ".safetensors file to write; a summary beside it, with .json")
        ->required();
    fit_->add_flag("--regression", regression_,
                   "mean squared error; otherwise a classifier, the potential is the logit of label 1");
    fit_->add_option("--hidden", options.hidden, "widths of the layers")
        ->delimiter(',')
        ->capture_default_str();
    fit_->add_flag("--residual", options.residual, "blocks of two layers with skips; all widths equal");
    fit_->add_option("--quadratic-rank", options.quadratic_rank, "rank of a learned quadratic term")
        ->capture_default_str();
    fit_->add_option("--epochs", options.epochs, "most passes over the points")->capture_default_str();
    fit_->add_option("--batch", options.batch, "points of a minibatch")->capture_default_str();
    fit_->add_option("--rate", options.rate, "of Adam")->capture_default_str();
    fit_->add_option("--patience", options.patience,
                     "epochs without a lower validation loss until the rate falls to a tenth")
        ->capture_default_str();
    fit_->add_option("--stop", options.stop, "such epochs until the end; 0: never")->capture_default_str();
    fit_->add_flag("--last", last_epoch_, "keep the last epoch's parameters, not those of the best one");
    fit_->add_option("--validation", options.validation, "share of the points")->capture_default_str();
    fit_->add_option("--test", options.test, "share of the points, only looked at in the end")
        ->capture_default_str();
    fit_->add_flag("--one-scale", one_scale_, "normalise all coordinates alike: quiet ones stay quiet");
    fit_->add_option("--seed", options.seed, "of all random numbers")
        ->check(CLI::Validator(check_seed, "0..9223372036854775807"));
    fit_->add_flag("--double", fit_options_.double_precision, "train in double precision");
    fit_->add_option("--device", options.device, "auto, cpu, cpu:VARIANT, ref, cuda or cuda:K");
    fit_->add_option("--threads", options.threads, "threads; 0: all processors. Results do not depend on it");
    fit_->add_flag("-q,--quiet", fit_options_.quiet, "no progress");
    fit_->add_flag("--plot", fit_plot_, "draw confusion matrix and losses beside the network, as .png");
  }

  int fit_command(std::ostream& out) {
    FitOptions& options = fit_options_.options;
    if (regression_) options.loss = FitOptions::Loss::squared;
    if (one_scale_) options.scaling = FitOptions::Scaling::common;
    options.keep_best = !last_epoch_;
    if (!fit(fit_options_, out)) return ExitCode::interrupted;
    out.flush();
    std::filesystem::path summary = fit_options_.out;
    summary.replace_extension(".json");
    return fit_plot_ && plot_fit(summary) != 0 ? ExitCode::failed : ExitCode::ok;
  }

  CLI::App app_;
  CLI::App* fit_ = nullptr;
  CLI::App *run_ = nullptr, *resume_ = nullptr, *push_ = nullptr, *pull_ = nullptr, *density_ = nullptr,
           *distance_ = nullptr, *info_ = nullptr, *plot_ = nullptr;
  RunArguments arguments_;
  PushOptions push_options_;
  PointOptions point_options_;
  DistanceOptions distance_options_;
  FitCommand fit_options_;
  bool regression_ = false, last_epoch_ = false, one_scale_ = false, fit_plot_ = false, info_keys_ = false;
  std::filesystem::path info_path_, plot_out_;
  std::vector<std::filesystem::path> plot_runs_;
};

}  // namespace

int run_command_line(int argc, const char* const* argv, std::ostream& out, std::ostream& err,
                     bool out_is_terminal) {
  try {
    CommandLine line;
    if (argc < 2) {
      out << line.app().help();
      return ExitCode::bad_input;
    }
    try {
      line.app().parse(argc, argv);
    } catch (const CLI::ParseError& error) {
      const int code = line.app().exit(error, out, err);
      return code == 0 ? ExitCode::ok : ExitCode::bad_input;
    }
    const int code = line.execute(out, out_is_terminal);
    out.flush();
    if (!out && code == ExitCode::ok)
      throw IoError("the output cannot be written: the disk or the device is full");
    return code;
  } catch (const NumericalError& error) {
    err << "brenier: " << error.what() << std::endl;
    return ExitCode::failed;
  } catch (const Error& error) {
    err << "brenier: " << error.what() << std::endl;
  } catch (const std::bad_alloc&) {
    err << "brenier: out of memory; use fewer particles (cloud.particles, held_out.particles)" << std::endl;
  } catch (const std::exception& error) {
    err << "brenier: " << error.what() << std::endl;
  }
  return ExitCode::bad_input;
}

}  // namespace brenier::app
