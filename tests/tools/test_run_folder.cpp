// SPDX-License-Identifier: MIT
// Run folders that were edited, damaged, left by killed processes, or asked for by two at once.
#include <doctest/doctest.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "brenier/atomic_file.hpp"
#include "brenier/base/error.hpp"
#include "brenier/npy.hpp"
#include "brenier/safetensors.hpp"
#include "tests/support/app.hpp"
#include "tests/support/child.hpp"
#include "tests/support/near.hpp"
#include "tests/support/run_files.hpp"
#include "tools/runs/manifest.hpp"
#include "tools/runs/run.hpp"
#include "tools/runs/run_folder.hpp"
#include "tools/runs/run_lock.hpp"

using namespace brenier;
using namespace brenier::app;
using namespace brenier::test;

namespace {

/// A run of kTiny with `overrides`, in folder/name.
fs::path finished(const TemporaryFolder& folder, const std::string& name,
                  std::vector<std::string> overrides = {}) {
  RunOptions options;
  options.out = folder.path / name;
  overrides.push_back("output.checkpoint_every=1");
  REQUIRE(run(tiny(overrides), options).status == RunStatus::done);
  return options.out;
}

void replace(const fs::path& file, const std::string& from, const std::string& to) {
  std::string text = read_text(file);
  const std::size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  put(file, text.replace(at, from.size(), to));
}

int code_of(pid_t child) {
  const int status = status_of(child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

std::vector<fs::path> files_of(const fs::path& run) {
  std::vector<fs::path> out;
  for (const auto& entry : fs::recursive_directory_iterator(run)) {
    if (entry.is_regular_file()) out.push_back(fs::relative(entry.path(), run));
  }
  std::sort(out.begin(), out.end());
  return out;
}

}  // namespace

TEST_CASE("a resumed run holds to its settings, whatever config.toml says") {
  const TemporaryFolder folder;
  const std::string run = finished(folder, "run").string();
  const std::string config = read_text(run + "/config.toml"),
                    checkpoint = read_text(run + "/checkpoint.safetensors");
  struct Edit {
    const char *from, *to, *named;
  };
  for (const Edit& edit :
       {Edit{"tau = 0.001\n", "tau = 0.002\n", "flow.tau = 0.002 instead of flow.tau = 0.001"},
        Edit{"seed = 3", "seed = 4", "seed = 4 instead of seed = 3"},
        Edit{"\nm = 2\nweight", "\nm = 3\nweight", "functional.0.m = 3"},
        Edit{"hidden = [7, 5]", "hidden = [7, 6]", "network.hidden"},
        Edit{"rate = 0.01\n", "rate = 0.02\n", "inner.rate = 0.02"}}) {
    put(run + "/config.toml", config);
    replace(run + "/config.toml", edit.from, edit.to);
    const Output refused = command({"resume", run, "--steps", "6"});
    CHECK(refused.code == 2);
    check_contains(refused.err, {edit.named, "start another run"});
    if (std::string(edit.named).starts_with("inner")) continue;
    CHECK(command({"density", run, run + "/clouds/step_000000.npy", "-o", run + "/x.npy"}).code == 2);
  }
  // Cut after a table: defaults would take the place of what is missing.
  put(run + "/config.toml", config.substr(0, config.find("[network]")));
  check_contains(command({"resume", run, "--steps", "6"}).err, {"network.hidden"});
  CHECK(read_text(run + "/checkpoint.safetensors") == checkpoint);
  put(run + "/config.toml", config);
  CHECK(command({"resume", run, "--steps", "6"}).code == 0);
}

TEST_CASE("a resumed run holds to the content of the files that it names") {
  const TemporaryFolder folder;
  const fs::path cloud = folder.path / "cloud.npy";
  Matrix<double> x(20, 1);
  for (Index i = 0; i < 20; ++i) x(i, 0) = 0.1 * static_cast<double>(i);
  write_npy(cloud, x.view());
  const std::string text =
      "precision = \"double\"\n[cloud]\ndensity = \"file\"\npath = \"" + cloud.string() +
      "\"\n[[functional]]\nterm = \"potential\"\nexpression = \"sum(x^2)\"\n[flow]\ntau = 0.1\n"
      "steps = 2\n[network]\nhidden = [3]\n[inner]\niterations = 5\n";
  put(folder.path / "a.toml", text);
  const std::string run = (folder.path / "run").string();
  REQUIRE(command({"run", (folder.path / "a.toml").string(), "--out", run}).code == 0);
  x(0, 0) = 7;
  write_npy(cloud, x.view());
  const Output refused = command({"resume", run, "--steps", "3"});
  CHECK(refused.code == 2);
  check_contains(refused.err, {"another content of the file cloud.path = ", "cloud.npy"});
  x(0, 0) = 0;
  write_npy(cloud, x.view());
  CHECK(command({"resume", run, "--steps", "3"}).code == 0);
}

TEST_CASE("-0 in a configuration is the same number when the run goes on") {
  const TemporaryFolder folder;
  put(folder.path / "a.toml", tiny_with("[network]", "[parameters]\nzero = -0.0\n[network]"));
  const std::string config = (folder.path / "a.toml").string(), out = (folder.path / "run").string();
  REQUIRE(command({"run", config, "--out", out}).code == 0);
  CHECK(command({"run", config, "--out", out, "--resume"}).code == 0);
}

TEST_CASE("flipped bits and cut files are named") {
  const TemporaryFolder folder;
  const fs::path run = finished(folder, "run");
  CHECK(check_files(run, true).damaged.empty());
  CHECK(check_files(run, true).unchecked.empty());
  std::mt19937 random(7);
  for (const fs::path& name : files_of(run)) {
    const std::string whole = read_text(run / name);
    for (int trial = 0; trial < 12; ++trial) {
      std::string bytes = whole;
      if (trial < 8) {
        bytes[random() % bytes.size()] ^= static_cast<char>(1 << random() % 8);
      } else {
        bytes.resize(random() % bytes.size());
      }
      put(run / name, bytes);
      CAPTURE(name.string());
      CAPTURE(trial);
      const FileCheck check = check_files(run, true);
      // A name of metadata may change: the file has no checksum then, and is said to be unchecked.
      const bool named = check.damaged.contains(name.string()) || !check.unchecked.empty();
      // White space of the manifest carries nothing.
      const bool same = name == "manifest.json" && check.damaged.empty();
      CHECK((named || same));
    }
    put(run / name, whole);
  }
  CHECK(check_files(run, true).damaged.empty());

  // What is damaged is not used in silence; what is whole still is.
  const fs::path map = run / "maps" / "step_000004.safetensors";
  std::string bytes = read_text(map);
  bytes[bytes.size() - 5] ^= 1;
  put(map, bytes);
  const std::string cloud = (run / "clouds" / "step_000000.npy").string(),
                    out = (folder.path / "x.npy").string();
  for (const char* name : {"push", "pull", "density"}) {
    const Output refused = command({name, run.string(), cloud, "-o", out});
    CHECK(refused.code == 2);
    check_contains(refused.err, {"step_000004.safetensors", "checksum does not fit"});
    CHECK(command({name, run.string(), cloud, "-o", out, "--step", "3"}).code == 0);
  }
  check_contains(command({"resume", run.string(), "--steps", "6"}).err, {"step_000004.safetensors"});
  check_contains(command({"info", run.string()}).out, {"1 damaged", "DAMAGED: "});
}

TEST_CASE("files of a run that was killed are checked against its checkpoint") {
  const TemporaryFolder folder;
  const fs::path run = folder.path / "run";
  RunOptions options;
  options.out = run;
  options.on_step = [](int step) {
    if (step == 2) throw std::runtime_error("killed");
  };
  const std::vector<std::string> overrides{"output.checkpoint_every=1", "output.every=1"};
  CHECK_THROWS_AS(brenier::app::run(tiny(overrides), options), std::runtime_error);
  CHECK_FALSE(Manifest::read(run).value().files.contains("clouds/step_000001.npy"));
  CHECK(check_files(run, true).damaged.empty());
  const fs::path cloud = run / "clouds" / "step_000001.npy";
  const std::string whole = read_text(cloud);
  std::string flipped = whole;
  flipped[flipped.size() - 3] ^= 4;
  put(cloud, flipped);
  CHECK(check_files(run, true).damaged.contains("clouds/step_000001.npy"));
  put(cloud, whole);
  const std::string history = read_text(run / "history.csv");
  replace(run / "history.csv", "\n2,", "\n2,7");
  options.on_step = nullptr;
  CHECK_THROWS_WITH_AS(resume(tiny(overrides), options), doctest::Contains("are not those of the checkpoint"),
                       IoError);
  put(run / "history.csv", history);
  CHECK(resume(tiny(overrides), options).status == RunStatus::done);
  CHECK(check_files(run, true).damaged.empty());
  CHECK(Manifest::read(run).value().files.contains("clouds/step_000001.npy"));
}

TEST_CASE("a file that a run changes while somebody looks is not called damaged") {
  const TemporaryFolder folder;
  const fs::path run = finished(folder, "run");
  const Manifest whole = Manifest::read(run).value();
  const std::string content = read_text(run / "history.csv");
  std::atomic<bool> end{false};
  // As `resume` does: out of the manifest, the file, into the manifest.
  std::thread writer([&] {
    for (int k = 0; !end; ++k) {
      Manifest manifest = whole;
      manifest.files.erase("history.csv");
      manifest.write(run);
      const std::string text = content + std::to_string(k);
      manifest.files["history.csv"] =
          write_file_atomically(run / "history.csv", std::as_bytes(std::span(text)));
      manifest.write(run);
    }
  });
  std::string said;
  for (int k = 0; k < 300 && said.find("DAMAGED") == std::string::npos; ++k)
    said = check_text(check_files(run, true));
  end = true;
  writer.join();
  CHECK(said.find("DAMAGED") == std::string::npos);  // now and then a file without a checksum
  put(run / "history.csv", content + "damaged");
  CHECK(check_files(run, true).damaged.contains("history.csv"));
}

TEST_CASE("a damaged history is not gone on with, a damaged cloud is said") {
  const TemporaryFolder folder;
  const fs::path run = finished(folder, "run");
  const std::string history = read_text(run / "history.csv");
  replace(run / "history.csv", "\n2,", "\n2,7");
  check_contains(command({"resume", run.string(), "--steps", "6"}).err,
                 {"history.csv", "checksum does not fit"});
  // Also where the run was killed before its last manifest.
  Manifest manifest = *Manifest::read(run);
  manifest.files.erase("history.csv");
  manifest.write(run);
  check_contains(command({"resume", run.string(), "--steps", "6"}).err,
                 {"history.csv", "not those of the checkpoint"});
  put(run / "history.csv", history);
  const fs::path cloud = run / "clouds" / "step_000002.npy";
  std::string bytes = read_text(cloud);
  bytes[bytes.size() - 1] ^= 1;
  put(cloud, bytes);
  const Output resumed = command({"resume", run.string(), "--steps", "6"});
  CHECK(resumed.code == 0);
  check_contains(resumed.out, {"WARNING", "step_000002.npy"});
  check_contains(read_text(run / "summary.json"), {"step_000002.npy"});
}

TEST_CASE("a finished run that is asked to go on ends at once, where its folder is whole") {
  const TemporaryFolder folder;
  const fs::path run = finished(folder, "run");
  const std::string summary = read_text(run / "summary.json"), manifest = read_text(run / "manifest.json");
  const auto processes = [&] {
    return nlohmann::json::parse(read_text(run / "summary.json"))["runs"].size();
  };

  const Output again = command({"resume", run.string(), "--threads", "1", "--device", "cpu"});
  CHECK(again.code == 0);
  check_contains(again.out, {"5 steps were taken before", "F = ", "results in "});
  CHECK(read_text(run / "summary.json") == summary);
  CHECK(read_text(run / "manifest.json") == manifest);
  CHECK(command({"resume", run.string(), "--quiet"}).out.empty());

  // Another output is another folder.
  CHECK(command({"resume", run.string(), "--set", "output.every=1"}).code == 0);
  CHECK(processes() == 2);
  CHECK(load_config(run / "config.toml").clouds_every == 1);
  CHECK(command({"resume", run.string()}).code == 0);
  CHECK(processes() == 2);

  // What was damaged is said, and the end of the run made again.
  const char* const cloud = "step_000000.npy";
  fs::remove(run / "clouds" / cloud);
  check_contains(command({"resume", run.string()}).out, {"WARNING", cloud});
  CHECK(processes() == 3);
  fs::remove(run / "maps" / "step_000003.safetensors");
  const Output missing = command({"resume", run.string()});
  CHECK(missing.code == 2);
  check_contains(missing.err, {"map of step 3 is missing"});
}

TEST_CASE("folders of earlier versions are read, and said to be unchecked") {
  const TemporaryFolder folder;
  const fs::path run = finished(folder, "run");
  fs::remove(run / "manifest.json");
  // Without a checksum, as other programs and earlier versions write maps.
  for (const fs::path& name : files_of(run / "maps")) {
    std::string bytes = read_text(run / "maps" / name);
    const std::size_t at = bytes.find("xxh64");
    REQUIRE(at != std::string::npos);
    put(run / "maps" / name, bytes.replace(at, 5, "other"));
  }
  const std::string cloud = (run / "clouds" / "step_000000.npy").string(),
                    out = (folder.path / "x.npy").string();
  check_contains(command({"push", run.string(), cloud, "-o", out}).out, {"5 maps have no checksums"});
  check_contains(command({"density", run.string(), cloud, "-o", out}).out, {"no manifest.json", "unchecked"});
  const Output resumed = command({"resume", run.string(), "--steps", "6"});
  CHECK(resumed.code == 0);
  check_contains(resumed.out, {"no manifest.json", "unchecked"});
}

TEST_CASE("metadata of a checkpoint are checked") {
  const TemporaryFolder folder;
  const fs::path run = finished(folder, "run");
  const TensorFile whole = read_safetensors(run / "checkpoint.safetensors");
  const RunFolder opened = RunFolder::open(run);
  CHECK(opened.read_checkpoint(false).step == 5);
  for (const char* key : {"step", "draws"}) {
    for (const char* value : {"", "-1", "3abc", "1e3", "99999999999999999999", " 3"}) {
      TensorFile file = whole;
      file.metadata[key] = value;
      write_safetensors(run / "checkpoint.safetensors", file);
      CAPTURE(value);
      CHECK_ERROR(opened.read_checkpoint(false), IoError, "whole number");
    }
  }
  TensorFile file = whole;
  file.metadata["step"] = "0";
  write_safetensors(run / "checkpoint.safetensors", file);
  CHECK_ERROR(opened.read_checkpoint(false), IoError, "from 1 to");
  for (const char* name : {"theta", "x", "gradient_scale", "next_tau"}) {
    file = whole;
    for (Tensor& tensor : file.tensors)
      if (tensor.name == name) tensor.values[0] = std::numeric_limits<double>::quiet_NaN();
    write_safetensors(run / "checkpoint.safetensors", file);
    CAPTURE(name);
    CHECK_ERROR(opened.read_checkpoint(false), IoError, "finite");
  }
  file = whole;
  file.metadata["problem"] = "0000000000000000";
  write_safetensors(run / "checkpoint.safetensors", file);
  check_contains(command({"resume", run.string(), "--steps", "6"}).err, {"other settings"});
}

TEST_CASE("what a killed process leaves is swept up") {
  const TemporaryFolder folder;
  const pid_t dead = in_child([] { return 0; });
  code_of(dead);
  const std::string left = ".brenier-" + std::to_string(dead) + "-0.tmp";
  // Killed at the first write: nothing but a temporary file.
  const fs::path first = folder.path / "first";
  for (const char* part : {"clouds", "maps", "figures"}) fs::create_directories(first / part);
  put(first / left, "half");
  check_contains(command({"resume", first.string()}).err, {"nothing to continue"});
  RunOptions options;
  options.out = first;
  CHECK(run(tiny(), options).status == RunStatus::done);
  CHECK_FALSE(fs::exists(first / left));

  // Later: those of the dead go, that of a living process and its step stay out of it.
  const std::string living = ".brenier-" + std::to_string(::getpid()) + "-77.tmp";
  put(first / "maps" / left, "half");
  put(first / "clouds" / living, "half");
  CHECK(command({"resume", first.string(), "--steps", "6"}).code == 0);
  CHECK_FALSE(fs::exists(first / "maps" / left));
  CHECK(fs::exists(first / "clouds" / living));
  CHECK_FALSE(fs::exists(first / RunLock::file_name()));
}

TEST_CASE("the lock of a run folder") {
  const TemporaryFolder folder;
  const fs::path file = folder.path / RunLock::file_name();
  {
    const RunLock first(folder.path);
    CHECK_ERROR(RunLock(folder.path), IoError, "in use by process " + std::to_string(::getpid()));
    CHECK(fs::exists(file));
  }
  CHECK_FALSE(fs::exists(file));
  // Of a process that was killed.
  CHECK(code_of(in_child([&] {
          new RunLock(folder.path);
          return ::raise(SIGKILL);
        })) == 128 + SIGKILL);
  CHECK(fs::exists(file));
  const std::string stale = read_text(file);
  { const RunLock taken(folder.path); }
  CHECK_FALSE(fs::exists(file));
  // Its number belongs to another process by now.
  std::string reused = stale;
  const std::size_t at = reused.find("process ") + 8;
  put(file, reused.replace(at, reused.find('\n', at) - at, std::to_string(::getpid())));
  { const RunLock taken(folder.path); }
  // Of another host, and of nobody.
  std::string foreign = stale;
  put(file, foreign.replace(foreign.find("host "), 5, "host x"));
  CHECK_ERROR(RunLock(folder.path), IoError, "remove '" + file.string() + "'");
  put(file, "");
  CHECK_ERROR(RunLock(folder.path), IoError, "remove '");
  CHECK(folder.entries() == 1);  // no claims are left
}

TEST_CASE("of two processes one has the folder") {
  for (int pair = 0; pair < 6; ++pair) {
    const TemporaryFolder folder;
    const fs::path out = folder.path / "run";
    const bool resumed = pair >= 3;
    if (resumed) finished(folder, "run");
    const auto start = [&](int seed) {
      return in_child([&, seed] {
        const std::string text = std::to_string(seed);
        if (resumed)
          return command({"resume", out.string(), "--steps", std::to_string(20 + seed), "-q"}).code;
        put(folder.path / (text + ".toml"), kTiny);
        return command({"run", (folder.path / (text + ".toml")).string(), "--out", out.string(), "--seed",
                        text, "-q"})
            .code;
      });
    };
    const pid_t a = start(1), b = start(2);
    const int first = code_of(a), second = code_of(b);
    CAPTURE(pair);
    // Both succeed where one began after the other had ended: of two resumes, only.
    CHECK(((first == 0 && second == 2) || (first == 2 && second == 0) || (resumed && first + second == 0)));
    const FileCheck check = check_files(out, true);
    CHECK(check.damaged.empty());
    CHECK(check.unchecked.empty());
    CHECK(static_cast<int>(read_maps(out).size()) == summary_of(out)["steps"].get<int>());
  }
}
