// SPDX-License-Identifier: MIT
// The files of one run:
//
//   config.toml                  all keys with their effective values; loads again
//   history.csv                  a row per step
//   summary.json                 where the run stands, and its results
//   clouds/step_000010.npy       particles (N, d), with clouds/log_density_000010.npy (N) where they are
//                                known
//   maps/step_000010.safetensors the map of each step; the shorter steps at the start of order 2 are
//                                maps/step_000001_start_1.safetensors, ...
//   manifest.json                settings, checksums of what they name and of the files above (manifest.hpp)
//   checkpoint.safetensors       what `brenier resume` needs beside the maps
//   figures/                     of `brenier plot`, and exact_density.npy: columns t, x, rho
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "brenier/flow.hpp"
#include "brenier/safetensors.hpp"
#include "tools/runs/run_lock.hpp"

namespace brenier::app {

/// The state of a flow after a step.
struct Saved {
  Trajectory cloud;
  std::vector<double> theta;
  double gradient_scale = 0;
  double next_tau = 0;
  std::uint32_t draws = 0;
  int step = 0;
  std::string problem;  // checksum of the settings; empty: unchecked
  // Of the rows of history.csv up to this step, without times of day and F on the held-out cloud, which is computed once more
  // where a run ends: checkpoints are the same wherever a run was interrupted. Empty: unchecked, or in the manifest.
  std::string history;
  std::map<std::string, std::string>
      files;  // checksums of the clouds so far: the manifest has them at the end
};

/// Names and content of a run folder. Every file is written whole or not at all. One that was made or opened to
/// write holds the folder's lock for as long as a copy of it lives.
class RunFolder {
 public:
  /// Makes the folder with its subfolders. ValueError: it exists and is not empty (what a run that was killed
  /// before its first step leaves does not count, and is removed). IoError: it cannot be made, another process
  /// has its lock.
  static RunFolder create(const std::filesystem::path& path);
  /// To read. IoError: the folder is no run.
  static RunFolder open(const std::filesystem::path& path);
  /// To go on with. Removes temporary files that a killed process left. IoError: the folder is no run, another
  /// process has its lock.
  static RunFolder open_to_write(const std::filesystem::path& path);
  /// Makes runs/STEM-N with the first N >= 1 that is free, also where other processes look for one at once.
  static RunFolder create_numbered(const std::string& stem);
  /// For a process that computes a run which another one writes: reads, and leaves all writing out.
  static RunFolder beside(const std::filesystem::path& path);
  bool writes() const { return writes_; }
  /// Whether it has a config.toml and the subfolders; a run that was killed early has nothing more.
  static bool is_run(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path config() const { return path_ / "config.toml"; }
  std::filesystem::path history() const { return path_ / "history.csv"; }
  std::filesystem::path summary() const { return path_ / "summary.json"; }
  std::filesystem::path checkpoint() const { return path_ / "checkpoint.safetensors"; }
  std::filesystem::path figures() const { return path_ / "figures"; }
  std::filesystem::path cloud(int step) const;
  std::filesystem::path log_density(int step) const;

  /// Returns the checksum.
  std::string write_text(const std::filesystem::path& file, const std::string& text) const;
  /// Turns the status "running" of summary.json into "failed"; on a full disk in place, with one call.
  void mark_failed() const noexcept;
  /// Returns names in the folder with checksums.
  std::map<std::string, std::string> write_cloud(int step, const Trajectory& cloud) const;
  /// Maps number `first` and later of a flow.
  void write_maps(const std::vector<BrenierMap>& maps, std::size_t first) const;
  void write_checkpoint(const Saved& saved) const;
  /// IoError: the file is missing, damaged, or has no such content. `second_order` as for Trajectory.
  Saved read_checkpoint(bool second_order) const;
  /// Removes clouds and maps of later steps, which a killed run left behind its last checkpoint.
  void forget_after(int step) const;
  /// ValueError: writing `out` would replace a file that the run consists of, or one of `inputs`, which it reads.
  void check_output(const std::filesystem::path& out,
                    const std::vector<std::filesystem::path>& inputs = {}) const;
  /// Undoes create(): removes what was written.
  void remove() const noexcept;

 private:
  RunFolder(std::filesystem::path path, bool made, std::shared_ptr<RunLock> lock = {})
      : path_(std::move(path)), made_(made), lock_(std::move(lock)) {}
  /// With its subfolders.
  void make_parts() const;
  void sweep() const;
  std::filesystem::path path_;
  bool made_;  // this process made the folder
  bool writes_ = true;
  std::shared_ptr<RunLock> lock_;
};

/// The step in "step_000010.npy" or "clouds/log_density_000010.npy"; -1 where there is none.
int step_of(const std::string& name);

/// Saved::files of a checkpoint.
std::map<std::string, std::string> noted_files(const TensorFile& checkpoint);

/// All maps of a run folder, of a folder of maps, or one map file, in the order they apply, up to `steps`
/// steps (0: all). `unchecked` gets the number of those without a checksum. IoError: no maps, a step that is missing,
/// a file that is no map or damaged.
std::vector<BrenierMap> read_maps(const std::filesystem::path& path, int steps = 0, int* unchecked = nullptr);

/// The text of a file. IoError.
std::string read_text(const std::filesystem::path& path);

}  // namespace brenier::app
