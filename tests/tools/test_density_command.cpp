// SPDX-License-Identifier: MIT
// `brenier pull` and `brenier density`, and the certificates in the files of a run.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

#include "brenier/flow_density.hpp"
#include "brenier/npy.hpp"
#include "tests/support/app.hpp"
#include "tests/support/near.hpp"
#include "tests/support/run_files.hpp"
#include "tools/runs/report.hpp"
#include "tools/runs/run.hpp"
#include "tools/runs/run_folder.hpp"

using namespace brenier;
using namespace brenier::app;
using namespace brenier::test;

namespace {

fs::path run_tiny(const fs::path& folder, const std::vector<std::string>& overrides = {}) {
  RunOptions options;
  options.out = folder / "run";
  REQUIRE(run(tiny(overrides), options).status == RunStatus::done);
  return options.out;
}

std::string step_name(int step) {
  return "step_00000" + std::to_string(step);
}

}  // namespace

TEST_CASE("pull and density of a run are what the run has seen") {
  for (const char* order : {"1", "2"}) {
    CAPTURE(order);
    const TemporaryFolder folder;
    const fs::path run = run_tiny(folder.path, {"flow.order=" + std::string(order)});
    const std::string out = (folder.path / "out.npy").string();
    for (const int step : {0, 2, 5}) {
      CAPTURE(step);
      const std::string cloud = (run / "clouds" / (step_name(step) + ".npy")).string();
      const std::vector<double> known =
          read_npy_vector(run / "clouds" / ("log_density_00000" + std::to_string(step) + ".npy"));
      std::vector<std::string> words = {"pull", run.string(), cloud, "-o", out, "--threads", "2"};
      if (step < 5) words.insert(words.end(), {"--step", std::to_string(step)});
      const Output pulled = command(words);
      REQUIRE(pulled.code == 0);
      check_contains(pulled.out,
                     {"37 points at step", "0 outside, 0 unconverged", "worst round trip", "out.npy"});
      CHECK(worst_error(read_npy(out), read_npy(run / "clouds" / "step_000000.npy")) < 1e-10);

      words[0] = "density";
      REQUIRE(command(words).code == 0);
      CHECK(read_npy_info(out).dtype == "float64");
      CHECK(read_npy_info(out).shape.size() == 1);
      CHECK(worst_error(read_npy_vector(out), known) < 1e-8);
      words.push_back("--linear");
      REQUIRE(command(words).code == 0);
      for (std::size_t i = 0; i < known.size(); ++i) {
        CHECK_REL(read_npy_vector(out)[i], std::exp(known[i]), 1e-8);
      }
    }

    // Beyond the support of a Barenblatt profile there is no density.
    Matrix<double> points(3, 1);
    points.elements() = {0.0, 50.0, NAN};
    write_npy(folder.path / "points.npy", points.view());
    const Output beyond = command({"density", run.string(), (folder.path / "points.npy").string()});
    REQUIRE(beyond.code == 0);
    check_contains(beyond.out, {"1 of density 0", "1 unconverged", "points-density.npy",
                                "1 with coordinates that are not finite"});
    const std::vector<double> at = read_npy_vector(folder.path / "points-density.npy");
    CHECK(std::isfinite(at[0]));
    CHECK(at[1] == -std::numeric_limits<double>::infinity());
    CHECK(std::isnan(at[2]));
    check_contains(command({"pull", run.string(), (folder.path / "points.npy").string()}).out,
                   {"points-pulled.npy", "1 unconverged"});
    CHECK(std::isnan(read_npy(folder.path / "points-pulled.npy")(2, 0)));
  }
}

TEST_CASE("pull and density say what is wrong with points and run folders") {
  const TemporaryFolder folder;
  const fs::path run = run_tiny(folder.path);
  const std::string cloud = (run / "clouds" / "step_000005.npy").string();
  const std::string out = (folder.path / "out.npy").string();
  const auto refused = [&](std::vector<std::string> words, std::initializer_list<const char*> pieces) {
    words.insert(words.end(), {"-o", out});
    const Output result = command(words);
    CHECK(result.code == 2);
    check_contains(result.err, pieces);
    CHECK_FALSE(fs::exists(out));
  };
  const Matrix<double> plane(4, 2);
  write_npy(folder.path / "plane.npy", plane.view());
  for (const char* what : {"pull", "density"}) {
    CAPTURE(what);
    refused({what, run.string(), (folder.path / "plane.npy").string()},
            {"plane.npy", "dimension 2", "the run is of dimension 1", "(N, 1)"});
    refused({what, run.string(), (folder.path / "none.npy").string()}, {"none.npy"});
    refused({what, folder.path.string(), cloud}, {"not a run folder"});
    refused({what, run.string(), cloud, "--step", "6"}, {"6 were asked for", "--step"});
    CHECK(command({what, run.string(), cloud, "-o", cloud}).code == 2);
    CHECK(command({what, run.string(), cloud, "--step", "-1"}).code == 2);
    CHECK(command({what, run.string()}).code == 2);
  }

  const fs::path third = run / "maps" / "step_000003.safetensors";
  const std::string whole = read_text(third);
  put(third, whole.substr(0, whole.size() / 2));
  refused({"density", run.string(), cloud}, {"step_000003.safetensors", "--step", "brenier run"});
  CHECK(command({"density", run.string(), cloud, "--step", "2", "-o", out}).code == 0);
  fs::remove(out);
  fs::remove(third);
  refused({"pull", run.string(), cloud}, {"step 3 is missing", "--step", "config.toml"});

  // A run from a file has origins, but its density is known at the particles only.
  fs::copy_file(run / "clouds" / "step_000000.npy", folder.path / "start.npy");
  fs::copy_file(run / "clouds" / "log_density_000000.npy", folder.path / "start-log.npy");
  RunOptions options;
  options.out = folder.path / "from-file";
  const std::string text =
      tiny_with("density = \"barenblatt\"\ntime = 1e-3\nparticles = 37\n",
                "density = \"file\"\npath = \"start.npy\"\nlog_density = \"start-log.npy\"\n");
  Config config = parse_config(text, "f.toml", folder.path, {"held_out.particles=0", "flow.steps=2"});
  REQUIRE(app::run(config, options).status == RunStatus::done);
  const std::string end = (options.out / "clouds" / "step_000002.npy").string();
  refused({"density", options.out.string(), end}, {"starts from a file", "brenier push"});
  REQUIRE(command({"pull", options.out.string(), end, "-o", out}).code == 0);
  CHECK(worst_error(read_npy(out), read_npy(folder.path / "start.npy")) < 1e-10);
}

TEST_CASE("certificates are in the history and the summary, unless they are off") {
  for (const bool on : {true, false}) {
    const TemporaryFolder folder;
    const fs::path run =
        run_tiny(folder.path, {"flow.order=2", std::string("flow.certificates=") + (on ? "true" : "false")});
    const std::vector<HistoryRow> rows = history_of(run);
    const nlohmann::json summary = nlohmann::json::parse(read_text(run / "summary.json"));
    CHECK(summary.contains("certificates") == on);
    CHECK(std::isnan(rows[0].min_eigenvalue));
    double smallest = std::numeric_limits<double>::infinity();
    const std::vector<BrenierMap> maps = read_maps(run);
    Trajectory cloud({read_npy(run / "clouds" / "step_000000.npy"), {}}, true);
    Team team(1);
    std::size_t map = 0;
    for (int step = 1; step <= 5; ++step) {
      CHECK(std::isnan(rows[step].min_eigenvalue) == !on);
      CHECK(std::isnan(rows[step].round_trip) == !on);
      double least = std::numeric_limits<double>::infinity();
      for (bool closed = false; !closed; ++map) {
        const Trajectory::Base base = cloud.base(maps[map], team);
        Matrix<double> displacement(37, 1), hessian(37, 1);
        maps[map].evaluate(base.x, displacement, nullptr, hessian, team);
        for (const double h : hessian.elements()) least = std::min(least, h);
        cloud.advance(maps[map], base, team);
        closed = maps[map].closes_step;
      }
      if (!on) continue;
      CHECK_REL(rows[step].min_eigenvalue, least, 1e-12);
      CHECK(rows[step].round_trip < 1e-12);
      smallest = std::min(smallest, least);
    }
    if (on) CHECK_REL(summary["certificates"]["min_eigenvalue"].get<double>(), smallest, 1e-12);
  }
}

TEST_CASE("F below a known infimum is loud: in the progress, the summary and the warnings") {
  const TemporaryFolder folder;
  RunOptions options;
  std::ostringstream log;
  options.log = &log;
  options.out = folder.path / "below";
  // F of the porous medium is about 1.9: a stated infimum of 3 is undercut at once.
  run(tiny({"exact.functional=3", "flow.steps=2"}), options);
  check_contains(log.str(), {"BELOW THE INFIMUM OF F", "WARNING: ", "below its infimum 3"});
  const nlohmann::json below = nlohmann::json::parse(read_text(options.out / "summary.json"));
  CHECK(below["infimum"]["functional"] == 3);
  CHECK(below["infimum"]["below"] == true);
  CHECK(below["infimum"]["below_by"].get<double>() > 0.5);
  log.str("");
  options.out = folder.path / "above";
  run(tiny({"flow.steps=2"}), options);
  CHECK(log.str().find("BELOW") == std::string::npos);
  const nlohmann::json above = nlohmann::json::parse(read_text(options.out / "summary.json"));
  CHECK(above["infimum"]["functional"] == 0);
  CHECK(above["infimum"]["below"] == false);
}

TEST_CASE("sample draws new points of a flow, with their log-densities") {
  for (const char* order : {"1", "2"}) {
    CAPTURE(order);
    const TemporaryFolder folder;
    const fs::path run = run_tiny(folder.path, {"flow.order=" + std::string(order)});
    const std::string x = (folder.path / "x.npy").string(), rho = (folder.path / "rho.npy").string();
    const auto sampled = [&](const std::vector<std::string>& more) {
      std::vector<std::string> words = {"sample", run.string(), "211", "-o", x, "--log-density", rho};
      words.insert(words.end(), more.begin(), more.end());
      const Output said = command(words);
      CAPTURE(said.err);
      REQUIRE(said.code == 0);
      return read_npy(x);
    };
    // The density command finds the same densities by inverting the maps.
    const Matrix<double> points = sampled({});
    CHECK(points.rows() == 211);
    CHECK(points.cols() == 1);
    const std::vector<double> known = read_npy_vector(rho);
    const std::string inverted = (folder.path / "inverted.npy").string();
    REQUIRE(command({"density", run.string(), x, "-o", inverted}).code == 0);
    CHECK(worst_error(read_npy_vector(inverted), known) < 1e-8);
    // The same seed, the same points; another seed, others; and none of the run's own.
    CHECK(sampled({}).elements() == points.elements());
    CHECK(sampled({"--seed", "3"}).elements() != points.elements());
    // At the start, the initial density.
    const std::vector<double> start = sampled({"--step", "0"}).elements();
    for (std::size_t i = 0; i < start.size(); ++i) {
      CHECK(read_npy_vector(rho)[i] == tiny().cloud.density->log_density({&start[i], 1}));
    }
    // A step by its time. Steps of 1e-3 from 1e-3 on: step 2 ends at 3e-3.
    const std::vector<double> second = sampled({"--step", "2"}).elements();
    CHECK(sampled({"--time", "0.003"}).elements() == second);
    CHECK(sampled({"--time", "0.001"}).elements() == start);
    const Output between = command({"sample", run.string(), "5", "-o", x, "--time", "0.0034"});
    CHECK(between.code == 2);
    check_contains(between.err, {"--time 0.0034", "step 2"});
    CHECK(command({"sample", run.string(), "5", "-o", x, "--time", "0.003", "--step", "2"}).code == 2);
    CHECK(command({"sample", run.string(), "0", "-o", x}).code == 2);
  }
}

TEST_CASE("sample of a run that starts from a file says what to do instead") {
  const TemporaryFolder folder;
  Matrix<double> points(5, 1);
  for (Index i = 0; i < 5; ++i) points(i, 0) = 0.1 * static_cast<double>(i);
  write_npy(folder.path / "x.npy", points.view());
  const std::string text =
      "[cloud]\ndensity = \"file\"\npath = \"x.npy\"\n[[functional]]\nterm = \"potential\"\nexpression = "
      "\"sum(x^2)\"\n[flow]\ntau = 0.1\nsteps = 1\n[inner]\niterations = 2\n[network]\nhidden = [3]\n";
  RunOptions options;
  options.out = folder.path / "run";
  REQUIRE(run(parse_config(text, "f.toml", folder.path), options).status == RunStatus::done);
  const Output said = command({"sample", options.out.string(), "5", "-o", (folder.path / "y.npy").string()});
  CHECK(said.code == 2);
  check_contains(said.err, {"file of particles", "brenier push"});
  CHECK_FALSE(fs::exists(folder.path / "y.npy"));
}
