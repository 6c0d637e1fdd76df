// SPDX-License-Identifier: MIT
// Ctrl-C and SIGTERM at any time of a run: what is left can be resumed, and resuming changes no bit.
#include <doctest/doctest.h>
#include <signal.h>

#include <chrono>
#include <csignal>
#include <iostream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/app.hpp"
#include "tests/support/child.hpp"
#include "tests/support/near.hpp"
#include "tests/support/run_files.hpp"
#include "tools/command/commands.hpp"
#include "tools/runs/interrupt.hpp"
#include "tools/runs/report.hpp"
#include "tools/runs/run.hpp"
#include "tools/runs/run_folder.hpp"

using namespace brenier;
using namespace brenier::app;
using namespace brenier::test;

namespace {

/// Maps, checkpoint and numbers of two runs agree to the bit.
void check_same_state(const fs::path& a, const fs::path& b) {
  CHECK(read_text(a / "checkpoint.safetensors") == read_text(b / "checkpoint.safetensors"));
  const std::vector<HistoryRow> one = history_of(a), two = history_of(b);
  REQUIRE(one.size() == two.size());
  for (std::size_t i = 0; i < one.size(); ++i) {
    CHECK(one[i].functional.total() == two[i].functional.total());
    CHECK(one[i].held_out == two[i].held_out);
  }
  CHECK(summary_of(a)["status"] == summary_of(b)["status"]);
  CHECK(summary_of(a)["functional"] == summary_of(b)["functional"]);
}

}  // namespace

TEST_CASE("a signal right after the folder appears leaves a run that goes on") {
  for (const int signal : InterruptScope::kSignals) {
    for (const int delay : signal == SIGINT || signal == SIGTERM ? std::vector{0, 3, 40} : std::vector{3}) {
      CAPTURE(signal);
      CAPTURE(delay);
      const TemporaryFolder folder;
      const fs::path config = folder.path / "tiny.toml", out = folder.path / "run";
      put(config, kTiny);
      const pid_t child = in_child([&] {
        return command({"run", config.string(), "--out", out.string(), "--set", "flow.steps=100000", "--set",
                        "functional.0.m=3", "--set", "output.every=100000"})
            .code;
      });
      for (int k = 0; k < 20'000 && !fs::exists(out); ++k)
        std::this_thread::sleep_for(std::chrono::microseconds(500));
      std::this_thread::sleep_for(std::chrono::milliseconds(delay));
      CHECK(::kill(child, signal) == 0);
      const int status = status_of(child);
      REQUIRE(WIFEXITED(status));
      CHECK(WEXITSTATUS(status) == 128 + signal);
      REQUIRE(RunFolder::is_run(out));
      CHECK(summary_of(out)["status"] == "interrupted");
      CHECK(summary_of(out)["reason"] == signal_name(signal));
      const int steps = summary_of(out)["steps"].get<int>() + 1;
      CHECK(command({"resume", out.string(), "--steps", std::to_string(steps)}).code == ExitCode::ok);
      CHECK(summary_of(out)["status"] == "done");
      CHECK(read_maps(out).size() == static_cast<std::size_t>(steps));
    }
  }
}

TEST_CASE("a run whose progress nobody reads goes on to its end") {
  const TemporaryFolder folder;
  const std::string config = (folder.path / "tiny.toml").string(), out = (folder.path / "run").string();
  put(config, kTiny);
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  const pid_t child = in_child([&] {
    ::close(ends[0]);
    ::dup2(ends[1], 1);
    const char* words[] = {"brenier", "run", config.c_str(), "--out", out.c_str()};
    std::ostringstream err;
    return run_command_line(5, words, std::cout, err);
  });
  ::close(ends[0]);
  ::close(ends[1]);
  const int status = status_of(child);
  REQUIRE(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == ExitCode::not_written);  // what it printed is lost
  CHECK(summary_of(out)["status"] == "done");
}

TEST_CASE("a signal after the last step counts, and resuming finishes the numbers") {
  const TemporaryFolder folder;
  const Config config = tiny();
  const fs::path whole = run_whole(folder, config);
  RunOptions options = into(folder.path / "parts");
  const RunResult result = run_until(5, SIGTERM, config, options);
  CHECK(result.status == RunStatus::interrupted);
  CHECK(result.steps == 5);
  CHECK(summary_of(options.out)["status"] == "interrupted");
  CHECK(resume(config, options).status == RunStatus::done);
  check_same_state(whole, options.out);
}

TEST_CASE("an interrupt does not wait for all pairs of the held-out cloud") {
  const TemporaryFolder folder;
  const Config config =
      tiny({"functional.0={term = \"interaction\", expression = \"cos(r)\"}", "held_out.pair_limit=5"});
  RunOptions options = into(folder.path / "parts");
  REQUIRE(run_until(2, SIGINT, config, options).status == RunStatus::interrupted);
  CHECK(summary_of(options.out)["heldout_functional"] == history_of(options.out).back().held_out);
  REQUIRE(resume(config, options).status == RunStatus::done);
  // All 101 particles, not the 5 of the limit.
  const std::vector<HistoryRow> rows = history_of(options.out);
  options.out = folder.path / "limited";
  REQUIRE(run_until(5, SIGINT, config, options).status == RunStatus::interrupted);
  CHECK(history_of(options.out).back().functional.total() == rows.back().functional.total());
  CHECK(history_of(options.out).back().held_out != rows.back().held_out);
}

TEST_CASE("a second signal kills, and what it leaves goes on") {
  for (const bool same : {true, false}) {
    const TemporaryFolder folder;
    const Config config = tiny({"output.checkpoint_every=1"});
    RunOptions options = into(folder.path / "parts");
    options.on_step = [&](int step) {
      if (step != 3) return;
      std::raise(SIGINT);
      std::raise(same ? SIGINT : SIGTERM);
    };
    const int status = status_of(in_child([&] {
      run(config, options);
      return 0;
    }));
    REQUIRE(WIFSIGNALED(status));
    CHECK(WTERMSIG(status) == (same ? SIGINT : SIGTERM));
    CHECK(summary_of(options.out)["status"] == "running");
    options.on_step = nullptr;
    CHECK(resume(config, options).status == RunStatus::done);
    check_same_state(run_whole(folder, config), options.out);
  }
}

TEST_CASE("signals that warn are repeated without harm, and one that is ignored stays so") {
  const TemporaryFolder folder;
  const Config config = tiny();
  RunOptions options = into(folder.path / "warned");
  RunResult result;
  options.on_step = [&](int step) {
    if (step != 3) return;
    for (const int signal : {SIGXCPU, SIGXCPU, SIGUSR1, SIGHUP, SIGTERM}) std::raise(signal);
  };
  result = run(config, options);
  CHECK(result.status == RunStatus::interrupted);
  CHECK(result.signal == SIGXCPU);
  options.on_step = nullptr;
  CHECK(resume(config, options).status == RunStatus::done);

  void (*before)(int) = std::signal(SIGHUP, SIG_IGN);
  options.out = folder.path / "nohup";
  CHECK(run_until(2, SIGHUP, config, options).status == RunStatus::done);
  std::signal(SIGHUP, before);
}

TEST_CASE("a run killed before its first summary can be run or resumed") {
  const TemporaryFolder folder;
  const Config config = tiny();
  const fs::path whole = run_whole(folder, config);
  RunOptions options = into(folder.path / "empty");
  for (const char* part : {"clouds", "maps", "figures"}) fs::create_directories(options.out / part);
  CHECK_FALSE(RunFolder::is_run(options.out));
  CHECK(run(config, options).status == RunStatus::done);
  check_same_state(whole, options.out);

  options.out = folder.path / "configured";
  for (const char* part : {"clouds", "maps", "figures"}) fs::create_directories(options.out / part);
  put(options.out / "config.toml", config.resolved);
  CHECK(resume(config, options).status == RunStatus::done);
  check_same_state(whole, options.out);

  // A folder of other things is neither.
  options.out = folder.path / "other";
  fs::create_directories(options.out / "maps");
  put(options.out / "maps" / "a.safetensors", "x");
  CHECK_ERROR(run(config, options), ValueError, "not empty");
  put(options.out / "config.toml", config.resolved);
  CHECK_ERROR(resume(config, options), IoError, "not a run folder");
}

TEST_CASE("the handlers of the caller come back") {
  static volatile std::sig_atomic_t caught = 0;
  void (*before)(int) = std::signal(SIGINT, [](int) { caught = 1; });
  const TemporaryFolder folder;
  RunOptions options = into(folder.path / "run");
  REQUIRE(run(tiny({"flow.steps=1"}), options).status == RunStatus::done);
  CHECK(caught == 0);
  std::raise(SIGINT);
  std::signal(SIGINT, before);
  CHECK(caught == 1);
}
