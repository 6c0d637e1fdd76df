// SPDX-License-Identifier: MIT
// The list of subcommands, help and exit codes.
#include <CLI/CLI.hpp>
#include <cerrno>
#include <charconv>
#include <new>
#include <ostream>

#include "brenier/atomic_file.hpp"
#include "brenier/base/error.hpp"
#include "brenier/base/out_of_memory.hpp"
#include "brenier/version.hpp"
#include "kernels/base/nearest_name.hpp"
#include "tools/command/command.hpp"
#include "tools/command/commands.hpp"
#include "tools/runs/provenance.hpp"

namespace brenier::app {
namespace {

/// In the order of the help.
constexpr Command (*kCommands[])(CLI::App&) = {
    add_run,     add_resume,   add_push, add_distance, add_fit,    add_sample, add_pull,   add_density,
    add_descend, add_langevin, add_info, add_plot,     add_report, add_movie,  add_export, add_completion};

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
    "  brenier run flow.toml --sweep flow.tau=0.2,0.05 --seed 1:5 --jobs 2 --out sweep --plot\n"
    "      ten runs, a folder each, sweep/summary.csv, and figures with a line and its band for each tau\n"
    "  brenier report runs/a\n"
    "      a page: what is wrong, the particles over time, F, where it came from; `movie`: a film\n"
    "  brenier plot runs/a runs/b\n"
    "      densities, the objective and the certificates of several runs, as mean and band\n"
    "  brenier push runs/a points.npy --log-density points-log.npy --out moved.npy\n"
    "      the maps of a run on other points\n"
    "  brenier distance runs/a exact.npy\n"
    "      energy distance, MMD and W2 between two clouds, with standard errors\n"
    "  brenier density runs/a points.npy -o log-density.npy --step 10\n"
    "      the log-density of the flow at any points, after 10 steps; `pull` says where they come from\n"
    "  brenier langevin flow.toml -o runs/langevin --every 10\n"
    "      the same particles by Langevin dynamics, at the times of the flow's steps; `descend` optimises "
    "them\n"
    "  brenier fit points.npy labels.npy -o net.safetensors --residual --plot\n"
    "      a convex classifier, whose logit a functional can take as learned_potential\n"
    "  brenier info flow.toml\n"
    "      checks a file and shows every key with its value; `brenier info` alone shows the build\n"
    "\n"
    "A file to start from:\n"
    "  [cloud]\n"
    "  density = \"gaussian\"       # or uniform, mixture, barenblatt; of own points, with\n"
    "                             # path: kde, gaussian_mixture (estimate their density), file\n"
    "  dim = 2\n"
    "  variance = 4.0             # or a list, a matrix, a .npy file\n"
    "  particles = 1024\n"
    "  sampling = \"whitened\"      # or random, stratified\n"
    "  [[functional]]             # F is the sum of such terms\n"
    "  term = \"entropy\"           # or porous_medium (m), potential, interaction, internal (expression),\n"
    "                             # gaussian_mixture (means), learned_potential (path), sinkhorn, mmd,\n"
    "                             # energy_distance (reference)\n"
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
    "  inner.logdet = \"exact\", \"cg\" (noisy, cheaper an iteration; inner.probes, cg_iterations and "
    "cg_tolerance)\n"
    "  or \"auto\" (exact up to 128 dimensions with lbfgs, and below 24 with adam) is for functionals with "
    "an\n"
    "  internal energy.\n"
    "  std is the root mean square deviation over the components; error.w2 in summary.json is for dim = 1 "
    "only.\n"
    "  A resumed run may change flow.steps, device, threads and [output]; after status \"failed\" also "
    "[inner]:\n"
    "  brenier resume runs/a --set inner.rate=1e-4\n"
    "\n"
    "Exit codes: 0 done, 1 the flow diverged (its folder has the steps so far), 2 wrong options, "
    "configuration or\n"
    "files, 3 all steps taken and some not solved as exactly as inner.accept asks for, or too few of them "
    "for\n"
    "flow.end_time (see warnings), or F rose in `descend`, 74 a file could not be read or written on the "
    "way, "
    "75 the\n"
    "disk is full, 124 the time limit is over, 128 + N interrupted by the signal N: 130 Ctrl-C, 143 SIGTERM, "
    "129\n"
    "SIGHUP, 138 SIGUSR1, 140 SIGUSR2, 152 SIGXCPU. A run that any of these has ended after the current "
    "iteration,\n"
    "or a full disk, goes on with `brenier resume`; a second Ctrl-C kills.";

constexpr const char* kWhere = "Examples, a file to start from, and exit codes: brenier --help";

/// Of a file that could not be written: a path that the user gave and that cannot be, or a failure on the way.
int exit_code(const WriteError& error) {
  switch (error.code) {
    case ENOSPC:
    case EDQUOT:
      return ExitCode::disk_full;
    case ENOENT:
    case ENOTDIR:
    case EACCES:
    case EPERM:
    case EROFS:
    case EEXIST:
    case ELOOP:
    case ENAMETOOLONG:
      return ExitCode::bad_input;
    default:
      return ExitCode::not_written;
  }
}

/// The command line as it is built up; parse() may throw CLI::ParseError.
class CommandLine {
 public:
  CommandLine() : app_(kAbout, "brenier") {
    app_.footer(kExamples);
    app_.set_version_flag("--version", BRENIER_VERSION);
    app_.require_subcommand(1);
    for (const auto add : kCommands) commands_.push_back(add(app_));
    for (const Command& command : commands_) command.app->footer(kWhere);
  }

  CLI::App& app() { return app_; }

  /// ValueError where a first word without a dash is no subcommand.
  void check_name(const std::string& word) const {
    if (word.starts_with("-")) return;
    std::vector<std::string> names;
    for (const Command& command : commands_) names.push_back(command.app->get_name());
    if (std::find(names.begin(), names.end(), word) != names.end()) return;
    std::string all;
    for (const std::string& name : names) all += (all.empty() ? "" : ", ") + name;
    throw ValueError("'" + word + "' is no subcommand; did you mean '" + nearest_name(word, names) +
                     "'? There are: " + all);
  }

  /// ValueError where an option has an empty value, as of a variable that is not set: no default stands for it; and where
  /// what is to be written has the name of an option.
  void check_values() const {
    for (const Command& command : commands_) {
      for (const CLI::Option* option : command.app->get_options()) {
        for (const std::string& value : option->results()) {
          if (value.empty())
            throw ValueError(option->get_name() +
                             " is given an empty text; it needs a value, or leave it out");
          if (option->check_lname("out") && value.starts_with("-"))
            throw ValueError("--out " + value +
                             ": no other command could name that, as options begin with a dash; "
                             "write ./" +
                             value);
        }
      }
    }
  }

  int execute(const Console& console) const {
    for (const Command& command : commands_) {
      if (!command.app->parsed()) continue;
      const std::string name = command.app->get_name();
      if (console.communicator && console.communicator->size() > 1 && name != "run" && name != "resume")
        throw NotAvailable("'" + name + "' is for one process, and " +
                           std::to_string(console.communicator->size()) +
                           " were started; `run` and `resume` are for several");
      return command.execute(console);
    }
    throw Error("no subcommand was parsed");
  }

 private:
  CLI::App app_;
  std::vector<Command> commands_;
};

}  // namespace

void add_device_option(CLI::App& command, std::string& device) {
  command.add_option("--device", device, "auto, cpu, cpu:VARIANT, ref, cuda or cuda:K");
}

void add_threads_option(CLI::App& command, int& threads) {
  command.add_option("--threads", threads, "threads; 0: all processors")->check(check_not_negative);
}

namespace {

/// Texts that are no number at all are left to the option, which says of which kind it must be.
std::string check_above(const std::string& text, bool zero) {
  double value = 0;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
  if (result.ptr != text.data() + text.size() || result.ec == std::errc::invalid_argument) return "";
  if (result.ec == std::errc() && (value > 0 || (zero && value == 0))) return "";
  if (result.ec != std::errc()) return "'" + text + "' is beyond the range of numbers";
  return text + "; it must be " + (zero ? "at least 0" : "above 0");
}

}  // namespace

std::string check_positive(const std::string& text) {
  return check_above(text, false);
}

std::string check_not_negative(const std::string& text) {
  return check_above(text, true);
}

std::string check_seed(std::string& text) {
  long long value = 0;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
  if (result.ec == std::errc() && result.ptr == text.data() + text.size() && value >= 0) return "";
  return "'" + text + "' is no seed; it must be a whole number, at least 0 and at most 9223372036854775807";
}

int run_command_line(int argc, const char* const* argv, std::ostream& out, std::ostream& err,
                     bool out_is_terminal, const std::shared_ptr<Communicator>& communicator) {
  const auto check_told = [&] {
    out.flush();
    if (!out)
      throw WriteError("the output cannot be written: the disk or the device is full, or nobody reads it",
                       EIO);
  };
  try {
    CommandLine line;
    if (argc < 2) {
      out << line.app().help();
      return ExitCode::bad_input;
    }
    line.check_name(argv[1]);
    try {
      line.app().parse(argc, argv);
    } catch (const CLI::ParseError& error) {
      const int code = line.app().exit(error, out, err);
      if (code == 0) check_told();
      return code == 0 ? ExitCode::ok : ExitCode::bad_input;
    }
    line.check_values();
    const int code = line.execute({out, err, out_is_terminal, communicator, shell_line(argc, argv)});
    if (code == ExitCode::ok) check_told();
    return code;
  } catch (const NumericalError& error) {
    err << "brenier: " << error.what() << std::endl;
    return ExitCode::failed;
  } catch (const WriteError& error) {
    err << "brenier: " << error.what() << std::endl;
    return exit_code(error);
  } catch (const Error& error) {
    err << "brenier: " << error.what() << std::endl;
  } catch (const std::bad_alloc& error) {
    const auto* sized = dynamic_cast<const OutOfMemory*>(&error);
    err << "brenier: " << (sized ? sized->what() : "out of memory")
        << "; use fewer particles (cloud.particles, held_out.particles)" << std::endl;
  } catch (const std::exception& error) {
    err << "brenier: " << error.what() << std::endl;
  }
  return ExitCode::bad_input;
}

}  // namespace brenier::app
