// SPDX-License-Identifier: MIT
// Every key of a configuration, as rows: what files are read by, and the reference that is written from them.
// A new key is one row: of the flow in engine/src/flow/options.cpp, of networks and terms in
// kernels/model/keys.cpp, of all that is the command's own in keys.cpp here.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "engine/src/config/config.hpp"
#include "kernels/base/keys.hpp"

namespace brenier {

/// [[functional]]: one term.
struct TermConfig {
  std::string kind;  // the key `term`
  double weight = 1;
  std::string expression;
  double m = 2;
  std::filesystem::path path;
  std::string name;
};

/// Above all tables, beside run_keys().
const Keys<Config>& top_keys();
/// Of [flow], beside flow_keys().
const Keys<Config>& step_keys();
/// [cloud] and [[cloud.components]], by `density`; a Barenblatt profile has keys of its own.
const Keys<CloudConfig>& cloud_keys();
const Keys<BarenblattOptions>& barenblatt_keys();
/// Of [cloud] alone: the particles.
const Keys<CloudConfig>& particle_keys();
/// What `term` may be.
std::vector<std::string> term_names();
/// [[functional]], by `term`, beside sinkhorn_keys().
const Keys<TermConfig>& term_keys();
const Keys<HeldOutConfig>& held_out_keys();
/// [output].
const Keys<Config>& output_keys();
const Keys<ExactConfig>& exact_keys();

/// "flow.tau" and the like, as --set takes them, of all tables; "functional.0.term" of a list of tables.
std::vector<std::string> key_names();

/// All tables with all keys, in Markdown: docs/configuration.md.
std::string key_reference();

}  // namespace brenier
