// SPDX-License-Identifier: MIT
#include "tools/runs/manifest.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>

#include "brenier/atomic_file.hpp"
#include "brenier/base/error.hpp"
#include "brenier/safetensors.hpp"
#include "brenier/text_file.hpp"
#include "tools/runs/run_folder.hpp"

namespace brenier::app {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr const char* kFormat = "brenier manifest 1";

/// Of everything but the checksum itself.
std::string body(const Manifest& manifest) {
  Json out =
      Json::object();  // not by the first key: where memory is out, that leaves one without its elements
  out["format"] = kFormat;
  out["settings"] = manifest.settings;
  out["inputs"] = manifest.inputs;
  out["files"] = manifest.files;
  out["history"] = manifest.history;
  return out.dump(1, ' ', false, Json::error_handler_t::replace);
}

std::map<std::string, std::string> texts(const Json& object) {
  std::map<std::string, std::string> out;
  for (const auto& [key, value] : object.items()) out[key] = value.get<std::string>();
  return out;
}

/// A regular file of a run folder in the check.
void check_one(const fs::path& folder, const std::string& name, const std::string& expected,
               FileCheck& check) {
  try {
    std::error_code code;
    if (!fs::exists(folder / name, code)) {
      check.damaged[name] = "'" + (folder / name).string() + "' is missing";
    } else if (checksum_of_file(folder / name) == expected) {
      ++check.fitting;
    } else {
      check.damaged[name] =
          "'" + (folder / name).string() + "' is not as the run wrote it: its checksum does not fit";
    }
  } catch (const IoError& error) {
    check.damaged[name] = error.what();
  }
}

void check_network(const fs::path& folder, const std::string& name, FileCheck& check) {
  try {
    if (read_safetensors(folder / name).checked) {
      ++check.fitting;
    } else {
      check.unchecked.push_back(name);
    }
  } catch (const IoError& error) {
    std::error_code code;
    if (fs::exists(folder / name, code)) check.damaged[name] = error.what();  // not removed meanwhile
  }
}

/// With what a run has noted in its checkpoint: it writes the manifest when it begins and when it ends.
std::optional<Manifest> read_with_noted(const fs::path& folder) {
  std::optional<Manifest> manifest = Manifest::read(folder);
  if (!manifest) return manifest;
  try {
    manifest->files.merge(noted_files(read_safetensors(folder / "checkpoint.safetensors")));
  } catch (const IoError&) {
    // Not there yet; or damaged, which is said of itself.
  }
  return manifest;
}

/// Checks the files that a manifest lists, beside a run that may go on: before it changes a file it takes it out of the
/// manifest, and puts it back afterwards. So a file is damaged where the manifest then still says the same of it.
void check_listed(const fs::path& folder, Manifest& manifest, FileCheck& check) {
  constexpr int most = 100;
  std::vector<std::string> names;
  for (const auto& [name, checksum] : manifest.files) names.push_back(name);
  for (const std::string& name : names) {
    for (int attempt = 0; attempt < most; ++attempt) {
      const auto listed = manifest.files.find(name);
      if (listed == manifest.files.end()) break;
      const std::string expected = listed->second;
      check_one(folder, name, expected, check);
      if (!check.damaged.contains(name)) break;
      if (const std::optional<Manifest> now = read_with_noted(folder)) manifest = *now;
      const auto now = manifest.files.find(name);
      if (now != manifest.files.end() && now->second == expected) break;
      check.damaged.erase(name);
    }
  }
}

/// "maps/step_000001.safetensors", ...: files of a subfolder with an extension; none where it cannot be listed.
std::vector<std::string> names_in(const fs::path& folder, const std::string& part, const char* extension) {
  std::vector<std::string> out;
  std::error_code code;
  for (const auto& entry : fs::directory_iterator(folder / part, code)) {
    if (entry.path().extension() == extension) out.push_back(part + "/" + entry.path().filename().string());
  }
  return out;
}

}  // namespace

std::optional<Manifest> Manifest::read(const fs::path& folder) {
  const fs::path file = file_in(folder);
  std::error_code code;
  if (!fs::exists(file, code)) return std::nullopt;
  const auto damaged = [&](const std::string& what) -> IoError {
    return IoError("'" + file.string() + "' is damaged: " + what +
                   "; without this file the folder is read unchecked");
  };
  try {
    const Json in = Json::parse(read_text_file(file));
    Manifest out;
    if (in.at("format") != kFormat) throw damaged("its format is " + in.at("format").dump());
    out.settings = in.at("settings").get<std::string>();
    out.inputs = texts(in.at("inputs"));
    out.files = texts(in.at("files"));
    out.history = texts(in.at("history"));
    if (in.at("xxh64") != checksum_of(body(out))) throw damaged("its checksum does not fit");
    return out;
  } catch (const nlohmann::json::exception& error) {
    throw damaged(error.what());
  }
}

void Manifest::write(const fs::path& folder) const {
  std::string text = body(*this);
  const std::string checksum = checksum_of(text);
  text.erase(text.find_last_of('\n'));  // "\n}"
  text += ",\n \"xxh64\": \"" + checksum + "\"\n}\n";
  write_file_atomically(file_in(folder), std::as_bytes(std::span<const char>(text)));
}

std::map<std::string, std::string> inputs_of(const Config& config) {
  std::map<std::string, std::string> out;
  for (const auto& [key, path] : config.files) out[key + " = " + path.string()] = checksum_of_file(path);
  return out;
}

std::vector<std::string> essence(const std::string& resolved, bool failed, bool all) {
  std::istringstream in(resolved);
  in.exceptions(std::ios::badbit);  // where memory is out a stream would end early, and say nothing
  std::vector<std::string> out;
  std::map<std::string, int> counts;  // of arrays of tables
  std::string line, table, prefix;
  while (std::getline(in, line)) {
    if (line.starts_with("[")) {
      const bool array = line.starts_with("[[");
      table = line.substr(array ? 2 : 1, line.find(']') - (array ? 2 : 1));
      prefix = table + "." + (array ? std::to_string(counts[table]++) + "." : "");
      continue;
    }
    const bool free = line.empty() || table == "output" || (failed && table == "inner") ||
                      (table == "flow" && line.starts_with("steps =")) ||
                      (table.empty() && (line.starts_with("threads =") || line.starts_with("device =")));
    if (!free || (all && !line.empty())) out.push_back(prefix + line);
  }
  return out;
}

void check_settings(const fs::path& folder, const Manifest& manifest, const Config& config, bool failed) {
  const std::vector<std::string> now = essence(config.resolved, failed),
                                 then = essence(manifest.settings, failed);
  if (now != then) {
    const auto [one, other] = std::mismatch(now.begin(), now.end(), then.begin(), then.end());
    const std::string difference = one == now.end()      ? "without " + *other
                                   : other == then.end() ? "now there is " + *one
                                                         : *one + " instead of " + *other;
    throw ConfigError("'" + folder.string() + "' was started with other settings: " + difference +
                      "; a resumed run may change flow.steps, device, threads and [output] only" +
                      (failed ? ", and [inner], because it failed" : ", and [inner] where it has failed") +
                      "; for other settings start another run");
  }
  for (const auto& [place, checksum] : inputs_of(config)) {
    const auto found = manifest.inputs.find(place);
    if (found != manifest.inputs.end() && found->second == checksum) continue;
    throw ConfigError("'" + folder.string() + "' was started with another content of the file " + place +
                      "; put the earlier file back, or start another run");
  }
}

FileCheck check_files(const fs::path& folder, bool networks) {
  FileCheck check;
  std::optional<Manifest> manifest;
  try {
    manifest = read_with_noted(folder);
    if (manifest) check_listed(folder, *manifest, check);
  } catch (const IoError& error) {
    check.damaged["manifest.json"] = error.what();
  }
  std::vector<std::string> present = names_in(folder, "clouds", ".npy");
  present.insert(present.end(), {"config.toml", "history.csv", "summary.json"});
  std::error_code code;
  for (const std::string& name : present) {
    const bool known = manifest && manifest->files.contains(name);
    if (!known && fs::exists(folder / name, code)) check.unchecked.push_back(name);
  }
  if (!networks) return check;
  for (const std::string& name : names_in(folder, "maps", ".safetensors")) check_network(folder, name, check);
  if (fs::exists(folder / "checkpoint.safetensors", code))
    check_network(folder, "checkpoint.safetensors", check);
  return check;
}

std::string check_text(const FileCheck& check) {
  std::string out;
  for (const auto& [name, what] : check.damaged) out += "DAMAGED: " + what + "\n";
  if (check.unchecked.empty()) return out;
  constexpr std::size_t most = 3;
  const std::size_t count = check.unchecked.size();
  out += std::to_string(count) + (count == 1 ? " file has no checksum, and is read unchecked: "
                                             : " files have no checksums, and are read unchecked: ");
  for (std::size_t k = 0; k < std::min(most, count); ++k) out += (k ? ", " : "") + check.unchecked[k];
  out += count > most ? ", ...\n" : "\n";
  return out;
}

std::string unchecked_text(int maps) {
  if (maps == 0) return "";
  return maps == 1 ? "1 map has no checksum, and is read unchecked\n"
                   : std::to_string(maps) + " maps have no checksums, and are read unchecked\n";
}

}  // namespace brenier::app
