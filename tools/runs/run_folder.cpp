// SPDX-License-Identifier: MIT
#include "tools/runs/run_folder.hpp"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <sstream>
#include <system_error>
#include <tuple>
#include <utility>

#include "brenier/atomic_file.hpp"
#include "brenier/base/error.hpp"
#include "brenier/npy.hpp"
#include "brenier/safetensors.hpp"

namespace brenier::app {
namespace {

namespace fs = std::filesystem;

constexpr const char* kParts[] = {"clouds", "maps", "figures"};

std::string six_digits(int step) {
  char text[24];
  std::snprintf(text, sizeof text, "%06d", step);
  return text;
}

/// The step in "step_000010.npy" or "log_density_000010.npy"; -1 where there is none.
int step_of(const std::string& name) {
  const std::size_t digits = name.find_first_of("0123456789");
  return digits == std::string::npos ? -1 : std::atoi(name.c_str() + digits);
}

Tensor tensor_of(const std::string& name, const Matrix<double>& m) {
  return {name, {m.rows(), m.cols()}, m.elements(), DType::float64};
}

Matrix<double> matrix_of(const TensorFile& file, const std::string& name) {
  const Tensor* tensor = file.find(name);
  if (!tensor || tensor->shape.size() != 2) return {};
  Matrix<double> out(tensor->shape[0], tensor->shape[1]);
  out.elements() = tensor->values;
  return out;
}

/// Whether a folder is empty but for empty subfolders of a run.
bool is_unused(const fs::path& path) {
  std::error_code code;
  for (const auto& entry : fs::directory_iterator(path, code)) {
    const bool ours =
        std::find(std::begin(kParts), std::end(kParts), entry.path().filename()) != std::end(kParts);
    if (!ours || !entry.is_directory(code) || !fs::is_empty(entry.path(), code)) return false;
  }
  return !code;
}

/// Makes a folder, and those above it. False where something of that name is there: of several processes only
/// one gets true. IoError.
bool make(const fs::path& path) {
  std::error_code code;
  if (path.has_parent_path()) fs::create_directories(path.parent_path(), code);
  const bool made = fs::create_directory(path, code);
  std::error_code ignored;
  if (!made && !fs::exists(path, ignored)) {
    throw IoError("'" + path.string() + "': the folder cannot be made: " + code.message());
  }
  return made;
}

}  // namespace

RunFolder RunFolder::create(const fs::path& path) {
  std::error_code code;
  if (make(path)) return prepared(path, true);
  if (!fs::is_directory(path, code)) {
    throw ValueError("'" + path.string() + "' exists and is not a folder; choose another one with --out");
  }
  if (!is_unused(path)) {
    throw ValueError(
        "'" + path.string() +
        "' exists and is not empty; choose another folder with --out, or continue that run with --resume");
  }
  return prepared(path, false);
}

RunFolder RunFolder::create_numbered(const std::string& stem) {
  for (int n = 1;; ++n) {
    const fs::path path = fs::path("runs") / (stem + "-" + std::to_string(n));
    if (make(path)) return prepared(path, true);
  }
}

RunFolder RunFolder::prepared(const fs::path& path, bool made) {
  RunFolder folder(path, made);
  std::error_code code;
  for (const char* part : kParts) {
    fs::create_directories(path / part, code);
    if (!code) continue;
    folder.remove();
    throw IoError("'" + (path / part).string() + "': the folder cannot be made: " + code.message());
  }
  return folder;
}

RunFolder RunFolder::open(const fs::path& path) {
  if (!is_run(path)) {
    throw IoError("'" + path.string() +
                  "' is not a run folder: it has no config.toml with the folders clouds, maps "
                  "and figures");
  }
  return {path, false};
}

bool RunFolder::is_run(const fs::path& path) {
  std::error_code code;
  return fs::is_regular_file(path / "config.toml", code) &&
         std::all_of(std::begin(kParts), std::end(kParts),
                     [&](const char* part) { return fs::is_directory(path / part, code); });
}

fs::path RunFolder::cloud(int step) const {
  return path_ / "clouds" / ("step_" + six_digits(step) + ".npy");
}

fs::path RunFolder::log_density(int step) const {
  return path_ / "clouds" / ("log_density_" + six_digits(step) + ".npy");
}

void RunFolder::write_text(const fs::path& file, const std::string& text) const {
  write_file_atomically(file, std::as_bytes(std::span<const char>(text)));
}

void RunFolder::mark_failed() const noexcept {
  try {
    const std::string running = "\"status\": \"running\"", failed = "\"status\": \"failed\" ";
    const std::size_t at = read_text(summary()).find(running);
    if (at == std::string::npos) return;
    std::fstream file(summary(), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(at));
    file.write(failed.data(), static_cast<std::streamsize>(failed.size()));
  } catch (const std::exception&) {
    // summary.json stays as it was.
  }
}

void RunFolder::write_cloud(int step, const Trajectory& cloud) const {
  write_npy(this->cloud(step), cloud.x());
  if (cloud.has_density()) write_npy(log_density(step), std::span<const double>(cloud.log_density()));
}

void RunFolder::write_maps(const std::vector<BrenierMap>& maps, std::size_t first) const {
  for (std::size_t m = first; m < maps.size(); ++m) {
    std::string name = "step_" + six_digits(maps[m].step);
    if (!maps[m].closes_step) {
      std::size_t number = 1;
      while (number <= m && maps[m - number].step == maps[m].step) ++number;
      name += "_start_" + std::to_string(number);
    }
    write_map(path_ / "maps" / (name + ".safetensors"), maps[m]);
  }
}

void RunFolder::write_checkpoint(const Saved& saved) const {
  TensorFile file;
  file.tensors.push_back(tensor_of("x", saved.cloud.x()));
  if (saved.cloud.has_density()) {
    const std::vector<double>& values = saved.cloud.log_density();
    file.tensors.push_back({"log_density", {static_cast<Index>(values.size())}, values, DType::float64});
  }
  if (saved.cloud.has_previous()) file.tensors.push_back(tensor_of("previous", saved.cloud.previous()));
  if (!saved.cloud.jacobian().empty()) file.tensors.push_back(tensor_of("jacobian", saved.cloud.jacobian()));
  file.tensors.push_back({"theta", {static_cast<Index>(saved.theta.size())}, saved.theta, DType::float64});
  file.tensors.push_back({"gradient_scale", {}, {saved.gradient_scale}, DType::float64});
  file.tensors.push_back({"next_tau", {}, {saved.next_tau}, DType::float64});
  file.tensors.push_back({"decrease_rate", {}, {saved.decrease_rate}, DType::float64});
  file.metadata = {{"format", "brenier checkpoint 1"},
                   {"step", std::to_string(saved.step)},
                   {"draws", std::to_string(saved.draws)}};
  write_safetensors(checkpoint(), file);
}

Saved RunFolder::read_checkpoint(bool second_order) const {
  const TensorFile file = read_safetensors(checkpoint());
  const auto text = [&](const std::string& key) -> std::string {
    const auto found = file.metadata.find(key);
    return found == file.metadata.end() ? "" : found->second;
  };
  if (text("format") != "brenier checkpoint 1") {
    throw IoError("'" + checkpoint().string() + "' is no checkpoint that this version of brenier wrote");
  }
  Saved saved;
  try {
    saved.step = std::stoi(text("step"));
    saved.draws = static_cast<std::uint32_t>(std::stoul(text("draws")));
    saved.theta = file.at("theta").values;
    saved.gradient_scale = file.at("gradient_scale").values.at(0);
    saved.next_tau = file.at("next_tau").values.at(0);
    if (const Tensor* rate = file.find("decrease_rate")) saved.decrease_rate = rate->values.at(0);
    const Tensor* density = file.find("log_density");
    saved.cloud = Trajectory::restore(matrix_of(file, "x"), density ? density->values : std::vector<double>(),
                                      matrix_of(file, "previous"), matrix_of(file, "jacobian"), second_order);
  } catch (const Error& error) {
    throw IoError("'" + checkpoint().string() + "' cannot be used: " + error.what());
  } catch (const std::logic_error&) {
    throw IoError("'" + checkpoint().string() + "' has no whole numbers 'step' and 'draws'");
  }
  return saved;
}

void RunFolder::forget_after(int step) const {
  std::error_code code;
  for (const char* part : {"clouds", "maps"}) {
    std::vector<fs::path> late;
    for (const auto& entry : fs::directory_iterator(path_ / part, code)) {
      if (step_of(entry.path().filename().string()) > step) late.push_back(entry.path());
    }
    for (const fs::path& file : late) fs::remove(file, code);
  }
}

void RunFolder::remove() const noexcept {
  std::error_code code;
  if (made_) {
    fs::remove_all(path_, code);
    return;
  }
  for (const auto& entry : fs::directory_iterator(path_, code)) {
    std::error_code ignored;
    fs::remove_all(entry.path(), ignored);
  }
}

std::vector<BrenierMap> read_maps(const fs::path& path, int steps) {
  std::error_code code;
  if (fs::is_regular_file(path, code)) return {read_map(path)};
  if (!fs::is_directory(path, code)) throw IoError("'" + path.string() + "': no such file or folder");
  const fs::path folder = fs::is_directory(path / "maps", code) ? path / "maps" : path;
  struct Entry {
    fs::path file;
    BrenierMap map;
  };
  std::vector<Entry> entries;
  for (const auto& entry : fs::directory_iterator(folder, code)) {
    if (entry.path().extension() != ".safetensors" || entry.path().filename() == "checkpoint.safetensors")
      continue;
    // A damaged map of a later step is no hindrance, where its name says the step.
    if (steps > 0 && step_of(entry.path().filename().string()) > steps) continue;
    BrenierMap map = read_map(entry.path());
    if (steps > 0 && map.step > steps) continue;
    entries.push_back({entry.path(), std::move(map)});
  }
  if (entries.empty()) throw IoError("'" + folder.string() + "' has no maps (.safetensors files)");
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::tuple(a.map.step, a.map.closes_step, a.file.native()) <
           std::tuple(b.map.step, b.map.closes_step, b.file.native());
  });
  std::vector<BrenierMap> maps;
  int complete = 0;
  for (Entry& entry : entries) {
    if (entry.map.step != complete + 1) {
      throw IoError("'" + folder.string() + "': the map of step " + std::to_string(complete + 1) +
                    " is missing; '" + entry.file.filename().string() + "' is of step " +
                    std::to_string(entry.map.step));
    }
    complete += entry.map.closes_step;
    maps.push_back(std::move(entry.map));
  }
  if (!maps.back().closes_step || (steps > 0 && complete != steps)) {
    throw IoError("'" + folder.string() + "' has the maps of " + std::to_string(complete) + " whole steps" +
                  (steps > 0 ? ", " + std::to_string(steps) + " were asked for" : ""));
  }
  return maps;
}

std::string read_text(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw IoError("'" + path.string() + "': cannot be opened");
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

}  // namespace brenier::app
