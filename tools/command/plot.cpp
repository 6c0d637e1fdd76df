// SPDX-License-Identifier: MIT
// `brenier plot`, `report` and `movie` hand over to scripts of their names, `brenier fit --plot` to plot_fit.py.
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <functional>
#include <memory>
#include <ostream>
#include <system_error>

#include "brenier/base/error.hpp"
#include "kernels/base/show.hpp"
#include "tools/command/command.hpp"
#include "tools/command/commands.hpp"
#include "tools/runs/manifest.hpp"
#include "tools/runs/run_folder.hpp"

namespace brenier::app {
namespace {

namespace fs = std::filesystem;

/// Runs a program and waits; 127 where it cannot be started. `silent` drops what it prints.
int call(const std::vector<std::string>& words, bool silent) {
  std::vector<char*> arguments;
  for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  const pid_t child = ::fork();
  if (child < 0) throw NotAvailable("plot: no new process: " + std::system_category().message(errno));
  if (child == 0) {
    if (silent) {
      const int null = ::open("/dev/null", O_WRONLY);
      ::dup2(null, 1);
      ::dup2(null, 2);
    }
    ::execvp(arguments[0], arguments.data());
    ::_exit(127);
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/// Beside the command, in the installed share folder, or in the source tree it was built from.
fs::path find_script(const char* name) {
  std::error_code code;
  const fs::path command = fs::read_symlink("/proc/self/exe", code).parent_path();
  const fs::path places[] = {command / name, command / ".." / "share" / "brenier" / name,
                             fs::path(BRENIER_SOURCE_DIR) / "tools" / "plot" / name};
  for (const fs::path& place : places) {
    if (fs::is_regular_file(place, code)) return place.lexically_normal();
  }
  throw NotAvailable("plot: " + std::string(name) +
                     " is neither beside the command nor in share/brenier; install brenier again");
}

std::string find_python() {
  std::vector<std::string> candidates = {"python3", "/usr/bin/python3"};
  if (const char* chosen = std::getenv("PYTHON"); chosen && *chosen)
    candidates.insert(candidates.begin(), chosen);
  for (const std::string& python : candidates) {
    if (call({python, "-c", "import numpy, matplotlib"}, true) == 0) return python;
  }
  throw NotAvailable(
      "plot: no Python with numpy and matplotlib; install them (apt-get install python3-numpy "
      "python3-matplotlib) or "
      "set PYTHON to one that has them");
}

/// The runs of folders that hold several, as those of a sweep; what else a sweep's folder has is passed over, so that
/// `sweep/*` may be given too.
std::vector<fs::path> runs_in(const std::vector<fs::path>& given) {
  std::vector<fs::path> out;
  for (const fs::path& path : given) {
    std::error_code code;
    const std::string name = path.filename().string();
    if (given.size() > 1 && (name == "summary.csv" || (name == "figures" && !RunFolder::is_run(path))))
      continue;
    std::vector<fs::path> inside;
    if (!RunFolder::is_run(path) && fs::is_directory(path, code)) {
      for (const auto& entry : fs::directory_iterator(path, code)) {
        if (RunFolder::is_run(entry.path())) inside.push_back(entry.path());
      }
    }
    std::sort(inside.begin(), inside.end());
    if (inside.empty()) inside.push_back(path);
    out.insert(out.end(), inside.begin(), inside.end());
  }
  return out;
}

/// The exit code for that of a script. A Python that cannot write its last lines ends with 120.
int ended(int code) {
  constexpr int unsaid = 120;
  if (code == unsaid) return ExitCode::not_written;
  const bool told = code == ExitCode::ok || code == ExitCode::not_written || code == ExitCode::disk_full;
  return told ? code : ExitCode::bad_input;
}

/// Checks the files that figures of the runs need, then calls a script on them; its exit code.
int call_script(const char* script, const std::string& command, const std::vector<fs::path>& runs,
                const fs::path& out, std::ostream& log, const std::vector<std::string>& more) {
  for (const fs::path& path : runs) {
    const RunFolder folder = RunFolder::open(path);
    if (!out.empty()) folder.check_output(out);
    const FileCheck check = check_files(path, false);
    log << check_text(check) << std::flush;
    for (const char* needed : {"config.toml", "history.csv", "summary.json"}) {
      const auto found = check.damaged.find(needed);
      if (found != check.damaged.end()) throw IoError(command + ": " + found->second);
    }
  }
  std::vector<std::string> words = {find_python(), find_script(script).string()};
  if (!out.empty()) words.insert(words.end(), {"--out", out.string()});
  words.insert(words.end(), more.begin(), more.end());
  words.push_back("--");
  for (const fs::path& path : runs) words.push_back(path.string());
  log.flush();
  return ended(call(words, false));
}

}  // namespace

int plot(const std::vector<fs::path>& given, const fs::path& out, std::ostream& log,
         const std::vector<std::string>& more) {
  return call_script("plot.py", "plot", runs_in(given), out, log, more);
}

int report(const std::vector<fs::path>& given, const fs::path& out, std::ostream& log) {
  return call_script("report.py", "report", runs_in(given), out, log, {});
}

int after(int code, const std::string& what, const std::string& later, std::ostream& err,
          const std::function<int()>& draw) {
  int drawn = ExitCode::bad_input;
  try {
    drawn = draw();
  } catch (const Error& error) {
    err << "brenier: " << error.what() << std::endl;
  }
  if (drawn == ExitCode::ok) return code;
  err << "brenier: WARNING: " << what << " is whole, only the figure is missing; later: " << later
      << std::endl;
  const bool disk = drawn == ExitCode::not_written || drawn == ExitCode::disk_full;
  return disk && code == ExitCode::ok ? drawn : code;
}

int plot_fit(const fs::path& summary) {
  return ended(call({find_python(), find_script("plot_fit.py").string(), "--", summary.string()}, false));
}

Command add_plot(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("plot", "draw density, objective and certificates of runs into figures/");
  struct Arguments {
    std::vector<fs::path> runs;
    fs::path out;
    std::string by, times, format = "png";
  };
  const auto arguments = std::make_shared<Arguments>();
  command
      ->add_option("RUN", arguments->runs,
                   "run folders, or a folder of runs, as of a sweep; several give means with bands")
      ->required();
  command->add_option("-o,--out", arguments->out, "folder for the figures");
  command->add_option("--by", arguments->by, "a line for each value of a key: flow.tau; of several: KEY,KEY");
  command->add_option("--times", arguments->times, "of the densities: 0,0.1,1; the nearest clouds are drawn");
  command->add_option("--format", arguments->format, "png, pdf, svg, or several: png,pdf")
      ->capture_default_str();
  return {command, [arguments](const Console& console) {
            console.out.flush();
            std::vector<std::string> more = {"--format=" + arguments->format};
            if (!arguments->by.empty()) more.push_back("--by=" + arguments->by);
            if (!arguments->times.empty()) more.push_back("--times=" + arguments->times);
            return plot(arguments->runs, arguments->out, console.out, more);
          }};
}

Command add_report(CLI::App& app) {
  CLI::App* command = app.add_subcommand("report", "a page about runs, one .html file that needs no other");
  struct Arguments {
    std::vector<fs::path> runs;
    fs::path out;
  };
  const auto arguments = std::make_shared<Arguments>();
  command->add_option("RUN", arguments->runs, "run folders, or a folder of runs")->required();
  command->add_option("-o,--out", arguments->out, "the .html file (report.html in the first folder)");
  return {command, [arguments](const Console& console) {
            fs::path out = arguments->out;
            if (out.empty()) out = arguments->runs.front() / "report.html";
            return report(arguments->runs, out, console.out);
          }};
}

Command add_movie(CLI::App& app) {
  CLI::App* command = app.add_subcommand("movie", "a film of a run: .gif, or .mp4 where there is ffmpeg");
  struct Arguments {
    fs::path run, out;
    double rate = 8;
  };
  const auto arguments = std::make_shared<Arguments>();
  command->add_option("RUN", arguments->run, "run folder")->required();
  command->add_option("-o,--out", arguments->out,
                      "the .gif or .mp4 file to write (figures/flow.gif in the folder)");
  command->add_option("--fps", arguments->rate, "frames a second")->capture_default_str();
  return {command, [arguments](const Console& console) {
            const std::vector<std::string> more = {"--fps=" + exact_text(arguments->rate)};
            const fs::path out =
                arguments->out.empty() ? arguments->run / "figures" / "flow.gif" : arguments->out;
            return call_script("movie.py", "movie", {arguments->run}, out, console.out, more);
          }};
}

}  // namespace brenier::app
