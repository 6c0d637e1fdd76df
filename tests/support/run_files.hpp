// SPDX-License-Identifier: MIT
// What a run has left in its folder.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <vector>

#include "tools/runs/report.hpp"
#include "tools/runs/run_folder.hpp"

namespace brenier::test {

inline nlohmann::json summary_of(const std::filesystem::path& run) {
  return nlohmann::json::parse(app::read_text(run / "summary.json"));
}

inline std::vector<app::HistoryRow> history_of(const std::filesystem::path& run) {
  return app::parse_history(app::read_text(run / "history.csv"), "history.csv");
}

}  // namespace brenier::test
