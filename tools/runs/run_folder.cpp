// SPDX-License-Identifier: MIT
#include "tools/runs/run_folder.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <sstream>
#include <system_error>
#include <tuple>
#include <utility>

#include "brenier/atomic_file.hpp"
#include "brenier/base/error.hpp"
#include "brenier/npy.hpp"
#include "brenier/safetensors.hpp"
#include "brenier/text_file.hpp"
#include "tools/runs/manifest.hpp"

namespace brenier::app {
namespace {

namespace fs = std::filesystem;

constexpr const char* kParts[] = {"clouds", "maps", "figures"};

std::string six_digits(int step) {
  char text[24];
  std::snprintf(text, sizeof text, "%06d", step);
  return text;
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

/// Whether a folder holds nothing but what a run makes before its first step.
bool is_unused(const fs::path& path) {
  std::error_code code;
  for (const auto& entry : fs::directory_iterator(path, code)) {
    const std::string name = entry.path().filename().string();
    const bool part = std::find(std::begin(kParts), std::end(kParts), name) != std::end(kParts);
    const bool empty_part =
        part && entry.is_directory(code) && !fs::is_symlink(entry.path(), code) && is_unused(entry.path());
    const bool ours = empty_part || name == RunLock::file_name() || temporary_file_owner(name) > 0 ||
                      name == Manifest::file_in("").string();
    if (!ours) return false;
  }
  return !code;
}

/// A line for each file: checksum and name.
std::string text_of(const std::map<std::string, std::string>& files) {
  std::string out;
  for (const auto& [name, checksum] : files) out += checksum + " " + name + "\n";
  return out;
}

/// Makes a folder, and those above it, so that they are there after a power failure. False where something of
/// that name is there: of several processes only one gets true. IoError.
bool make(const fs::path& path) {
  std::error_code code, ignored;
  const fs::path parent = path.has_parent_path() ? path.parent_path() : fs::path(".");
  if (!fs::exists(parent, ignored) && parent != path) make(parent);
  const bool made = fs::create_directory(path, code);
  if (!made && !fs::exists(path, ignored)) {
    throw WriteError(
        "'" + path.string() + "': the folder cannot be made: " + why_not_made(path, code.value()),
        code.value());
  }
  if (made) sync_folder(parent);
  return made;
}

/// Of several processes the first one has the folder. Where this one cannot, it takes back the folder it `made`.
std::shared_ptr<RunLock> lock(const fs::path& path, bool made) {
  try {
    return std::make_shared<RunLock>(path);
  } catch (const Error&) {
    std::error_code ignored;
    if (made) fs::remove(path, ignored);  // where it is empty
    throw;
  }
}

}  // namespace

int step_of(const std::string& name) {
  const std::size_t slash = name.rfind('/');
  const std::string file = slash == std::string::npos ? name : name.substr(slash + 1);
  for (const char* before : {"step_", "log_density_"}) {
    if (!file.starts_with(before)) continue;
    int step = -1;
    const char* digits = file.c_str() + std::strlen(before);
    const auto result = std::from_chars(digits, file.c_str() + file.size(), step);
    return result.ec == std::errc() && *digits != '-' ? step : -1;
  }
  return -1;
}

std::map<std::string, std::string> noted_files(const TensorFile& checkpoint) {
  std::map<std::string, std::string> out;
  const auto found = checkpoint.metadata.find("files");
  std::istringstream in(found == checkpoint.metadata.end() ? "" : found->second);
  in.exceptions(std::ios::badbit);
  for (std::string checksum, name; in >> checksum && std::getline(in >> std::ws, name);) out[name] = checksum;
  return out;
}

RunFolder RunFolder::create(const fs::path& path) {
  if (path.empty()) throw ValueError("the name of the run folder is empty; give one with --out");
  std::error_code code;
  const bool made = make(path);
  if (!fs::is_directory(path, code)) {
    throw ValueError("'" + path.string() + "' exists and is not a folder; choose another one with --out");
  }
  const auto used = [&] {
    return ValueError(
        "'" + path.string() +
        "' exists and is not empty; choose another folder with --out, or continue that run with --resume");
  };
  // A folder of other things is not touched, not even by a lock.
  if (!made && !is_unused(path) && !is_run(path)) throw used();
  const RunFolder folder(path, made, lock(path, made));
  if (!is_unused(path)) throw used();
  folder.sweep();
  folder.make_parts();
  return folder;
}

RunFolder RunFolder::create_numbered(const std::string& stem) {
  for (int n = 1;; ++n) {
    const fs::path path = fs::path("runs") / (stem + "-" + std::to_string(n));
    if (!make(path)) continue;
    const RunFolder folder(path, true, lock(path, true));
    folder.make_parts();
    return folder;
  }
}

void RunFolder::make_parts() const {
  try {
    for (const char* part : kParts) {
      if (make(path_ / part)) continue;
      if (!fs::is_directory(path_ / part)) throw IoError("'" + (path_ / part).string() + "' is not a folder");
    }
    sync_folder(path_);
  } catch (...) {
    remove();
    throw;
  }
}

void RunFolder::sweep() const {
  std::error_code code;
  std::vector<fs::path> left;
  const auto collect = [&](const fs::path& folder) {
    for (const auto& entry : fs::directory_iterator(folder, code)) {
      const long owner = temporary_file_owner(entry.path().filename().string());
      if (owner > 0 && !is_alive(owner)) left.push_back(entry.path());
    }
  };
  collect(path_);
  for (const char* part : kParts) collect(path_ / part);
  for (const fs::path& file : left) fs::remove(file, code);
}

RunFolder RunFolder::open_to_write(const fs::path& path) {
  open(path);
  const RunFolder folder(path, false, lock(path, false));
  open(path);  // nobody else changes it from here on
  folder.sweep();
  return folder;
}

RunFolder RunFolder::beside(const fs::path& path) {
  RunFolder folder(path, false);
  folder.writes_ = false;
  return folder;
}

RunFolder RunFolder::open(const fs::path& path) {
  if (!is_run(path)) {
    std::error_code code;
    if (fs::is_directory(path, code) && !fs::is_empty(path, code) && is_unused(path)) {
      throw IoError(
          "'" + path.string() +
          "' has nothing to continue: its run was killed before the first file; start it again with: "
          "brenier run CONFIG --out " +
          path.string());
    }
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

std::string RunFolder::write_text(const fs::path& file, const std::string& text) const {
  if (!writes_) return "";
  return write_file_atomically(file, std::as_bytes(std::span<const char>(text)));
}

void RunFolder::mark_failed() const noexcept {
  if (!writes_) return;
  try {
    const std::string running = "\"status\": \"running\"", failed = "\"status\": \"failed\" ";
    std::string text = read_text(summary());
    const std::size_t at = text.find(running);
    if (at == std::string::npos) return;
    try {
      write_text(summary(), text.replace(at, failed.size(), failed));
    } catch (const IoError&) {
      // Bytes that are there already need no room.
      const int file = ::open(summary().c_str(), O_WRONLY | O_CLOEXEC);
      if (file < 0) return;
      static_cast<void>(::pwrite(file, failed.data(), failed.size(), static_cast<off_t>(at)));
      ::fsync(file);
      ::close(file);
    }
  } catch (const std::exception&) {
    // summary.json stays as it was.
  }
}

std::map<std::string, std::string> RunFolder::write_cloud(int step, const Trajectory& cloud) const {
  std::map<std::string, std::string> written;
  if (!writes_) return written;
  const auto note = [&](const fs::path& file, std::string checksum) {
    written["clouds/" + file.filename().string()] = std::move(checksum);
  };
  note(this->cloud(step), write_npy(this->cloud(step), cloud.x()));
  if (cloud.has_density())
    note(log_density(step), write_npy(log_density(step), std::span<const double>(cloud.log_density())));
  return written;
}

void RunFolder::write_maps(const std::vector<BrenierMap>& maps, std::size_t first) const {
  for (std::size_t m = first; writes_ && m < maps.size(); ++m) {
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
  if (!writes_) return;
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
  file.metadata = {{"format", "brenier checkpoint 1"},
                   {"step", std::to_string(saved.step)},
                   {"draws", std::to_string(saved.draws)},
                   {"problem", saved.problem},
                   {"history", saved.history},
                   {"files", text_of(saved.files)}};
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
  const auto fail = [&](const std::string& what) -> IoError {
    return IoError("'" + checkpoint().string() + "' cannot be used: " + what);
  };
  const auto whole = [&]<class N>(const std::string& key, N least, N most) {
    const std::string value = text(key);
    N out{};
    const auto result = std::from_chars(value.data(), value.data() + value.size(), out);
    if (result.ec != std::errc() || result.ptr != value.data() + value.size() || out < least || out > most)
      throw fail(key + " = \"" + value + "\"; it must be a whole number from " + std::to_string(least) +
                 " to " + std::to_string(most));
    return out;
  };
  const auto number = [&](const char* name) {
    const std::vector<double>& values = file.at(name).values;
    if (values.size() != 1 || !std::isfinite(values[0]) || values[0] < 0)
      throw fail(std::string("the tensor '") + name + "' must be one finite number, at least 0");
    return values[0];
  };
  const auto finite = [&](const char* name, const std::vector<double>& values) {
    if (!std::all_of(values.begin(), values.end(), [](double v) { return std::isfinite(v); }))
      throw fail(std::string("the tensor '") + name + "' has values that are not finite");
  };
  Saved saved;
  saved.step = whole("step", 1, 999'999);
  saved.draws = whole("draws", std::uint32_t{0}, std::numeric_limits<std::uint32_t>::max());
  saved.problem = text("problem");
  saved.history = text("history");
  saved.files = noted_files(file);
  try {
    saved.theta = file.at("theta").values;
    finite("theta", saved.theta);
    saved.gradient_scale = number("gradient_scale");
    saved.next_tau = number("next_tau");
    const Tensor* density = file.find("log_density");
    Matrix<double> previous = matrix_of(file, "previous"), jacobian = matrix_of(file, "jacobian");
    finite("previous", previous.elements());
    finite("jacobian", jacobian.elements());
    saved.cloud = Trajectory::restore(matrix_of(file, "x"), density ? density->values : std::vector<double>(),
                                      std::move(previous), std::move(jacobian), second_order);
  } catch (const IoError&) {
    throw;
  } catch (const Error& error) {
    throw fail(error.what());
  }
  return saved;
}

void RunFolder::forget_after(int step) const {
  if (!writes_) return;
  std::error_code code;
  for (const char* part : {"clouds", "maps"}) {
    std::vector<fs::path> late;
    for (const auto& entry : fs::directory_iterator(path_ / part, code)) {
      if (step_of(entry.path().filename().string()) > step) late.push_back(entry.path());
    }
    for (const fs::path& file : late) fs::remove(file, code);
  }
}

void RunFolder::check_output(const fs::path& out, const std::vector<fs::path>& inputs) const {
  std::error_code code;
  for (const fs::path& input : inputs) {
    if (fs::equivalent(out, input, code))
      throw ValueError("'" + out.string() + "' is read here; choose another file with --out");
  }
  const fs::path place = fs::weakly_canonical(out, code), whole = fs::weakly_canonical(path_, code);
  const fs::path inside = place.lexically_relative(whole);
  bool part = *inside.begin() == "clouds" || *inside.begin() == "maps";
  for (const char* name :
       {"config.toml", "history.csv", "summary.json", "manifest.json", "checkpoint.safetensors"})
    part = part || inside == name;
  if (part)
    throw ValueError("'" + out.string() +
                     "' is a place of the run's own files; choose another one with --out");
}

void RunFolder::remove() const noexcept {
  if (!writes_) return;
  std::error_code code, ignored;
  for (const auto& entry : fs::directory_iterator(path_, code)) {
    if (entry.path().filename() != RunLock::file_name()) fs::remove_all(entry.path(), ignored);
  }
  if (!made_) return;
  // Whoever comes first from here on has the folder, and it stays.
  if (lock_) lock_->release();
  fs::remove(path_, ignored);
}

std::vector<BrenierMap> read_maps(const fs::path& path, int steps, int* unchecked) {
  std::error_code code;
  const auto read = [&](const fs::path& file) {
    bool checked = false;
    BrenierMap map = read_map(file, &checked);
    if (unchecked && !checked) ++*unchecked;
    return map;
  };
  if (unchecked) *unchecked = 0;
  if (fs::is_regular_file(path, code)) return {read(path)};
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
    BrenierMap map = read(entry.path());
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
  return read_text_file(path);
}

}  // namespace brenier::app
