// SPDX-License-Identifier: MIT
// What a run has left in its folder.
#pragma once

#include <csignal>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <vector>

#include "tools/runs/report.hpp"
#include "tools/runs/run.hpp"
#include "tools/runs/run_folder.hpp"

namespace brenier::test {

inline nlohmann::json summary_of(const std::filesystem::path& run) {
  return nlohmann::json::parse(app::read_text(run / "summary.json"));
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
