// SPDX-License-Identifier: MIT
// `brenier info`: about the build, a run folder, a configuration, a .npy or a .safetensors file.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>

#include "brenier/device.hpp"
#include "brenier/npy.hpp"
#include "brenier/safetensors.hpp"
#include "engine/src/config/config.hpp"
#include "engine/src/config/keys.hpp"
#include "tools/command/command.hpp"
#include "tools/command/commands.hpp"
#include "tools/runs/manifest.hpp"
#include "tools/runs/provenance.hpp"
#include "tools/runs/run_folder.hpp"

namespace brenier::app {
namespace {

namespace fs = std::filesystem;

void build(std::ostream& out) {
  const BuildInfo info = build_info();
  out << "brenier    " << info.version << "\n"
      << "git        " << build_record().git << "\n"
      << "compiler   " << info.compiler << "\n"
      << "flags      " << build_record().flags << "\n"
      << "cuda       ";
  if (info.cuda_devices.empty()) out << "no (" << info.cuda_trouble << ")";
  for (std::size_t k = 0; k < info.cuda_devices.size(); ++k)
    out << (k ? ", " : "") << "cuda:" << k << " " << info.cuda_devices[k];
  out << "\ncpu        ";
  for (std::size_t i = 0; i < info.cpu_variants.size(); ++i) out << (i ? ", " : "") << info.cpu_variants[i];
  out << "\nprocessors " << info.threads << "\n";
}

void run_folder(const fs::path& path, std::ostream& out) {
  const RunFolder folder = RunFolder::open(path);
  const FileCheck check = check_files(path, true);
  out << "files" << std::string(23, ' ') << check.fitting << " with checksums that fit, "
      << check.damaged.size() << " damaged, " << check.unchecked.size() << " without\n"
      << check_text(check);
  try {
    const auto flat = nlohmann::ordered_json::parse(read_text(folder.summary())).flatten();
    for (const auto& [key, value] : flat.items()) {
      std::string name = key.substr(1);
      std::replace(name.begin(), name.end(), '/', '.');
      out << name
          << std::string(name.size() < 28 ? 28 - name.size() : 1, ' ')
          // An empty list flattens to null.
          << (value.is_string() ? value.get<std::string>()
              : value.is_null() ? "none"
                                : value.dump())
          << "\n";
    }
  } catch (const nlohmann::json::exception& error) {
    throw IoError("'" + folder.summary().string() + "' is not valid JSON: " + error.what());
  }
}

void npy(const fs::path& path, std::ostream& out) {
  const NpyInfo info = read_npy_info(path);
  out << info.dtype << " (";
  for (std::size_t i = 0; i < info.shape.size(); ++i) out << (i ? ", " : "") << info.shape[i];
  out << ")" << (info.fortran_order ? ", Fortran order" : "") << "\n";
  const Matrix<double> x = read_npy(path);
  constexpr Index most = 8;
  if (x.rows() == 0) {
    out << "no rows\n";
    return;
  }
  for (Index c = 0; c < std::min(most, x.cols()); ++c) {
    double sum = 0, squares = 0, low = INFINITY, high = -INFINITY;
    Index finite = 0;
    for (Index i = 0; i < x.rows(); ++i) {
      if (!std::isfinite(x(i, c))) continue;
      ++finite;
      sum += x(i, c);
      low = std::min(low, x(i, c));
      high = std::max(high, x(i, c));
    }
    if (finite == 0) {
      out << "column " << c << ": no finite values\n";
      continue;
    }
    const double mean = sum / static_cast<double>(finite);
    for (Index i = 0; i < x.rows(); ++i) {
      if (std::isfinite(x(i, c))) squares += (x(i, c) - mean) * (x(i, c) - mean);
    }
    char text[160];
    std::snprintf(text, sizeof text, "column %td: from %.6g to %.6g, mean %.6g, deviation %.6g", c, low, high,
                  mean, std::sqrt(squares / static_cast<double>(finite)));
    out << text;
    if (finite < x.rows()) out << ", " << x.rows() - finite << " values not finite";
    out << "\n";
  }
  if (x.cols() > most) out << "and " << x.cols() - most << " more columns\n";
}

void safetensors(const fs::path& path, std::ostream& out) {
  const TensorFile file = read_safetensors(path);
  out << (file.checked ? "its checksum fits" : "it has no checksum: unchecked") << "\n";
  for (const auto& [key, value] : file.metadata) out << key << " = " << value << "\n";
  for (const Tensor& tensor : file.tensors) {
    out << tensor.name << "  " << (tensor.dtype == DType::float32 ? "float32" : "float64") << " (";
    for (std::size_t i = 0; i < tensor.shape.size(); ++i) out << (i ? ", " : "") << tensor.shape[i];
    out << ")\n";
  }
}

// --- the same for programs ---------------------------------------------------------------------------------

using Json = nlohmann::ordered_json;

Json build_json() {
  const BuildInfo info = build_info();
  const BuildRecord record = build_record();
  return {{"version", info.version},
          {"git", record.git},
          {"compiler", record.compiler},
          {"flags", record.flags},
          {"type", record.type},
          {"mpi", record.mpi},
          {"cuda", record.cuda},
          {"cuda_devices", info.cuda_devices},
          {"cpu_variants", info.cpu_variants},
          {"processors", info.threads}};
}

Json run_json(const fs::path& path) {
  const RunFolder folder = RunFolder::open(path);
  const FileCheck check = check_files(path, true);
  Json out = Json::object();
  out["files"] = {{"fitting", check.fitting}, {"damaged", check.damaged}, {"unchecked", check.unchecked}};
  try {
    out["summary"] = Json::parse(read_text(folder.summary()));
  } catch (const nlohmann::json::exception& error) {
    throw IoError("'" + folder.summary().string() + "' is not valid JSON: " + error.what());
  }
  return out;
}

Json array_json(const fs::path& path) {
  const NpyInfo info = read_npy_info(path);
  const Matrix<double> x = read_npy(path);
  Json out = {{"dtype", info.dtype}, {"shape", info.shape}, {"fortran_order", info.fortran_order}};
  out["columns"] = Json::array();
  for (Index c = 0; c < x.cols() && x.rows() > 0; ++c) {
    double low = INFINITY, high = -INFINITY;
    Index finite = 0;
    for (Index i = 0; i < x.rows(); ++i) {
      if (!std::isfinite(x(i, c))) continue;
      ++finite;
      low = std::min(low, x(i, c));
      high = std::max(high, x(i, c));
    }
    Json column = {{"finite", finite}};
    if (finite > 0) column.update({{"min", low}, {"max", high}});
    out["columns"].push_back(column);
  }
  return out;
}

Json safetensors_json(const fs::path& path) {
  const TensorFile file = read_safetensors(path);
  Json out = {{"checked", file.checked}, {"metadata", file.metadata}, {"tensors", Json::array()}};
  for (const Tensor& tensor : file.tensors) {
    out["tensors"].push_back({{"name", tensor.name},
                              {"dtype", tensor.dtype == DType::float32 ? "float32" : "float64"},
                              {"shape", tensor.shape}});
  }
  return out;
}

/// The settings of a configuration as TOML writes them, by their keys.
Json config_json(const fs::path& path) {
  const Config config = load_config(path);
  if (!config.cloud.density) static_cast<void>(config.initial_cloud());
  Json out = {{"valid", true}};
  if (!config.cloud.estimate.empty()) out["initial_density"] = config.cloud.estimate;
  out["settings"] = Json::object();
  for (const std::string& line : essence(config.resolved, false, true)) {
    const std::size_t equal = line.find(" = ");
    out["settings"][line.substr(0, equal)] = line.substr(equal + 3);
  }
  return out;
}

bool is_array(const fs::path& path) {
  const std::string extension = path.extension().string();
  for (const char* known : {".npy", ".npz", ".csv", ".tsv", ".txt"})
    if (extension == known) return true;
  return false;
}

Json file_json(const fs::path& path) {
  std::error_code code;
  if (fs::is_directory(path, code)) return run_json(path);
  if (!fs::exists(path, code)) throw IoError("'" + path.string() + "': no such file or folder");
  if (is_array(path)) return array_json(path);
  if (path.extension() == ".safetensors") return safetensors_json(path);
  if (path.extension() == ".toml") return config_json(path);
  throw ValueError("'" + path.string() +
                   "': info knows run folders, .toml, .npy, .npz, .csv and .safetensors files");
}

void file(const fs::path& path, std::ostream& out) {
  std::error_code code;
  if (fs::is_directory(path, code)) return run_folder(path, out);
  if (!fs::exists(path, code)) throw IoError("'" + path.string() + "': no such file or folder");
  const std::string extension = path.extension().string();
  if (is_array(path)) return npy(path, out);
  if (extension == ".safetensors") return safetensors(path, out);
  if (extension == ".toml") {
    const Config config = load_config(path);
    if (!config.cloud.density) static_cast<void>(config.initial_cloud());  // files are checked to their end
    if (!config.cloud.estimate.empty()) out << "# initial density: " << config.cloud.estimate << "\n";
    out << "# valid; all keys with their effective values:\n" << config.resolved;
    return;
  }
  throw ValueError("'" + path.string() +
                   "': info knows run folders, .toml, .npy, .npz, .csv and .safetensors files");
}

}  // namespace

Command add_info(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("info", "about the build, a run, a configuration, an array or a .safetensors file");
  struct Arguments {
    fs::path path;
    bool keys = false, json = false;
  };
  const auto arguments = std::make_shared<Arguments>();
  command->add_option("PATH", arguments->path, "nothing: the build and this machine");
  command->add_flag("--keys", arguments->keys, "every key of a configuration, in Markdown");
  command->add_flag("--json", arguments->json, "as JSON");
  return {command, [arguments](const Console& console) {
            if (arguments->json) {
              const Json json = arguments->path.empty() ? build_json() : file_json(arguments->path);
              console.out << json.dump(2, ' ', false, Json::error_handler_t::replace) << "\n";
            } else if (arguments->keys) {
              console.out << key_reference();
            } else if (arguments->path.empty()) {
              build(console.out);
            } else {
              file(arguments->path, console.out);
            }
            return ExitCode::ok;
          }};
}

}  // namespace brenier::app
