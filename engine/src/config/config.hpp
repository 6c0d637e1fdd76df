// SPDX-License-Identifier: MIT
// What a run is made of: a TOML file, checked and turned into the library's types.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "brenier/density.hpp"
#include "brenier/flow.hpp"
#include "brenier/functional.hpp"
#include "brenier/oracles.hpp"
#include "engine/src/config/reader.hpp"

namespace brenier {

/// [cloud]: the initial density and how its particles are drawn.
struct CloudConfig {
  std::string kind;  // "gaussian", "uniform", ...: the key `density`
  int dim = 1;
  Index particles = 0;
  Index points = 0;  // of a file
  Sampling sampling = Sampling::stratified;
  int components = 1;                           // of a Gaussian mixture that is fitted
  std::string estimate;                         // in words, of a density that is estimated from the file
  std::optional<Density> density;               // nothing for a file
  std::optional<BarenblattOptions> barenblatt;  // where the density is one of these
  std::optional<GaussianState> gaussian;
  std::filesystem::path file, log_density;    // of points; log_density may be empty
  std::string file_place, log_density_place;  // where the configuration names them, for messages

  double mass() const { return density ? density->mass() : 1.0; }
};

/// [held_out]: a second cloud on which F is judged.
struct HeldOutConfig {
  Index particles = 0;  // 0: none
  /// Of the particles of a file, which are kept from the cloud; 0: none.
  double fraction = 0;
  /// Particles that interactions are taken over before the last step; 0: all. All pairs of 100,000 particles
  /// take seconds: until then some of them stand for all.
  Index pair_limit = 8192;
  Sampling sampling = Sampling::stratified;
  int every = 1;  // steps between evaluations of F
};

/// [exact]: what the user knows about the solution.
struct ExactConfig {
  std::optional<double> functional;  // infimum of F, which a long flow reaches
  std::optional<double> deviation;   // standard deviation at the end
  std::string density;               // in x and time; empty where not known
  bool steady = true;                // the density does not name the time
};

/// A checked configuration.
struct Config {
  std::string name;  // of the file, in messages
  std::string precision = "float";
  CloudConfig cloud;
  Functional functional;
  Parameters parameters;
  FlowOptions flow;  // seed, device and threads too
  int steps = 0;     // at most, where their lengths are adaptive
  bool ends =
      true;  // false: a host program's flow, whose settings name neither steps nor an end of equal ones
  bool adaptive() const { return flow.adaptive.tolerance > 0; }
  /// Of the whole flow, time units of the PDE.
  double duration() const { return adaptive() ? flow.adaptive.end_time - flow.start_time : flow.tau * steps; }
  /// Steps of equal length, whose exact iterates are known; 0 where lengths are adaptive.
  int equal_steps() const { return adaptive() ? 0 : steps; }
  HeldOutConfig held_out;
  int clouds_every = 1;
  int checkpoint_every = 1;
  std::optional<double> max_seconds;  // wall time, after which a run ends as one that is interrupted
  ExactConfig exact;
  std::string resolved;                                              // all of it as TOML
  std::vector<std::pair<std::string, std::filesystem::path>> files;  // that it names: key, absolute path

  /// The initial cloud, drawn or read. ConfigError at the key of a file that cannot be used (coordinates must
  /// be finite, log-densities finite or -inf).
  Cloud initial_cloud() const;
  /// `particles` held-out particles, independent of the initial cloud as far as the sampling is random; of a file
  /// those that held_out.fraction keeps apart.
  Cloud held_out_cloud(Index particles) const;
  /// A fresh cloud, for inner.refresh; `draw` counts from 1.
  Cloud fresh_cloud(std::uint32_t draw) const;

 private:
  Cloud whole_file() const;
  /// The particles of the file that are held out, or the others.
  Cloud part_of_file(bool apart) const;
};

/// What a program that embeds Brenier gives beside the text.
struct HostInput {
  struct Potential {
    PotentialFunction function;
    bool thread_safe = false;
  };
  std::map<std::string, Potential> potentials;  // of terms "black_box", by name
  /// Its particles. [cloud] may then be missing; where it is there, it is the law of these.
  const Cloud* cloud = nullptr;
};

/// Parses and checks. `name` stands for the file in messages, paths are relative to `folder`, `overrides` are
/// "key=value" as for --set. ConfigError, with the line and what is allowed; IoError for the files it names.
Config parse_config(const std::string& text, const std::string& name, const std::filesystem::path& folder,
                    const std::vector<std::string>& overrides = {}, const HostInput* host = nullptr);

/// The law alone, [cloud], and `threads`: nothing else of the text is read.
Config parse_law(const std::string& text, const std::string& name, const std::filesystem::path& folder,
                 const std::vector<std::string>& overrides, const HostInput& host);
/// F alone, [parameters] and [[functional]], for the particles of the host.
Config parse_functional(const std::string& text, const std::string& name, const std::filesystem::path& folder,
                        const std::vector<std::string>& overrides, const HostInput& host);
/// A resolved text with the [parameters] and [[functional]] of another one.
std::string with_functional(const std::string& resolved, const std::string& other);

/// The same from a file.
Config load_config(const std::filesystem::path& path, const std::vector<std::string>& overrides = {});

// The sections that have files of their own.
/// `exponent`: of a Barenblatt profile that does not say its own.
CloudConfig read_cloud(Section& section, std::optional<double> exponent, const HostInput* host);
/// ConfigError at `key` where so many doubles are more than the memory of this machine.
void check_memory(const Section& section, const std::string& key, double numbers, int dim);
Parameters read_parameters(Section& section);
/// `initial` gives the initial cloud, for terms that name it.
Functional read_functional(std::vector<Section>& terms, int dim, const Parameters& parameters,
                           const std::function<Matrix<double>()>& initial, const HostInput* host);

}  // namespace brenier
