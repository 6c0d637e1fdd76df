// SPDX-License-Identifier: MIT
// `brenier descend` and `brenier langevin`: the particles of a configuration moved by themselves, to stand beside its flow.
#include <CLI/CLI.hpp>
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

/// Moves the particles and writes OUT/clouds/step_000010.npy, OUT/history.csv and OUT/summary.json; `each` updates are one
/// step. Times are those of the flow where `tau` is its step, and 0 where there are none.
void move(const DescendArguments& arguments, const Config& config, DescentOptions options, int each,
          double tau, std::ostream& log) {
  options.device = config.flow.device;
  options.threads = config.flow.threads;
  options.seed = config.flow.seed;
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
  for (int step = 1; step <= config.steps; ++step) {
    for (int k = 0; k < each; ++k) descent.step();
    if (step % arguments.every == 0 || step == config.steps) record(step);
  }
  write_file_atomically(arguments.out / "history.csv", bytes_of(history.str()));
  nlohmann::ordered_json summary = {
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
}

void add_common(CLI::App& command, DescendArguments& arguments) {
  command.add_option("CONFIG", arguments.config, "the TOML file of a flow")->required();
  command.add_option("-o,--out", arguments.out, "folder to write, new or empty")->required();
  command.add_option("--steps", arguments.steps, "instead of flow.steps")->check(CLI::PositiveNumber);
  command.add_option("--every", arguments.every, "steps between clouds that are written (1)")
      ->check(CLI::PositiveNumber);
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
      ->check(CLI::PositiveNumber);
  return {command, [arguments](const Console& console) {
            using Method = DescentOptions::Method;
            const DescentOptions options{.method = arguments->method == "sgd" ? Method::sgd : Method::adam,
                                         .rate = arguments->rate};
            move(*arguments, arguments->load(), options, 1, 0, console.out);
            return ExitCode::ok;
          }};
}

Command add_langevin(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "langevin", "Langevin dynamics (ULA) of a configuration's particles, at the times of its steps");
  const auto arguments = std::make_shared<DescendArguments>();
  add_common(*command, *arguments);
  command->add_option("--substeps", arguments->substeps, "updates in each step of the flow (100)")
      ->check(CLI::PositiveNumber);
  return {command, [arguments](const Console& console) {
            const Config config = arguments->load();
            if (config.adaptive()) {
              throw ValueError(config.name +
                               ": flow.tau = \"auto\"; langevin needs steps of one length, "
                               "--set flow.tau=0.01");
            }
            move(*arguments, config,
                 {.method = DescentOptions::Method::langevin, .rate = config.flow.tau / arguments->substeps},
                 arguments->substeps, config.flow.tau, console.out);
            return ExitCode::ok;
          }};
}

}  // namespace brenier::app
