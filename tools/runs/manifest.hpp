// SPDX-License-Identifier: MIT
// What a run folder should hold: settings, the files that they name, and checksums.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "engine/src/config/config.hpp"

namespace brenier::app {

/// manifest.json, with a checksum of its own. Checksums are xxHash-64 (brenier/checksum.hpp). Maps and checkpoints
/// carry theirs themselves.
struct Manifest {
  std::string settings;                       // Config::resolved when the run was last started
  std::map<std::string, std::string> inputs;  // "cloud.path = FILE" -> checksum, see inputs_of()
  std::map<std::string, std::string> files;   // "clouds/step_000000.npy" -> checksum
  // Of the rows of history.csv up to a checkpoint's step, all but F on the held-out cloud in the last one, in folders of
  // before: see Saved::history.
  std::map<std::string, std::string> history;

  static std::filesystem::path file_in(const std::filesystem::path& folder) {
    return folder / "manifest.json";
  }
  /// Nothing where there is none: versions before this one wrote none. IoError: it is damaged.
  static std::optional<Manifest> read(const std::filesystem::path& folder);
  void write(const std::filesystem::path& folder) const;
};

/// Checksums of the files that a configuration names, each under its key and path. IoError.
std::map<std::string, std::string> inputs_of(const Config& config);

/// "flow.tau = 0.1", a line for each key of a resolved configuration that a resumed run must share with the one it
/// continues; [inner] may differ where that one has failed. `all`: of each key.
std::vector<std::string> essence(const std::string& resolved, bool failed, bool all = false);

/// ConfigError that names the first key, or the file behind one, that is not as in the manifest.
void check_settings(const std::filesystem::path& folder, const Manifest& manifest, const Config& config,
                    bool failed);

/// How the files of a run folder stand against their checksums.
struct FileCheck {
  std::map<std::string, std::string> damaged;  // name in the folder -> what is wrong, with the whole name
  int fitting = 0;
  std::vector<std::string> unchecked;  // names of those that have no checksum, as files of earlier versions
};

/// Reads the files that the manifest lists, and the clouds that the checkpoint of a run lists that has not ended, and with `networks` the maps and the checkpoint too. IoError: the folder
/// cannot be listed.
FileCheck check_files(const std::filesystem::path& folder, bool networks);

/// What there is to say of a check in lines for people, each with its end; empty where all is well.
std::string check_text(const FileCheck& check);

/// A line that says how many maps have no checksum; empty for 0.
std::string unchecked_text(int maps);

}  // namespace brenier::app
