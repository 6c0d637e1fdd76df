// SPDX-License-Identifier: MIT
// The command: closed forms, run folders, resuming, pushing, exit codes.
#include <doctest/doctest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "brenier/npy.hpp"
#include "brenier/oracles.hpp"
#include "brenier/wasserstein.hpp"
#include "engine/src/config/config.hpp"
#include "kernels/base/moments.hpp"
#include "tests/support/app.hpp"
#include "tests/support/near.hpp"
#include "tests/support/run_files.hpp"
#include "tools/command/commands.hpp"
#include "tools/runs/reference.hpp"
#include "tools/runs/report.hpp"
#include "tools/runs/run.hpp"
#include "tools/runs/run_folder.hpp"

using namespace brenier;
using namespace brenier::app;
using namespace brenier::test;

namespace {

/// history.csv without its last four columns, wall times.
std::string without_seconds(const std::string& history) {
  std::istringstream in(history);
  std::string line, out;
  while (std::getline(in, line)) {
    for (int column = 0; column < 4; ++column) line.resize(line.rfind(','));
    out += line + "\n";
  }
  return out;
}

/// Every file of two runs agrees to the bit, but for wall times.
void check_same_run(const fs::path& a, const fs::path& b) {
  std::size_t files = 0;
  for (const auto& entry : fs::recursive_directory_iterator(a)) {
    if (!entry.is_regular_file()) continue;
    const fs::path name = fs::relative(entry.path(), a);
    CAPTURE(name.string());
    REQUIRE(fs::exists(b / name));
    ++files;
    if (name == "summary.json" || name == "manifest.json") continue;  // have times, and checksums of times
    if (name == "history.csv") {
      CHECK(without_seconds(read_text(a / name)) == without_seconds(read_text(b / name)));
    } else {
      CHECK(read_text(a / name) == read_text(b / name));
    }
  }
  CHECK(files >= 12);
  const auto count = [](const fs::path& folder) {
    return std::distance(fs::recursive_directory_iterator(folder), fs::recursive_directory_iterator());
  };
  CHECK(count(a) == count(b));
  nlohmann::json one = summary_of(a), two = summary_of(b);
  for (nlohmann::json* summary : {&one, &two}) {
    summary->erase("seconds_total");
    summary->erase("seconds_share");
    summary->erase("runs");  // one for each process
    (*summary)["inner"].erase("seconds_median");
  }
  CHECK(one == two);
}

}  // namespace

TEST_CASE("closed forms are found and right") {
  // A weight on F is a factor of time: 2 F at tau is F at 2 tau, twice as large.
  const auto one = find_reference(tiny({"flow.tau=2e-3"}));
  const auto two = find_reference(tiny({"functional.0.weight=2"}));
  REQUIRE(one);
  REQUIRE(two);
  CHECK_REL(two->exact(4e-3).functional, 2 * one->exact(8e-3).functional, tol<double>(8));
  CHECK_REL(two->scheme(5).deviation, one->scheme(5).deviation, tol<double>(64));
  const Barenblatt profile(1, 2);
  CHECK_REL(one->exact(5e-3).functional, profile.energy(6e-3), tol<double>(64));
  CHECK_REL(one->exact(5e-3).deviation, profile.standard_deviation(6e-3), tol<double>(64));
  const double x = 0.1;
  CHECK_REL(one->exact_density(5e-3, {x})[0], profile.density({&x, 1}, 6e-3), tol<double>(256));

  // Ornstein-Uhlenbeck with a displaced centre: V = x^2/2 - 0.3 x + 1 pulls to 0.3.
  const Config gaussian = parse_config(
      "[cloud]\ndensity = \"gaussian\"\nmean = 2\nvariance = 4\nparticles = 9\n[[functional]]\nterm = "
      "\"entropy\"\n"
      "[[functional]]\nterm = \"potential\"\nexpression = \"0.5*sum(x^2) - 0.3*x[0] + 1\"\n[flow]\ntau = "
      "0.1\nsteps = 2\n",
      "g.toml", ".");
  const auto flow = find_reference(gaussian);
  REQUIRE(flow);
  const double decay = std::exp(-0.7);
  const double mean = 0.3 + 1.7 * decay, variance = 1 + 3 * decay * decay;
  const double entropy = -0.5 * std::log(2 * M_PI * M_E * variance);
  CHECK_REL(flow->exact(0.7).functional, entropy + 0.5 * (variance + mean * mean) - 0.3 * mean + 1,
            tol<double>(64));
  CHECK_REL(flow->exact(0.7).deviation, std::sqrt(variance), tol<double>(64));
  const double s = (1 / 0.1 * 2 + std::sqrt(4 / 0.01 + 4 * (1 / 0.1 + 1))) /
                   (2 * (1 / 0.1 + 1));  // design: JKO of a Gaussian
  CHECK_REL(flow->scheme(1).deviation, s, tol<double>(64));

  // A stated steady state: the quantiles of a uniform density on [0, 2].
  const Config stated =
      tiny({"exact.density=\"0.5*max(0, min(1, 1e9*x[0]*(2 - x[0])))\"", "exact.functional=0.25"});
  const auto steady = find_reference(stated);
  REQUIRE(steady);
  CHECK(std::isnan(steady->exact(0.002).functional));
  CHECK(steady->exact(0.005).functional == 0.25);
  const std::vector<double> quantiles = steady->exact_quantiles(0.005, 4);
  REQUIRE(quantiles.size() == 4);
  for (int i = 0; i < 4; ++i)
    CHECK_REL(quantiles[i], 0.25 + 0.5 * i, 1e-3);  // the grid's cells are 1e-4 wide

  // Half of the mass beyond a gap that is wider than the first grid.
  const auto gap =
      find_reference(tiny({"exact.density=\"(exp(-50*x[0]^2) + exp(-50*(x[0]-5)^2))/(0.4*sqrt(pi/2))\""}));
  REQUIRE(gap);
  const std::vector<double> sides = gap->exact_quantiles(0.005, 4);
  REQUIRE(sides.size() == 4);
  CHECK(std::abs(sides[1] + sides[0]) < 1e-3);
  CHECK(std::abs(sides[2] + sides[3] - 10) < 1e-3);

  CHECK(find_reference(tiny({"functional.0.m=3", "cloud.m=2"})) == nullptr);
  CHECK(find_reference(parse_config(gaussian.resolved, "g.toml", ".", {"flow.tau=1e300"})) == nullptr);
}

TEST_CASE("numbers of reports") {
  Matrix<double> x(4, 1);
  x.elements() = {3, 1, 2, 4};
  CHECK_REL(moments(x).deviation, std::sqrt(1.25), tol<double>(4));
  CHECK_REL(wasserstein_1d(x.elements(), std::vector<double>{1.5, 2.5, 3.5, 4.5}), 0.5, tol<double>(4));
  CHECK(median({3, 1, 2}) == 2);
  CHECK(median({4, 1, 3, 2}) == 2.5);
  CHECK(std::isnan(median({})));

  HistoryRow row;
  row.step = 7;
  row.functional.internal = 0.1 + 0.2;
  row.iterations = 12;
  row.solved = false;
  row.log_det_method = LogDetOptions::Method::cg;
  row.cg.unconverged = 1234567890123;
  row.held_out = NAN;
  row.exact = -INFINITY;
  const std::string text = history_text({row, row});
  const std::vector<HistoryRow> back = parse_history(text, "h.csv");
  REQUIRE(back.size() == 2);
  CHECK(back[1].functional.total() == row.functional.total());
  CHECK(back[1].iterations == 12);
  CHECK_FALSE(back[1].solved);
  CHECK(back[1].log_det_method == LogDetOptions::Method::cg);
  CHECK(back[1].cg.unconverged == row.cg.unconverged);
  CHECK(std::isnan(back[0].held_out));
  CHECK(back[0].exact == row.exact);
  CHECK(history_text(back) == text);
  CHECK_ERROR(parse_history("a,b\n", "h.csv"), IoError, "header");
  CHECK_ERROR(parse_history("a,b\n", "h.csv"), IoError, "run its config.toml again");
  CHECK_ERROR(parse_history(text + "8,x\n", "h.csv"), IoError, "line 4");
  for (const char* step : {"7.5", "-1", "1e300", ""}) {
    CAPTURE(step);
    CHECK_ERROR(parse_history(text + step + ",0\n", "h.csv"), IoError, "no value of step");
  }
}

TEST_CASE("a run leaves a complete folder") {
  const TemporaryFolder folder;
  RunOptions options = into(folder.path / "run");
  const Config config = tiny();
  CHECK(run(config, options).status == RunStatus::done);

  const nlohmann::json summary = summary_of(options.out);
  for (const char* key :
       {"status", "seed", "dim", "particles", "steps", "tau", "order", "time", "functional", "exact", "error",
        "heldout_functional", "inner", "seconds_total", "backend", "threads", "version"}) {
    CAPTURE(key);
    CHECK(summary.contains(key));
  }
  for (const char* key : {"functional_abs", "std_rel", "w2"}) CHECK(summary["error"].contains(key));
  for (const char* key : {"iterations_total", "seconds_median", "residual"})
    CHECK(summary["inner"].contains(key));
  CHECK(summary["status"] == "done");
  CHECK(summary["steps"] == 5);
  CHECK(summary["inner"]["iterations_total"] == 5 * 23);
  CHECK_REL(summary["time"].get<double>(), 6e-3, tol<double>(8));
  CHECK_REL(summary["exact"]["functional"].get<double>(), Barenblatt(1, 2).energy(6e-3), tol<double>(64));
  CHECK(summary["functional"]["total"] == summary["functional"]["internal"]);

  const std::vector<HistoryRow> rows = history_of(options.out);
  REQUIRE(rows.size() == 6);
  for (int k = 0; k < 6; ++k) CHECK(rows[k].step == k);
  CHECK(rows[5].functional.total() == summary["functional"]["total"]);
  const nlohmann::json& share = summary["seconds_share"];
  for (const char* part : {"inner", "clouds", "certificates"}) CHECK(share[part] > 0.0);
  CHECK(share["inner"].get<double>() + share["clouds"].get<double>() + share["certificates"].get<double>() <=
        1);
  CHECK(rows[5].held_out == summary["heldout_functional"]);
  CHECK(rows[5].functional.total() < rows[0].functional.total());
  CHECK(fs::exists(options.out / "checkpoint.safetensors"));
  CHECK(load_config(options.out / "config.toml").resolved == config.resolved);
  for (const char* name : {"step_000000.npy", "step_000002.npy", "step_000004.npy", "step_000005.npy",
                           "log_density_000000.npy", "log_density_000005.npy"}) {
    CAPTURE(name);
    CHECK(read_npy(options.out / "clouds" / name).rows() == 37);
  }
  CHECK_FALSE(fs::exists(options.out / "clouds" / "step_000003.npy"));
  CHECK(read_maps(options.out).size() == 5);
  CHECK(read_maps(options.out, 3).back().step == 3);
  CHECK(read_npy(options.out / "figures" / "exact_density.npy").cols() == 3);

  CHECK_ERROR(run(config, options), ValueError, "not empty");
  put(folder.path / "file", "x");
  options.out = folder.path / "file";
  CHECK_ERROR(run(config, options), ValueError, "not a folder");
  options.out = folder.path / "file" / "run";
  CHECK_ERROR(run(config, options), IoError, "cannot be made");
}

TEST_CASE(
    "run: stochastic log-determinants in history.csv, summary.json and, where solves fail, the progress") {
  const TemporaryFolder folder;
  const auto run_with = [&](std::vector<std::string> overrides, const std::string& name, std::string& log) {
    overrides.insert(overrides.begin(), "cloud.dim=2");
    RunOptions options = into(folder.path / name);
    std::ostringstream text;
    options.log = &text;
    REQUIRE(run(tiny(overrides), options).status == RunStatus::done);
    log = text.str();
    return std::pair(summary_of(options.out)["inner"]["log_det"], history_of(options.out));
  };
  std::string log;
  const auto [exact, exact_rows] = run_with({"inner.logdet=exact"}, "exact", log);
  CHECK(exact["method"] == "exact");
  CHECK_FALSE(exact.contains("error"));
  CHECK(std::isnan(exact_rows.back().log_det_error));
  CHECK(exact_rows.back().log_det_method == LogDetOptions::Method::exact);

  const auto [sound, rows] = run_with({"inner.logdet=cg", "inner.cg_tolerance=1e-6"}, "cg", log);
  CHECK(sound["method"] == "cg");
  CHECK(sound["unconverged_total"] == 0);
  CHECK(sound["indefinite_total"] == 0);
  CHECK(sound["worst_residual"].get<double>() <= 1e-6);
  CHECK(sound["deviation"].get<double>() > 0);
  CHECK(log.find("solves") == std::string::npos);
  CHECK(rows.back().log_det_method == LogDetOptions::Method::cg);
  CHECK(rows.back().log_det_error == sound["error"].get<double>());
  CHECK(std::abs(rows.back().log_det_error) <= 4 * rows.back().log_det_deviation);

  const std::vector<std::string> few = {"inner.logdet=cg", "inner.cg_tolerance=1e-12",
                                        "inner.cg_iterations=1"};
  const auto [unsolved, unsolved_rows] = run_with(few, "few", log);
  CHECK(unsolved["unconverged_total"].get<double>() > 0);
  CHECK(unsolved_rows.back().cg.unconverged > 0);
  CHECK(unsolved_rows.back().cg.worst_residual > 1e-12);
  const std::size_t told = log.find("solves ended above inner.cg_tolerance");
  REQUIRE(told != std::string::npos);
  CHECK(log.find("solves ended", told + 1) == std::string::npos);  // once
}

TEST_CASE("the same seed gives the same files for any number of threads") {
  const TemporaryFolder folder;
  RunOptions options;
  for (const char* threads : {"1", "3"}) {
    options.out = folder.path / threads;
    run(tiny({"threads=" + std::string(threads)}), options);
  }
  CHECK(read_text(folder.path / "1" / "checkpoint.safetensors") ==
        read_text(folder.path / "3" / "checkpoint.safetensors"));
  options.out = folder.path / "other";
  run(tiny({"seed=4"}), options);
  CHECK(read_text(folder.path / "1" / "checkpoint.safetensors") !=
        read_text(folder.path / "other" / "checkpoint.safetensors"));
}

TEST_CASE("an interrupted run is valid, and resuming it changes no bit") {
  for (const std::vector<std::string>& overrides : {std::vector<std::string>{"output.checkpoint_every=1"},
                                                    {"flow.order=2"},
                                                    {"precision=float", "inner.warm_start=false"},
                                                    {"inner.refresh=9", "cloud.sampling=random"},
                                                    {"inner.pool=3", "inner.refresh=9", "flow.order=2"}}) {
    CAPTURE(overrides[0]);
    const TemporaryFolder folder;
    const Config config = tiny(overrides);
    const fs::path whole = run_whole(folder, config);
    RunOptions options = into(folder.path / "parts");
    const RunResult result = run_until(3, SIGINT, config, options);
    CHECK(result.status == RunStatus::interrupted);
    CHECK(result.steps == 3);
    const nlohmann::json summary = summary_of(options.out);
    CHECK(summary["status"] == "interrupted");
    CHECK(summary["steps"] == 3);
    CHECK(summary.contains("heldout_functional"));
    CHECK(read_npy(options.out / "clouds" / "step_000003.npy").rows() == 37);
    CHECK(history_of(options.out).size() == 4);

    CHECK(resume(config, options).status == RunStatus::done);
    fs::remove(options.out / "clouds" / "step_000003.npy");  // only the interrupt wrote these
    fs::remove(options.out / "clouds" / "log_density_000003.npy");
    check_same_run(whole, options.out);
  }
}

TEST_CASE("a killed run goes on from its last checkpoint, and longer than planned") {
  const TemporaryFolder folder;
  const fs::path whole = run_whole(folder, tiny({"output.checkpoint_every=2"}));
  RunOptions options = into(folder.path / "parts");
  struct Killed {};
  options.on_step = [](int step) {
    if (step == 3) throw Killed{};  // past the checkpoint of step 2
  };
  CHECK_THROWS_AS(run(tiny({"output.checkpoint_every=2"}), options), Killed);
  CHECK(summary_of(options.out)["status"] == "running");
  CHECK(summary_of(options.out)["steps"] == 2);
  options.on_step = nullptr;
  CHECK_ERROR(resume(tiny({"flow.tau=2e-3"}), options), ConfigError,
              "flow.tau = 0.002 instead of flow.tau = 0.001");
  CHECK_ERROR(resume(tiny({"parameters.steps=2"}), options), ConfigError, "other settings");
  CHECK(resume(tiny({"output.checkpoint_every=2"}), options).status == RunStatus::done);
  check_same_run(whole, options.out);

  CHECK(resume(tiny({"flow.steps=7"}), options).steps == 7);
  CHECK_ERROR(resume(tiny({"flow.steps=6"}), options), ConfigError, "7 steps already");
  CHECK(load_config(options.out / "config.toml").steps == 7);
  CHECK(summary_of(options.out)["steps"] == 7);
  options.out = folder.path / "seven";
  run(tiny({"flow.steps=7"}), options);
  CHECK(read_text(folder.path / "parts" / "checkpoint.safetensors") ==
        read_text(folder.path / "seven" / "checkpoint.safetensors"));
}

TEST_CASE("runs without a name that begin at once get folders of their own") {
  const TemporaryFolder folder;
  const fs::path before = fs::current_path();
  fs::current_path(folder.path);
  std::vector<fs::path> made(8);
  std::vector<std::thread> runs;
  for (fs::path& path : made) {
    runs.emplace_back([&path] { path = RunFolder::create_numbered("same").path(); });
  }
  for (std::thread& one : runs) one.join();
  fs::current_path(before);
  std::sort(made.begin(), made.end());
  CHECK(std::unique(made.begin(), made.end()) == made.end());
  CHECK(made.front() == fs::path("runs") / "same-1");
  CHECK(made.back() == fs::path("runs") / "same-8");
}

TEST_CASE("a run that diverges is kept and says why") {
  const TemporaryFolder folder;
  RunOptions options = into(folder.path / "run");
  const RunResult result = run(tiny({"inner.rate=1e30", "inner.retries=1"}), options);
  CHECK(result.status == RunStatus::failed);
  check_contains(result.reason, {"step 1", "diverged"});
  const nlohmann::json summary = summary_of(options.out);
  CHECK(summary["status"] == "failed");
  CHECK(summary["reason"] == result.reason);
  CHECK(summary["steps"] == 0);
  CHECK(history_of(options.out).size() == 1);

  // It goes on with another rate, as the message advises, but with no other flow.
  CHECK_ERROR(resume(tiny({"flow.tau=2e-3"}), options), ConfigError, "[inner]");
  CHECK(resume(tiny(), options).status == RunStatus::done);
  CHECK_ERROR(resume(tiny({"inner.rate=1e-3"}), options), ConfigError, "where it has failed");
  check_same_run(run_whole(folder, tiny()), options.out);
}

TEST_CASE("a quiet run that diverges says so") {
  const TemporaryFolder folder;
  const std::string config = (folder.path / "tiny.toml").string();
  put(config, kTiny);
  const Output quiet = command({"run", config, "-q", "--out", (folder.path / "run").string(), "--set",
                                "inner.rate=1e30", "--set", "inner.retries=1"});
  CHECK(quiet.code == ExitCode::failed);
  CHECK(quiet.out.empty());
  check_contains(quiet.err, {"run: the flow failed after 0 steps", "diverged"});
}

TEST_CASE("an option with an empty value is refused, and nothing written") {
  const TemporaryFolder folder;
  const std::string config = (folder.path / "tiny.toml").string();
  put(config, kTiny);
  for (const char* option : {"--out", "--device", "--set"}) {
    const Output empty = command({"run", config, option, ""});
    CHECK(empty.code == ExitCode::bad_input);
    check_contains(empty.err, {option, "empty"});
  }
  for (const char* option : {"-o-dash", "--out=-dash"}) {
    const Output dash = command({"run", config, option});
    CHECK(dash.code == ExitCode::bad_input);
    check_contains(dash.err, {"dash"});
  }
  CHECK_FALSE(fs::exists("-dash"));
  check_contains(command({"run", config, "--out=-dash"}).err, {"./-dash"});
  const std::string link = (folder.path / "link").string();
  fs::create_symlink("nowhere", link);
  const Output dangling = command({"run", config, "-o", link});
  CHECK(dangling.code == ExitCode::bad_input);
  check_contains(dangling.err, {"a link to 'nowhere'", "choose another"});
  check_contains(command({"push", "", config, "--out", "x.npy"}).err, {"RUN", "empty"});
  CHECK(command({"plot", folder.path.string(), "--out", ""}).code == ExitCode::bad_input);
}

TEST_CASE("infima are found, and falling below them or away from the sample is told") {
  const auto with_functional = [](const std::string& terms) {
    return parse_config("[cloud]\ndensity = \"uniform\"\nlower = [-1, -1]\nupper = [1, 1]\nparticles = 9\n" +
                            terms + "[flow]\ntau = 0.1\nsteps = 2\n",
                        "u.toml", ".");
  };
  const std::string entropy = "[[functional]]\nterm = \"entropy\"\nweight = 2\n";
  const std::string well =
      "[[functional]]\nterm = \"potential\"\nexpression = \"1.5*sum(x^2) - 0.3*x[0] + 1\"\n";
  const std::string porous = "[[functional]]\nterm = \"porous_medium\"\nm = 2\n";
  // int exp(-V/2) is (2 pi 2/3) exp(-minimum/2), the minimum of V being 1 - 0.3^2/6.
  const Config gaussian = with_functional(entropy + well);
  const double infimum = -2 * std::log(2 * M_PI * 2 / 3) + 1 - 0.015;
  CHECK_REL(known_infimum(gaussian), infimum, tol<double>(64));
  CHECK(known_infimum(with_functional(entropy)) == -INFINITY);
  CHECK(known_infimum(with_functional(porous)) == 0);
  CHECK(known_infimum(tiny({"exact.functional=-1.5"})) == -1.5);
  // d = 1, m = 2, V = x^2: rho = C - x^2/2 on |x| < R, with C = R^2/2 and mass 2 R^3/3 = 1. F is (1/2) (C +
  // E[x^2]).
  const Config drift = tiny(
      {"functional=[{term = \"porous_medium\", m = 2}, {term = \"potential\", expression = \"sum(x^2)\"}]"});
  const double square = std::pow(1.5, 2.0 / 3);
  CHECK_REL(known_infimum(drift), 0.5 * square + square / 10, 1e-9);

  HistoryRow start;
  start.functional.internal = infimum + 1;
  start.held_out = infimum + 1.2;
  const auto warnings = [&](double functional, double held_out) {
    return overfitting(gaussian, {start}, functional, held_out);
  };
  CHECK(warnings(infimum + 0.1, infimum + 0.3).empty());  // the gap of the start
  CHECK(warnings(infimum + 0.1, infimum + 0.305).empty());
  CHECK(warnings(infimum + 0.1, infimum - 0.0005).empty());
  REQUIRE(warnings(infimum - 0.1, infimum - 0.1).size() == 1);
  check_contains(warnings(infimum - 0.1, infimum - 0.1)[0], {"below its infimum", "held-out"});
  REQUIRE(warnings(infimum + 0.1, infimum + 0.4).size() == 1);
  check_contains(warnings(infimum + 0.1, infimum + 0.4)[0], {"above F on the particles", "inner.refresh"});
  CHECK(warnings(infimum - 0.1, NAN).size() == 1);
  // A difference of the samples that a contracting flow has shrunk, whichever way it was.
  start.held_out = infimum + 0.8;
  CHECK(warnings(infimum + 0.1, infimum + 0.09).empty());
  CHECK(warnings(infimum + 0.1, infimum + 0.105).empty());
  REQUIRE(warnings(infimum + 0.1, infimum + 0.2).size() == 1);
  CHECK(overfitting(gaussian, {start}, infimum + 0.1, infimum + 0.2, 0.03).size() == 1);
  CHECK(overfitting(gaussian, {start}, infimum + 0.1, infimum + 0.2, 0.04).empty());
}

TEST_CASE("a flow that spreads the particles of its sample is not taken for one that fits them") {
  const TemporaryFolder folder;
  const RunOptions options = into(folder.path / "run");
  // F of particles and held-out ones drift apart as exp(2 t), and as far as two samples do.
  run(parse_config("seed = 2\n[cloud]\ndensity = \"gaussian\"\nparticles = 1000\nsampling = \"random\"\n"
                   "[[functional]]\nterm = \"potential\"\nexpression = \"-0.5*sum(x^2)\"\n"
                   "[flow]\ntau = 0.1\nsteps = 5\n[network]\nhidden = [8]\nquadratic_rank = 1\n",
                   "spread.toml", "."),
      options);
  const std::vector<HistoryRow> rows = history_of(options.out);
  const HistoryRow &first = rows.front(), &last = rows.back();
  CHECK(last.held_out - last.functional.total() > 2 * (first.held_out - first.functional.total()));
  CHECK(summary_of(options.out)["warnings"].dump().find("fitted the sample") == std::string::npos);
}

TEST_CASE("what befalls steps is told with their numbers: unconverged transport, particles in one place") {
  std::vector<HistoryRow> history(6);
  Config config = tiny();
  const auto told = [&] { return troubled_steps(config, history); };
  for (int k = 0; k < 6; ++k) history[static_cast<std::size_t>(k)].step = k;
  for (HistoryRow& row : history) row.sinkhorn.solves = 100;
  history[1].sinkhorn.unconverged = 10;  // a tenth is not more than a tenth
  CHECK(told().empty());
  history[2].sinkhorn.unconverged = history[3].sinkhorn.unconverged = 11;
  history[5].sinkhorn.unconverged = 100;
  REQUIRE(told().size() == 1);
  check_contains(told()[0], {"steps 2 to 3, 5: more than a tenth", "warm_iterations"});
  history[4].coincident = 12;
  REQUIRE(told().size() == 2);
  check_contains(told()[1], {"step 4: 12 particles", "singular at 0"});
  history[4].coincident = 0;
  history[4].decrease = 1;
  history[5].decrease = -0.1;
  check_contains(told()[0], {"step 5 raised"});

  // Who may be told of the network, and who of more digits.
  history[3].solved = false;
  history[3].decrease = history[3].particle_decrease = 0.5;
  history[3].missed_share = 0.3;
  check_contains(told()[0], {"step 3 not solved", "the network reaches 100 %", "network.hidden"});
  CHECK(told()[0].find("precision") == std::string::npos);
  config.flow.method = FlowOptions::Method::particles;
  CHECK(told()[0].find("network") == std::string::npos);
  check_contains(told()[0], {"misses 30 %", "use more inner.iterations, or a smaller flow.tau"});
  config.precision = "float";
  check_contains(told()[0], {", or precision = \"double\""});
}

TEST_CASE("a network that fits its sample is reported; a narrow one is right") {
  const TemporaryFolder folder;
  RunOptions options;
  std::ostringstream log;
  options.log = &log;
  const std::string text =
      "[cloud]\ndensity = \"gaussian\"\ndim = 2\nvariance = 0.5\nparticles = 64\nsampling = \"whitened\"\n"
      "[[functional]]\nterm = \"entropy\"\n[[functional]]\nterm = \"potential\"\nexpression = "
      "\"0.5*sum(x^2)\"\n"
      "[flow]\ntau = 0.1\nsteps = 4\n[network]\nquadratic_rank = 2\n[held_out]\nparticles = 5000\n";
  options.out = folder.path / "wide";
  run(parse_config(text, "o.toml", ".", {"network.hidden=[60, 20]", "inner.rate=1e-2"}), options);
  CHECK(summary_of(options.out)["warnings"].size() >= 1);
  check_contains(log.str(), {"WARNING: ", "fitted the sample"});
  log.str("");
  options.out = folder.path / "narrow";
  run(parse_config(text, "o.toml", ".", {"network.hidden=[4]", "cloud.particles=1000"}), options);
  CHECK(summary_of(options.out)["warnings"].empty());
  CHECK(log.str().find("WARNING") == std::string::npos);
  CHECK(summary_of(options.out)["error"]["scheme"]["functional_abs"].get<double>() < 1e-2);
}

TEST_CASE("a full disk ends a run with an error and whole files") {
  const TemporaryFolder folder;
  RunOptions options = into(folder.path / "run");
  rlimit before{};
  REQUIRE(getrlimit(RLIMIT_FSIZE, &before) == 0);
  void (*handler)(int) = std::signal(SIGXFSZ, SIG_IGN);
  const auto limit = [&](rlim_t bytes) {
    rlimit now = before;
    now.rlim_cur = bytes;
    setrlimit(RLIMIT_FSIZE, &now);
  };
  options.on_step = [&](int step) {
    if (step == 2) limit(100);
  };
  std::string during, at_start;
  try {
    run(tiny(), options);
  } catch (const IoError& error) {
    during = error.what();
  }
  options.out = folder.path / "none";
  try {
    run(tiny(), options);
  } catch (const IoError& error) {
    at_start = error.what();
  }
  limit(before.rlim_cur);
  std::signal(SIGXFSZ, handler);
  CHECK(during.find("safetensors") != std::string::npos);
  CHECK(at_start.find("cannot be locked") != std::string::npos);
  CHECK_FALSE(fs::exists(folder.path / "none"));
  CHECK(summary_of(folder.path / "run")["steps"] == 2);
  CHECK(summary_of(folder.path / "run")["status"] == "failed");  // in place: there is no room for a new file
  CHECK(read_maps(folder.path / "run").size() == 2);
  options.out = folder.path / "run";
  options.on_step = nullptr;
  CHECK(resume(tiny(), options).status == RunStatus::done);
}

TEST_CASE("a run ends as it went, also where its figures cannot be drawn") {
  const TemporaryFolder folder;
  const std::string config = (folder.path / "tiny.toml").string(), python = (folder.path / "python").string();
  put(config, kTiny);
  const char* const known = std::getenv("PYTHON");
  const std::string before = known ? known : "";
  ::setenv("PYTHON", python.c_str(), 1);
  struct Row {
    const char* script;
    int code, alone;  // of `run`, and of `plot`
  };
  for (const Row& row : {Row{"exit 1", 0, 2}, Row{"kill -9 $$", 0, 2}, Row{"exit 74", 74, 74},
                         Row{"exit 75", 75, 75}, Row{"exit 120", 74, 74}, Row{"exit 0", 0, 0}}) {
    CAPTURE(row.script);
    fs::remove(python);
    put(python, "#!/bin/sh\n[ \"$1\" = -c ] && exit 0\n" + std::string(row.script) + "\n");
    fs::permissions(python, fs::perms::owner_all);
    for (const char* option : {"--plot", "--report"}) {
      const std::string out = (folder.path / "run").string();
      fs::remove_all(out);
      const Output said = command({"run", config, "-q", "--out", out, option});
      CHECK(said.code == row.code);
      CHECK(summary_of(out)["status"] == "done");
      const std::string later = "later: brenier " + std::string(option).substr(2) + " " + out;
      CHECK((said.err.find(later) != std::string::npos) == (row.alone != 0));
      CHECK(command({std::string(option).substr(2), out}).code == row.alone);
      CHECK(command({"movie", out}).code == row.alone);
      // What the run ended with stays.
      fs::remove_all(out);
      CHECK(command({"run", config, "-q", "--out", out, option, "--set", "inner.rate=1e30"}).code == 1);
    }
  }
  known ? ::setenv("PYTHON", before.c_str(), 1) : ::unsetenv("PYTHON");
}

TEST_CASE("push carries a cloud as the run did") {
  for (const char* order : {"1", "2"}) {
    const TemporaryFolder folder;
    RunOptions options = into(folder.path / "run");
    run(tiny({"flow.order=" + std::string(order)}), options);
    const fs::path clouds = options.out / "clouds";
    PushOptions pushing;
    pushing.maps = options.out;
    pushing.cloud = clouds / "step_000000.npy";
    pushing.log_density = clouds / "log_density_000000.npy";
    pushing.out = folder.path / "moved.npy";
    pushing.threads = 2;
    std::ostringstream log;
    push(pushing, log);
    CHECK(read_text(folder.path / "moved.npy") == read_text(clouds / "step_000005.npy"));
    CHECK(read_text(folder.path / "moved-log-density.npy") == read_text(clouds / "log_density_000005.npy"));
    pushing.steps = 2;
    push(pushing, log);
    if (order == std::string("2")) {
      PushOptions one = pushing;
      one.maps = options.out / "maps" / "step_000003.safetensors";
      one.steps = 0;
      CHECK_ERROR(push(one, log), ValueError, "begins with the map of step 3");
    }
    CHECK(read_text(folder.path / "moved.npy") == read_text(clouds / "step_000002.npy"));

    pushing.steps = 6;
    CHECK_ERROR(push(pushing, log), IoError, "6 were asked for");
    pushing.steps = 0;
    pushing.out = pushing.cloud;
    CHECK_ERROR(push(pushing, log), ValueError, "--out");
    pushing.out.clear();
    const Matrix<double> plane(4, 2);
    write_npy(folder.path / "plane.npy", plane.view());
    pushing.cloud = folder.path / "plane.npy";
    pushing.log_density.clear();
    CHECK_ERROR(push(pushing, log), ShapeError, "dimension 2");
    fs::remove(options.out / "maps" / "step_000002.safetensors");
    CHECK_ERROR(push(pushing, log), IoError, "step 2 is missing");
    pushing.maps = folder.path / "nothing";
    CHECK_ERROR(push(pushing, log), IoError, "no such file");
  }
}

TEST_CASE("no command writes over the files that a run consists of, or over what it reads") {
  const TemporaryFolder folder;
  const fs::path run_folder = folder.path / "run", own = folder.path / "own.npy";
  run(tiny(), into(run_folder));
  const std::string run = run_folder.string(), config = (run_folder / "config.toml").string();
  const std::string map = (run_folder / "maps" / "step_000001.safetensors").string();
  const std::string cloud = (run_folder / "clouds" / "step_000000.npy").string();
  const std::string density = (run_folder / "clouds" / "log_density_000000.npy").string();
  write_npy(own, Matrix<double>(2, 1, 0.01).view());
  const std::string well = (folder.path / "well.toml").string();
  put(well, tiny_with("term = \"porous_medium\"\nm = 2", "term = \"potential\"\nexpression = \"sum(x^2)\""));
  const auto all = [&] {
    std::string text;
    for (const std::string& file : {config, map, cloud, density, (run_folder / "manifest.json").string()})
      text += read_text(file);
    return text;
  };
  const std::string before = all();
  const std::vector<std::vector<std::string>> commands = {
      {"sample", run, "5", "-o", config},
      {"sample", run, "5", "-o", (folder.path / "run" / ".." / "run" / "manifest.json").string()},
      {"sample", run, "5", "-o", (folder.path / "a.npy").string(), "--log-density", density},
      {"sample", run, "5", "-o", (folder.path / "a.npy").string(), "--log-density",
       (folder.path / "a.npy").string()},
      {"push", run, own.string(), "-o", cloud},
      {"push", run, cloud, "--log-density", density, "-o",
       (folder.path / "run" / "clouds" / "a.npy").string()},
      {"pull", run, own.string(), "-o", map},
      {"density", run, own.string(), "-o", config},
      {"density", run, "--grid=-1:1:3", "-o", cloud},
      {"report", run, "-o", config},
      {"movie", run, "-o", (run_folder / "clouds" / "flow.gif").string()},
      {"plot", run, "-o", (run_folder / "maps").string()},
      {"export", run, "-o", (run_folder / "clouds").string()},
      {"langevin", well, "-o", run},
      {"descend", well, "-o", config}};
  for (const std::vector<std::string>& words : commands) {
    CAPTURE(words[0]);
    const Output refused = command(words);
    CHECK(refused.code == ExitCode::bad_input);
    CHECK(all() == before);
    CHECK(refused.err.find("choose another") != std::string::npos);
  }
  CHECK_FALSE(fs::exists(folder.path / "a.npy"));
  CHECK(command({"sample", run, "5", "-o", (run_folder / "new.npy").string()}).code == ExitCode::ok);
}

TEST_CASE("the command line: exit codes and messages") {
  const TemporaryFolder folder;
  const std::string config = (folder.path / "tiny.toml").string();
  const std::string out = (folder.path / "run").string();
  put(config, kTiny);

  CHECK(command({"--help"}).code == 0);
  check_contains(command({"--help"}).out, {"run", "resume", "push", "info", "plot", "Examples"});
  CHECK(command({"run", "--help"}).code == 0);
  check_contains(command({"info", "--help"}).out, {"PATH", "brenier --help"});
  CHECK(command({"info", "--help"}).out.find("[cloud]") == std::string::npos);
  check_contains(command({"--version"}).out, {"."});
  if (std::ofstream full("/dev/full"); full) {
    const char* const words[] = {"brenier", "--help"};
    std::ostringstream err;
    CHECK(run_command_line(2, words, full, err) == ExitCode::not_written);
    check_contains(err.str(), {"cannot be written"});
  }
  CHECK(command({}).code == 2);
  CHECK(command({"walk"}).code == 2);
  CHECK(command({"run"}).code == 2);
  CHECK(command({"run", config, "--out", out, "--seed", "x"}).code == 2);

  const Output missing = command({"run", (folder.path / "no.toml").string(), "--out", out});
  CHECK(missing.code == 2);
  check_contains(missing.err, {"no.toml", "no such file"});
  const Output wrong = command({"run", config, "--out", out, "--set", "flow.tau=-1"});
  CHECK(wrong.code == 2);
  check_contains(wrong.err, {"--set flow.tau=-1", "above 0"});
  CHECK_FALSE(fs::exists(out));

  const Output done = command({"run", config, "--out", out, "--seed", "9", "--threads", "1", "--set",
                               "flow.steps=2", "--set", "inner.iterations=3"});
  CHECK(done.code == 0);
  check_contains(done.out, {"step 2/2", "results in"});
  CHECK(summary_of(out)["seed"] == 9);
  CHECK(summary_of(out)["threads"] == 1);
  CHECK(command({"run", config, "--out", out}).code == 2);
  CHECK(command({"run", config, "--out", out, "--resume"}).code == 2);  // other settings
  CHECK(command({"resume", out, "--steps", "3", "--quiet"}).out.empty());
  CHECK(summary_of(out)["steps"] == 3);
  CHECK(command({"run", config, "-q", "--out", (folder.path / "bad").string(), "--set", "inner.rate=1e30"})
            .code == 1);

  check_contains(command({"info"}).out, {"brenier", "processors"});
  check_contains(command({"info", out}).out, {"status", "done", "inner.iterations_total"});
  check_contains(command({"info", out + "/clouds/step_000000.npy"}).out, {"float64 (37, 1)", "column 0"});
  check_contains(command({"info", out + "/maps/step_000001.safetensors"}).out,
                 {"brenier map 1", "hidden = 7,5"});
  const Matrix<double> none(0, 3);
  Matrix<double> half(2, 2, NAN);
  half(0, 1) = 4;
  write_npy(folder.path / "none.npy", none.view());
  write_npy(folder.path / "nan.npy", half.view());
  CHECK(command({"info", (folder.path / "none.npy").string()}).out == "float64 (0, 3)\nno rows\n");
  check_contains(command({"info", (folder.path / "nan.npy").string()}).out,
                 {"column 0: no finite values\n", "column 1: from 4 to 4", "1 values not finite"});
  for (const char* seed : {"-1", "18446744073709551615", "9223372036854775808"}) {
    const Output refused = command({"run", config, "--out", out + "-seed", "--seed", seed});
    CHECK(refused.code == 2);
    check_contains(refused.err, {seed, "at most 9223372036854775807"});
  }
  for (const std::vector<std::string>& words :
       std::vector<std::vector<std::string>>{{"sample", out, "0", "-o", "s.npy"},
                                             {"sample", out, "-o", "s.npy", "--", "-1"},
                                             {"sample", out, "1e999", "-o", "s.npy"},
                                             {"sample", out, "3", "-o", "s.npy", "--step", "-1"},
                                             {"langevin", config, "-o", "l", "--every", "0"},
                                             {"langevin", config, "-o", "l", "--substeps", "-2"},
                                             {"descend", config, "-o", "l", "--rate", "0"},
                                             {"density", out, "x.npy", "--step", "-1"},
                                             {"distance", "a.npy", "b.npy", "--bandwidth", "-0.5"},
                                             {"push", out, "x.npy", "--threads", "-1"}}) {
    CAPTURE(words[0]);
    const Output refused = command(words);
    CHECK(refused.code == 2);
    CHECK(refused.err.size() < 120);
    const bool told = refused.err.find("; it must be a") != std::string::npos ||
                      refused.err.find("'1e999' is beyond") != std::string::npos;
    CHECK(told);
  }
  check_contains(command({"info", config}).out, {"valid", "tau = 0.001"});
  CHECK(command({"info", out + "/nothing"}).code == 2);
  CHECK(command({"info", folder.path.string()}).code == 2);
  CHECK(command({"resume", folder.path.string()}).code == 2);
  CHECK(command({"plot", folder.path.string()}).code == 2);

  const Output pushed =
      command({"push", out, out + "/clouds/step_000000.npy", "-o", (folder.path / "y.npy").string()});
  CHECK(pushed.code == 0);
  check_contains(pushed.out, {"37 points", "3 steps"});
  check_contains(command({"--help"}).out,
                 {"\"auto\" (exact up to 128 dimensions with lbfgs, and below 24 with adam)"});
  put(folder.path / "half.npy", "\x93NUMPY");
  CHECK(command({"push", out, (folder.path / "half.npy").string()}).code == 2);
}
