// SPDX-License-Identifier: MIT
// Runs whose steps have adaptive lengths, runs without an end, and what a run near a cloud tells at its end.
#include <doctest/doctest.h>

#include <brenier/brenier.hpp>
#include <csignal>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "brenier/entropic_transport.hpp"
#include "tests/support/app.hpp"
#include "tests/support/near.hpp"
#include "tests/support/run_files.hpp"
#include "tools/command/commands.hpp"
#include "tools/runs/jump.hpp"
#include "tools/runs/report.hpp"
#include "tools/runs/run.hpp"
#include "tools/runs/run_folder.hpp"

using namespace brenier;
using namespace brenier::app;
using namespace brenier::test;

TEST_CASE("adaptive steps: a run goes on bit for bit, and its files know the lengths") {
  const TemporaryFolder folder;
  const std::vector<std::string> adaptive = {"flow.tau=auto", "flow.end_time=8e-3", "flow.tolerance=0.03",
                                             "flow.first_tau=3e-4", "output.checkpoint_every=2"};
  std::string text = tiny_with("steps = 5", "");
  const auto config = [&] { return parse_config(text, "tiny.toml", ".", adaptive); };
  RunOptions options = into(folder.path / "whole");
  const RunResult whole = run(config(), options);
  CHECK(whole.status == RunStatus::done);
  CHECK(whole.steps > 4);
  const std::vector<HistoryRow> rows = history_of(options.out);
  CHECK(rows.back().time == 8e-3);
  for (const HistoryRow& row : rows) CHECK((row.step == 0 || row.time_error <= 0.03));
  CHECK(rows[2].tau != rows[3].tau);
  CHECK(summary_of(options.out)["warnings"].empty());
  CHECK(summary_of(options.out)["tau"] == "auto");
  CHECK(summary_of(options.out)["exact"]["std"].get<double>() ==
        doctest::Approx(rows.back().std_exact).epsilon(1e-12));

  options.out = folder.path / "parts";
  CHECK(run_until(3, SIGINT, config(), options).status == RunStatus::interrupted);
  CHECK(resume(config(), options).status == RunStatus::done);
  CHECK(read_text(folder.path / "parts" / "checkpoint.safetensors") ==
        read_text(folder.path / "whole" / "checkpoint.safetensors"));

  // A number of steps may end it before its time.
  RunOptions brief;
  brief.out = folder.path / "brief";
  std::vector<std::string> few = adaptive;
  few.push_back("flow.steps=2");
  const RunResult ended = run(parse_config(text, "tiny.toml", ".", few), brief);
  CHECK(ended.status == RunStatus::unsolved);
  CHECK(summary_of(brief.out)["status"] == "unsolved");
  for (const std::string& said : {ended.reason, summary_of(brief.out)["reason"].get<std::string>(),
                                  summary_of(brief.out)["warnings"].dump()})
    check_contains(said, {"flow.steps = 2 ended the flow at t = ", "of 0.008"});
  const Output quiet =
      command({"resume", brief.out.string(), "--quiet"});  // asked again, nothing is left to do
  CHECK(quiet.code == ExitCode::unsolved);
  check_contains(quiet.err, {"flow.steps = 2 ended the flow"});
  CHECK(command({"resume", brief.out.string(), "--steps", "100"}).code == ExitCode::ok);
  CHECK(summary_of(brief.out)["status"] == "done");
  CHECK(history_of(brief.out).back().time == 8e-3);

  // What push does from the files is what the run did.
  const Cloud initial = config().initial_cloud();
  Trajectory again(initial, true);
  Team team(1);
  for (const BrenierMap& map : read_maps(options.out)) again.advance(map, team);
  char name[32];
  std::snprintf(name, sizeof name, "step_%06d.npy", whole.steps);
  CHECK(again.x().elements() == read_npy(options.out / "clouds" / name).elements());
}

TEST_CASE("a potential that curves down is said so, first and in the summary") {
  const TemporaryFolder folder;
  const std::string text =
      "[cloud]\ndensity = \"gaussian\"\ndim = 2\nparticles = 40\n[[functional]]\nterm = \"potential\"\n"
      "expression = \"dot(x, A*x)\"\n[parameters]\nA = [[1.0, 0.0], [0.0, -0.5]]\n[flow]\ntau = 0.1\nsteps = "
      "1\ncertificates = false\n"
      "[network]\nhidden = [4]\n[inner]\niterations = 5\n";
  put(folder.path / "saddle.toml", text);
  const Output said =
      command({"run", (folder.path / "saddle.toml").string(), "--out", (folder.path / "run").string()});
  CHECK(said.code == ExitCode::ok);
  check_contains(said.out + said.err, {"WARNING: V curves down by -1 "});
  check_contains(summary_of(folder.path / "run")["warnings"].dump(), {"curves down by -1 "});
  CHECK(unbounded(tiny()).empty());
}

TEST_CASE("a potential that jumps between particles is said so") {
  const Matrix<double> x = Density::gaussian(2, 0, 1).sample(100, Sampling::random, 3).x;
  check_contains(jump_between(potential("where(x[0] < 0.25, 1, 0)", 2), x, 0),
                 {"V jumps by 1 at x = (0.25, "});
  check_contains(jump_between(entropy() + 2 * potential("sum(x^2) + where(x[1] < x[0], 3, 0)", 2), x, 0),
                 {"V jumps by 3 "});
  for (const char* text :
       {"abs(x[0])", "where(x[0] < 0, -x[0], 1e6*x[0])", "tanh(1e4*x[0])", "sum(x^4) - 5*sin(40*x[1])",
        "where(x[0] < x[1], x[0], x[1])", "1 + 0*x[0]", "sqrt(abs(x[0]))"})
    CHECK(jump_between(potential(text, 2), x, 0) == "");
  // Particles that all sit in minima see hardly more of V than its rounding.
  struct Row {
    const char* text;
    std::vector<double> minima;
  };
  for (const Row& row : {Row{"(x[0]^2 - 1)^2", {-1, 1}}, Row{"(x[0]^2 - 1)^2", {1}},
                         Row{"sin(30*x[0])", {-M_PI / 60, M_PI / 20}}, Row{"sin(30*x[0])", {M_PI / 20}},
                         Row{"0.5*x[0]^2 + 1e12", {0, 1}}, Row{"(x[0] - 3)^2 - 1e8", {3}},
                         Row{"sin(1e6*x[0])", {1 - 1e-7, 1}}, Row{"1e-30*(x[0]^2 - 1)^2", {-1, 1}}}) {
    for (const double spread : {1e-3, 1e-6, 1e-9, 1e-12, 1e-15}) {
      CAPTURE(row.text);
      CAPTURE(spread);
      Matrix<double> still(100, 1);
      for (Index i = 0; i < 100; ++i)
        still(i, 0) = row.minima[static_cast<std::size_t>(i) % row.minima.size()] + spread * x(i, 0);
      CHECK(jump_between(potential(row.text, 1), still, 0) == "");
    }
  }
  Matrix<double> wells(100, 1);
  for (Index i = 0; i < 100; ++i) wells(i, 0) = (i % 2 ? 1 : -1) + 1e-9 * x(i, 0);
  check_contains(jump_between(potential("(x[0]^2 - 1)^2 + where(x[0] < -0.5, 0, 0.5)", 1), wells, 0),
                 {"V jumps by 0.5 at x = (-0.5)"});
  check_contains(jump_between(potential("1e6 + where(x[0] < 0.5, 0, 0.001)", 1), wells, 0),
                 {"V jumps by 0.001 "});

  const TemporaryFolder folder;
  const std::string text =
      "[cloud]\ndensity = \"gaussian\"\ndim = 1\nparticles = 40\n[[functional]]\nterm = \"potential\"\n"
      "expression = \"where(x[0] < 0, 1, 0)\"\n[flow]\ntau = 0.1\nsteps = 1\n[network]\nhidden = "
      "[4]\n[inner]\niterations = 5\n";
  put(folder.path / "step.toml", text);
  const Output said =
      command({"run", (folder.path / "step.toml").string(), "--out", (folder.path / "run").string()});
  check_contains(said.out + said.err, {"WARNING: V jumps by 1 "});
  check_contains(summary_of(folder.path / "run")["warnings"].dump(), {"jumps by 1 "});

  // A jump that the flow has only come upon is told at its end, and once.
  put(folder.path / "later.toml",
      "[cloud]\ndensity = \"gaussian\"\ndim = 1\nmean = 5\nvariance = 0.01\nparticles = "
      "40\n[[functional]]\nterm = "
      "\"potential\"\nexpression = \"0.5*x[0]^2 + where(x[0] < 0.5, 1, 0)\"\n[flow]\ntau = 9\nsteps = "
      "1\nmethod = "
      "\"particles\"\n");
  const Output later =
      command({"run", (folder.path / "later.toml").string(), "--out", (folder.path / "later").string()});
  check_contains(later.out + later.err, {"WARNING: V jumps by 1 "});
  const std::string all = later.out + later.err;
  CHECK(all.find("V jumps by") == all.rfind("V jumps by"));
}

TEST_CASE("a cloud at rest raises nothing by its rounding") {
  const TemporaryFolder folder;
  const std::string config = (folder.path / "rest.toml").string();
  for (const char* mean : {"1", "1e6"}) {
    for (const char* precision : {"double", "float"}) {
      for (const char* weight : {"0", "1e-30"}) {
        CAPTURE(mean);
        CAPTURE(precision);
        CAPTURE(weight);
        const std::string out = (folder.path / "run").string();
        fs::remove_all(out);
        put(config, "precision = \"" + std::string(precision) +
                        "\"\n[cloud]\ndensity = \"gaussian\"\ndim = 1\nmean = " + mean +
                        "\nparticles = 100\n[[functional]]\nterm = \"potential\"\nexpression = "
                        "\"0.5*x[0]^2\"\nweight = " +
                        weight +
                        "\n[flow]\ntau = 0.1\nsteps = 3\n[network]\nhidden = [4]\nquadratic_rank = 1\n");
        const Output said = command({"run", config, "--out", out});
        CHECK(said.out.find("raised F") == std::string::npos);
        CHECK(summary_of(out)["warnings"].dump().find("raised F") == std::string::npos);
      }
    }
  }
}

TEST_CASE("a flow near a cloud tells its distances at the end, without their weights") {
  const TemporaryFolder folder;
  const std::string text =
      "[cloud]\ndensity = \"gaussian\"\ndim = 2\nparticles = 40\n[[functional]]\nterm = \"potential\"\n"
      "expression = \"sum(x^2)\"\n[[functional]]\nterm = \"sinkhorn\"\nreference = \"initial\"\n"
      "epsilon = 0.01\nweight = 3.0\n[[functional]]\nterm = \"mmd\"\nreference = \"initial\"\n"
      "bandwidth = 0.5\nweight = 20.0\n[flow]\ntau = 0.1\nsteps = 2\ncertificates = false\n[network]\nhidden "
      "= [4]\n[inner]\n"
      "iterations = 30\n[held_out]\nparticles = 200\n";
  put(folder.path / "near.toml", text);
  const fs::path out = folder.path / "run";
  const Output said = command({"run", (folder.path / "near.toml").string(), "--out", out.string()});
  REQUIRE(said.code == ExitCode::ok);
  const nlohmann::json summary = summary_of(out), distances = summary["distances"];
  REQUIRE(distances.size() == 2);

  // What the clouds in the folder say.
  const Matrix<double> first = read_npy(out / "clouds" / "step_000000.npy"),
                       last = read_npy(out / "clouds" / "step_000002.npy");
  Team team(1);
  const double transport = entropic_transport(last, first, {.epsilon = 0.01}, team).value;
  CHECK(transport > 0);
  CHECK(relative_error(distances[0]["value"], transport) <= 1e-12);
  CHECK(distances[0]["weight"] == 3.0);
  check_contains(distances[0]["text"], {"entropic transport", "0.01"});
  check_contains(distances[1]["text"], {"MMD", "0.5"});
  CHECK(distances[1]["value"].get<double>() > 0);
  CHECK(relative_error(3 * distances[0]["value"].get<double>() + 20 * distances[1]["value"].get<double>(),
                       summary["functional"]["divergence"]) <= 1e-14);

  char value[32], potential[32];
  std::snprintf(value, sizeof value, "%.4g", transport);
  std::snprintf(potential, sizeof potential, "potential %.4g",
                summary["functional"]["potential"].get<double>());
  check_contains(said.out + said.err,
                 {potential, "entropic transport (epsilon 0.01) to 40 points ", "MMD^2"});
  CHECK((said.out + said.err).find(std::string(value).substr(0, 5)) != std::string::npos);
}

TEST_CASE("output.max_seconds ends a run after a whole step, and resuming it gives the same bits") {
  const TemporaryFolder folder;
  const fs::path whole = run_whole(folder, tiny());
  RunOptions options = into(folder.path / "limited");
  const RunResult first = run(tiny({"output.max_seconds=1e-9"}), options);
  CHECK(first.status == RunStatus::interrupted);
  CHECK(first.steps == 1);
  const Output said = command({"resume", options.out.string(), "--set", "output.max_seconds=1e-9"});
  CHECK(said.code == ExitCode::out_of_time);
  check_contains(said.out, {"output.max_seconds = 1e-09", "2 of 5 steps", "brenier resume"});
  CHECK(summary_of(options.out)["reason"] == "output.max_seconds = 1e-09 are over");
  const std::string free = "output.max_seconds=1e6";
  const Output timed = command({"resume", options.out.string(), "--set", free, "--max-time", "1e-6s"});
  CHECK(timed.code == ExitCode::out_of_time);
  check_contains(timed.out, {"--max-time", "3 of 5 steps"});
  CHECK(command({"resume", options.out.string(), "--max-time", "2 days"}).code == ExitCode::bad_input);
  for (const char* unclear : {"3h50", "1d2h3", "5m6"}) {  // of what
    const Output refused = command({"resume", options.out.string(), "--max-time", unclear});
    CHECK(refused.code == ExitCode::bad_input);
    check_contains(refused.err, {unclear, "a unit after each number", "3h50m"});
  }
  CHECK(command({"resume", options.out.string(), "--set", free, "--max-time", "1h30m"}).code == ExitCode::ok);
  const auto processes = summary_of(options.out)["runs"];
  REQUIRE(processes.size() == 4);  // the first without a command line
  CHECK(processes[0]["command"] == "");
  check_contains(processes[3]["command"].get<std::string>(), {"brenier resume ", "--max-time 1h30m"});
  for (const char* key : {"started", "host", "folder"}) CHECK(processes[3][key].get<std::string>() != "");
  for (const char* key : {"compiler", "type"}) CHECK(summary_of(options.out)["build"][key] != "");
  CHECK(summary_of(options.out)["format"] == "brenier summary 1");
  const auto end = [](const fs::path& run) {
    return read_npy(run / "clouds" / "step_000005.npy").elements();
  };
  CHECK(end(options.out) == end(whole));
}
