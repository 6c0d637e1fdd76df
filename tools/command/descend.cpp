// SPDX-License-Identifier: MIT
// `brenier descend` and `brenier langevin`: the particles of a configuration moved by themselves, to stand beside its flow.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <ostream>
#include <span>
#include <sstream>

#include "brenier/atomic_file.hpp"
#include "brenier/base/error.hpp"
#include "brenier/descent.hpp"
#include "brenier/npy.hpp"
#include "engine/src/config/config.hpp"
#include "kernels/base/show.hpp"
#include "tools/command/command.hpp"
#include "tools/command/commands.hpp"

namespace brenier::app {
namespace {

namespace fs = std::filesystem;

struct DescendArguments {
  fs::path config, out;
  std::string device;
  std::vector<std::string> set;
  std::optional<std::string> seed;
  std::optional<int> threads, steps;
  std::string method = "adam";  // of descend
  double rate = 0.1;            // of descend
  int substeps = 100;           // of langevin, for each step of the flow
  int every = 1;

  Config load() const {
    std::vector<std::string> all;
    if (seed) all.push_back("seed=" + *seed);
    if (!device.empty()) all.push_back("device=\"" + device + "\"");
    if (threads) all.push_back("threads=" + std::to_string(*threads));
    if (steps) all.push_back("flow.steps=" + std::to_string(*steps));
    all.insert(all.end(), set.begin(), set.end());
    return load_config(config, all);
  }
};

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

std::string three_digits(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3g", value);
  return text;
}

/// Of Langevin dynamics whose updates, `rate` long, are too long for the curvature that the particles meet: what comes of it,
/// and the substeps of a step `tau` that leave a bias of 5 %. Empty where they are short enough.
std::string trouble_of_updates(double rate, double curvature, double tau) {
  const double length = rate * curvature;
  if (!(length > 0.5)) return "";
  // Rounded up to three digits, but for what the differences of gradients miss.
  const double least = tau * curvature / 0.1 * (1 - 1e-6);
  const double unit = std::pow(10.0, std::max(0.0, std::floor(std::log10(least)) - 2));
  const double substeps = std::ceil(least / unit) * unit;
  return "updates of " + three_digits(rate) + " are long for the curvature of V at the particles, " +
         three_digits(curvature) + ": " +
         (length < 2 ? "their variance comes out " + three_digits(100 * (1 / (1 - length / 2) - 1)) +
                           " % too large in such a V"
                     : "they are unstable from 2/" + three_digits(curvature) + " on") +
         "; --substeps " +
         (substeps < 2e9 ? std::to_string(static_cast<int>(substeps)) : three_digits(substeps)) +
         " makes that 5 %";
}

/// Moves the particles and writes OUT/clouds/step_000010.npy, OUT/history.csv and OUT/summary.json; `each` updates are one
/// step. Times are those of the flow where `tau` is its step, and 0 where there are none. Returns the exit code.
int move(const DescendArguments& arguments, const Config& config, DescentOptions options, int each,
         double tau, std::ostream& log) {
  options.device = config.flow.device;
  options.threads = config.flow.threads;
  options.seed = config.flow.seed;
  const bool langevin = options.method == DescentOptions::Method::langevin;
  if (config.functional.depends_on_time()) {
    throw ValueError(config.name + ": V depends on `time`, which " + (langevin ? "langevin" : "descend") +
                     " does not follow; write one without, or use `brenier run`");
  }
  Cloud cloud = config.initial_cloud();
  Descent descent(config.functional, std::move(cloud.x), options);
  if (fs::exists(arguments.out) && !fs::is_empty(arguments.out))
    throw ValueError("'" + arguments.out.string() +
                     "' exists and is not empty; choose another folder with --out");
  fs::create_directories(arguments.out / "clouds");
  std::ostringstream history;
  history.exceptions(std::ios::badbit);
  history << "step,time,total,potential,interaction,divergence\n";
  const double start = tau > 0 ? config.flow.start_time : 0;
  ObjectiveValue value;
  const auto record = [&](int step) {
    char name[32];
    std::snprintf(name, sizeof name, "step_%06d.npy", step);
    write_npy(arguments.out / "clouds" / name, descent.x());
    value = descent.functional();
    history << step << "," << exact_text(start + step * tau) << "," << exact_text(value.total()) << ","
            << exact_text(value.potential) << "," << exact_text(value.interaction) << ","
            << exact_text(value.divergence) << "\n";
  };
  record(0);
  const double before = value.total();
  // Where V is steepest is where the particles come from, or where they go.
  double curvature = langevin ? descent.curvature() : 0;
  for (int step = 1; step <= config.steps; ++step) {
    try {
      for (int k = 0; k < each; ++k) descent.step();
    } catch (const NumericalError&) {
      if (!langevin) throw;
      throw NumericalError(
          config.name + ": the gradient is not finite after " + std::to_string(descent.steps()) +
          " updates: " +
          (options.rate * curvature >= 2
               ? trouble_of_updates(options.rate, curvature, tau)
               : "use more than --substeps " + std::to_string(each) + ", or a V that is finite there"));
    }
    if (step % arguments.every == 0 || step == config.steps) record(step);
  }
  write_file_atomically(arguments.out / "history.csv", bytes_of(history.str()));
  std::vector<std::string> warnings;
  if (langevin) {
    curvature = std::fmax(curvature, descent.curvature());
    if (std::string one = trouble_of_updates(options.rate, curvature, tau); !one.empty())
      warnings.push_back(std::move(one));
  }
  // Gradients of transport are as exact as its plans.
  const double rounding = 1e-9 * (std::abs(before) + std::abs(value.total()));
  const bool rose = !langevin && !(value.total() <= before + rounding);
  if (rose) {
    warnings.push_back("F rose from " + three_digits(before) + " to " + three_digits(value.total()) +
                       ": the updates are too long; use a rate below " + exact_text(options.rate));
  }
  nlohmann::ordered_json summary = {
      {"status", rose ? "unsolved" : "done"},
      {"warnings", warnings},
      {"steps", config.steps},
      {"time", start + config.steps * tau},
      {"particles", descent.x().rows()},
      {"dim", descent.x().cols()},
      {"seed", config.flow.seed},
      {"rate", options.rate},
      {"updates", descent.steps()},
      {"functional", {{"total", value.total()}, {"text", config.functional.describe()}}}};
  write_file_atomically(arguments.out / "summary.json", bytes_of(summary.dump(2) + "\n"));
  log << descent.x().rows() << " particles, " << config.steps << " steps: " << arguments.out.string()
      << (config.functional.needs_density() ? ", F without its entropy " : ", F ") << value.total() << "\n";
  for (const std::string& warning : warnings) log << "WARNING: " << warning << "\n";
  return rose ? ExitCode::unsolved : ExitCode::ok;
}

void add_common(CLI::App& command, DescendArguments& arguments) {
  command.add_option("CONFIG", arguments.config, "the TOML file of a flow")->required();
  command.add_option("-o,--out", arguments.out, "folder to write, new or empty")->required();
  command.add_option("--steps", arguments.steps, "instead of flow.steps")->check(check_positive);
  command.add_option("--every", arguments.every, "steps between clouds that are written (1)")
      ->check(check_positive);
  command.add_option("--seed", arguments.seed, "of all random numbers, instead of the file's")
      ->check(CLI::Validator(check_seed, "0..9223372036854775807"));
  command.add_option("--set", arguments.set, "KEY=VALUE: replace a value; may be repeated")
      ->allow_extra_args(false);
  add_device_option(command, arguments.device);
  command.add_option("--threads", arguments.threads, "threads; 0: all processors");
}

}  // namespace

Command add_descend(CLI::App& app) {
  CLI::App* command = app.add_subcommand("descend", "direct optimisation of a configuration's particles");
  const auto arguments = std::make_shared<DescendArguments>();
  add_common(*command, *arguments);
  command->add_option("--method", arguments->method, "sgd or adam (adam)")
      ->check(CLI::IsMember({"sgd", "adam"}));
  command
      ->add_option("--rate", arguments->rate,
                   "of the gradient of F in a particle, which is 1/N of that of V (0.1)")
      ->check(check_positive);
  return {command, [arguments](const Console& console) {
            using Method = DescentOptions::Method;
            const DescentOptions options{.method = arguments->method == "sgd" ? Method::sgd : Method::adam,
                                         .rate = arguments->rate};
            return move(*arguments, arguments->load(), options, 1, 0, console.out);
          }};
}

Command add_langevin(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "langevin", "Langevin dynamics (ULA) of a configuration's particles, at the times of its steps");
  const auto arguments = std::make_shared<DescendArguments>();
  add_common(*command, *arguments);
  command->add_option("--substeps", arguments->substeps, "updates in each step of the flow (100)")
      ->check(check_positive);
  return {command, [arguments](const Console& console) {
            const Config config = arguments->load();
            if (config.adaptive()) {
              throw ValueError(config.name +
                               ": flow.tau = \"auto\"; langevin needs steps of one length, "
                               "--set flow.tau=0.01");
            }
            return move(
                *arguments, config,
                {.method = DescentOptions::Method::langevin, .rate = config.flow.tau / arguments->substeps},
                arguments->substeps, config.flow.tau, console.out);
          }};
}

}  // namespace brenier::app
