// SPDX-License-Identifier: MIT
// `brenier descend` and `brenier langevin` on a configuration, against the library's own Descent.
#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "brenier/descent.hpp"
#include "brenier/npy.hpp"
#include "tests/support/app.hpp"
#include "tests/support/near.hpp"
#include "tests/support/run_files.hpp"
#include "tools/runs/run_folder.hpp"

using namespace brenier;
using namespace brenier::app;
using namespace brenier::test;

namespace {

constexpr const char* kWell = R"toml(seed = 5
[cloud]
density = "gaussian"
dim = 2
variance = 4.0
particles = 50
[[functional]]
term = "entropy"
weight = 0.5
[[functional]]
term = "potential"
expression = "0.5*sum(x^2)"
[flow]
start_time = 1.0
tau = 0.1
steps = 4
)toml";

}  // namespace

TEST_CASE("langevin: clouds at the times of the flow's steps, those of the library") {
  const TemporaryFolder folder;
  const fs::path config = folder.path / "well.toml", out = folder.path / "out";
  put(config, kWell);
  const Output done = command({"langevin", config.string(), "-o", out.string(), "--substeps", "10", "--every",
                               "3", "--threads", "1"});
  CHECK(done.err == "");
  REQUIRE(done.code == ExitCode::ok);
  check_contains(done.out, {"50 particles, 4 steps", "without its entropy"});
  const Config problem = load_config(config);
  Descent expected(problem.functional, problem.initial_cloud().x,
                   {.method = DescentOptions::Method::langevin, .rate = 0.01, .seed = 5, .threads = 1});
  for (int step = 0; step <= 4; ++step) {
    const fs::path cloud = out / "clouds" / ("step_00000" + std::to_string(step) + ".npy");
    CHECK(fs::exists(cloud) == (step % 3 == 0 || step == 4));
    if (fs::exists(cloud)) CHECK(read_npy(cloud).elements() == expected.x().elements());
    for (int k = 0; k < 10; ++k) expected.step();
  }
  const auto summary = nlohmann::json::parse(read_text(out / "summary.json"));
  CHECK(summary["updates"] == 40);
  CHECK_REL(summary["time"].get<double>(), 1.4, 1e-12);
  check_contains(read_text(out / "history.csv"), {"step,time,total,", "\n3,1.3", "\n4,1.4"});

  check_contains(command({"langevin", config.string(), "-o", out.string()}).err, {"exists and is not empty"});
  const Output adaptive = command({"langevin", config.string(), "-o", (folder.path / "a").string(), "--set",
                                   "flow.tau=auto", "--set", "flow.end_time=2"});
  CHECK(adaptive.code == ExitCode::bad_input);
  check_contains(adaptive.err, {"flow.tau = \"auto\"", "--set flow.tau"});
  CHECK_FALSE(fs::exists(folder.path / "a"));
}

TEST_CASE("descend: the method and the rate are those asked for; an internal energy is refused") {
  const TemporaryFolder folder;
  const fs::path config = folder.path / "well.toml";
  put(config, kWell);
  const Output refused = command({"descend", config.string(), "-o", (folder.path / "a").string()});
  CHECK(refused.code == ExitCode::bad_input);
  check_contains(refused.err, {"internal energy"});
  CHECK_FALSE(fs::exists(folder.path / "a"));

  std::string text = kWell;
  text.erase(text.find("[[functional]]"),
             std::string("[[functional]]\nterm = \"entropy\"\nweight = 0.5\n").size());
  put(config, text);
  const Config problem = load_config(config);
  for (const std::string method : {"sgd", "adam"}) {
    const fs::path out = folder.path / method;
    const Output done = command(
        {"descend", config.string(), "-o", out.string(), "--method", method, "--rate", "0.3", "--seed", "7"});
    REQUIRE(done.code == ExitCode::ok);
    Config seven = load_config(config, {"seed=7"});
    Descent expected(seven.functional, seven.initial_cloud().x,
                     {.method = method == "sgd" ? DescentOptions::Method::sgd : DescentOptions::Method::adam,
                      .rate = 0.3});
    for (int k = 0; k < 4; ++k) expected.step();
    CHECK(read_npy(out / "clouds" / "step_000004.npy").elements() == expected.x().elements());
  }
}

TEST_CASE("langevin: updates that are too long for V are said to be, with the substeps that are not") {
  const TemporaryFolder folder;
  const fs::path config = folder.path / "stiff.toml";
  const auto moved = [&](const std::string& curvature, const std::string& substeps, const std::string& name) {
    std::string text = kWell;
    const std::string half = "0.5*sum(x^2)";
    put(config, text.replace(text.find(half), half.size(), curvature + "*0.5*sum(x^2)"));
    return command(
        {"langevin", config.string(), "-o", (folder.path / name).string(), "--substeps", substeps});
  };
  // Updates of 0.01 at a curvature of 180: the variance is 1/(1 - 1.8/2) of the right one.
  const Output biased = moved("180", "10", "biased");
  CHECK(biased.code == ExitCode::ok);
  check_contains(biased.out, {"WARNING", "180", "900 % too large", "--substeps 180 makes that 5 %"});
  check_contains(summary_of(folder.path / "biased")["warnings"].dump(), {"--substeps 180"});
  CHECK(moved("180", "180", "enough").out.find("WARNING") == std::string::npos);
  CHECK(summary_of(folder.path / "enough")["warnings"].empty());
  CHECK(summary_of(folder.path / "enough")["status"] == "done");

  const Output unstable = moved("1e9", "40", "unstable");
  CHECK(unstable.code == ExitCode::failed);
  check_contains(unstable.err, {"not finite after", "unstable", "--substeps 1000000000"});
  CHECK(unstable.err.find("rate") == std::string::npos);
}

TEST_CASE("descend: F that rises is no success") {
  const TemporaryFolder folder;
  const fs::path config = folder.path / "well.toml";
  std::string text = kWell;
  text.erase(text.find("[[functional]]"),
             std::string("[[functional]]\nterm = \"entropy\"\nweight = 0.5\n").size());
  put(config, text);
  const auto descend = [&](const std::string& rate) {
    return command(
        {"descend", config.string(), "-o", (folder.path / rate).string(), "--method", "sgd", "--rate", rate});
  };
  const Output up = descend("1e4");
  CHECK(up.code == ExitCode::unsolved);
  check_contains(up.out, {"WARNING: F rose from ", "use a rate below 10000"});
  CHECK(summary_of(folder.path / "1e4")["status"] == "unsolved");
  CHECK(descend("5").code == ExitCode::ok);
  CHECK(summary_of(folder.path / "5")["status"] == "done");
}

TEST_CASE("a potential that depends on time is for flows: langevin and descend say so by their names") {
  const TemporaryFolder folder;
  const fs::path config = folder.path / "moving.toml";
  std::string text = kWell;
  text.replace(text.find("0.5*sum(x^2)"), std::string("0.5*sum(x^2)").size(), "0.5*sum((x - time)^2)");
  put(config, text);
  for (const std::string name : {"langevin", "descend"}) {
    const Output refused = command({name, config.string(), "-o", (folder.path / name).string()});
    CHECK(refused.code == ExitCode::bad_input);
    check_contains(refused.err, {"moving.toml: V depends on `time`", name.c_str(), "brenier run"});
    CHECK_FALSE(fs::exists(folder.path / name));
  }
}
