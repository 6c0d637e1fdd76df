// SPDX-License-Identifier: MIT
// What a run has left in its folder.
#pragma once

#include <doctest/doctest.h>

#include <csignal>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <vector>

#include "tests/support/temporary_folder.hpp"
#include "tools/runs/report.hpp"
#include "tools/runs/run.hpp"
#include "tools/runs/run_folder.hpp"

namespace brenier::test {

inline nlohmann::json summary_of(const std::filesystem::path& run) {
  return nlohmann::json::parse(app::read_text(run / "summary.json"));
}

inline app::RunOptions into(const std::filesystem::path& out) {
  app::RunOptions options;
  options.out = out;
  return options;
}

/// Runs the flow to its end into `whole` of a folder, which other runs are compared with: returns where it is.
inline std::filesystem::path run_whole(const TemporaryFolder& folder, const Config& config) {
  const std::filesystem::path out = folder.path / "whole";
  REQUIRE(app::run(config, into(out)).status == app::RunStatus::done);
  return out;
}

/// A run that gets a signal after one of its steps.
inline app::RunResult run_until(int last, int signal, const Config& config, app::RunOptions options) {
  options.on_step = [=](int step) {
    if (step == last) std::raise(signal);
  };
  return app::run(config, options);
}

inline std::vector<app::HistoryRow> history_of(const std::filesystem::path& run) {
  return app::parse_history(app::read_text(run / "history.csv"), "history.csv");
}

}  // namespace brenier::test
