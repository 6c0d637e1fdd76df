// SPDX-License-Identifier: MIT
// Subcommands as the command line knows them. A new one is a file here that defines add_NAME(), and its row in the list
// of command_line.cpp.
#pragma once

#include <functional>
#include <iosfwd>
#include <memory>
#include <string>

#include "brenier/communicator.hpp"

namespace CLI {
class App;
}

namespace brenier::app {

/// Where a command writes.
struct Console {
  std::ostream& out;
  std::ostream& err;
  bool terminal = false;                         // progress may be redrawn
  std::shared_ptr<Communicator> communicator{};  // of processes that were started together, or null
  std::string command{};                         // the whole command line, for a shell
};

/// A subcommand: its options, which CLI11 fills, and what it does with them; returns the exit code.
struct Command {
  CLI::App* app;
  std::function<int(const Console&)> execute;
};

Command add_completion(CLI::App& app);
Command add_density(CLI::App& app);
Command add_descend(CLI::App& app);
Command add_distance(CLI::App& app);
Command add_export(CLI::App& app);
Command add_fit(CLI::App& app);
Command add_info(CLI::App& app);
Command add_langevin(CLI::App& app);
Command add_movie(CLI::App& app);
Command add_plot(CLI::App& app);
Command add_pull(CLI::App& app);
Command add_push(CLI::App& app);
Command add_report(CLI::App& app);
Command add_resume(CLI::App& app);
Command add_run(CLI::App& app);
Command add_sample(CLI::App& app);

// Options that several have.
void add_device_option(CLI::App& command, std::string& device);
void add_threads_option(CLI::App& command, int& threads);
/// Checks of options: what is wrong with a text that must be a number above 0, or at least 0; empty where nothing is.
std::string check_positive(const std::string& text);
std::string check_not_negative(const std::string& text);
/// What is wrong with the text of a seed; empty where nothing is. A seed is a whole number of TOML, which has 64 bits
/// with a sign.
std::string check_seed(std::string& text);

}  // namespace brenier::app
