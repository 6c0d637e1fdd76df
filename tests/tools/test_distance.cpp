// SPDX-License-Identifier: MIT
// The command `brenier distance`: what it prints is what the library computes.
#include <nlohmann/json.hpp>
#include <sstream>

#include "brenier/base/error.hpp"
#include "brenier/density.hpp"
#include "brenier/entropic_transport.hpp"
#include "brenier/metrics.hpp"
#include "brenier/npy.hpp"
#include "brenier/wasserstein.hpp"
#include "tests/support/app.hpp"
#include "tests/support/near.hpp"
#include "tools/command/commands.hpp"

using namespace brenier;
using namespace brenier::app;
using namespace brenier::test;

namespace {

nlohmann::json measured(DistanceOptions options) {
  std::ostringstream out;
  options.json = true;
  distance(options, out);
  return nlohmann::json::parse(out.str());
}

}  // namespace

TEST_CASE("distances of two files") {
  const TemporaryFolder folder;
  const Matrix<double> x = Density::gaussian(3, 0, 1).sample(60, Sampling::random, 1).x;
  const Matrix<double> y = Density::gaussian(3, 0.5, 2).sample(80, Sampling::random, 2).x;
  DistanceOptions options;
  options.a = folder.path / "a.npy";
  options.b = folder.path / "b.npy";
  write_npy(options.a, x.view());
  write_npy(options.b, y.view());
  Team team(1);
  const nlohmann::json all = measured(options);
  const Estimate energy = energy_distance(x, y, team);
  CHECK(all["energy_distance"]["value"] == energy.value);
  CHECK(all["energy_distance"]["standard_error"] == energy.error);
  CHECK(all["mmd"]["value"] == mmd_squared(x, y, median_distance(x, y), team).value);
  CHECK(all["w2"]["about"] == "exact");
  CHECK(all["w2"]["value"] == wasserstein_transport(x, y));
  CHECK_FALSE(all.contains("undefined"));
  CHECK(all.contains("gaussian_w2"));

  options.metrics = {"mmd"};
  options.bandwidth = 0.7;
  const nlohmann::json one = measured(options);
  CHECK(one["mmd"]["value"] == mmd_squared(x, y, 0.7, team).value);
  CHECK_FALSE(one.contains("w2"));

  options.metrics = {"sinkhorn"};
  options.epsilon = 0.5;
  const nlohmann::json transport = measured(options);
  const EntropicTransport plain = entropic_transport(x, y, {.epsilon = 0.5, .iterations = 1000}, team);
  CHECK(transport["sinkhorn"]["value"] == plain.value);
  CHECK(plain.report.unconverged == 0);
  CHECK(transport["sinkhorn_divergence"]["value"].get<double>() > 0);
  CHECK(transport["sinkhorn_divergence"]["value"].get<double>() < plain.value);
  check_contains(transport["sinkhorn"]["about"].get<std::string>(), {"epsilon 0.5", "marginals to"});
  options.epsilon = 0;
  const double blur = median_distance(x, y) / 20;
  CHECK(measured(options)["sinkhorn"]["value"] ==
        entropic_transport(x, y, {.epsilon = blur * blur, .iterations = 1000}, team).value);
  options.metrics = {"mmd"};

  std::ostringstream lines;
  distance(options, lines);
  check_contains(lines.str(), {"60 and 80 points in dimension 3", "mmd", "+-", "bandwidth 0.7"});

  // Points of low discrepancy: every other one would fill only half of space.
  write_npy(options.a, Density::gaussian(2, 0, 1).sample(512, Sampling::random, 3).x.view());
  write_npy(options.b, Density::gaussian(2, 0, 1).sample(2048, Sampling::stratified).x.view());
  options.metrics = {"w2"};
  CHECK(measured(options)["w2"]["value"].get<double>() < 0.4);
  write_npy(options.a, x.view());

  // Clouds in a subspace: no Gaussian, which only matters to those who ask for one.
  options.metrics = {"gaussian"};
  Matrix<double> flat = y;
  for (Index i = 0; i < flat.rows(); ++i) flat(i, 1) = 0.3;
  write_npy(options.b, flat.view());
  CHECK_ERROR(measured(options), ValueError, "no constant coordinate");
  write_npy(options.b, y.view().rows_from(0, 3));
  CHECK_ERROR(measured(options), ValueError, "more points than dimensions");
  write_npy(options.b, flat.view());
  options.metrics = {};
  CHECK(measured(options).contains("mmd"));
  CHECK_FALSE(measured(options).contains("gaussian_w2"));

  options.b = folder.path / "line.npy";
  write_npy(options.b, Matrix<double>(4, 1, 1.0).view());
  CHECK_ERROR(measured(options), ShapeError, "in dimension 1");
  // Weights; and what cannot be compared.
  const std::vector<double> a = {0.25, 0.75}, b = {0.5, 0.5};
  Matrix<double> two(2, 1), point(1, 1);
  two(1, 0) = 4;
  CHECK(std::abs(entropic_transport(two, point, {}, team, a).value - 0.75 * 8) <= 1e-12);
  CHECK_ERROR(entropic_transport(two, point, {}, team, b, b), ShapeError, "2 weights for 1 points");
  CHECK_ERROR(entropic_transport(two, y, {}, team), ShapeError, "clouds of dimensions 1 and 3");
  CHECK_ERROR(entropic_transport(two, point, {}, team, {0.5, 0.6}), ValueError, "sum to 1.1");
  CHECK_ERROR(entropic_transport(two, Matrix<double>(0, 1), {}, team), ShapeError, "0 points");

  options.a = options.b;
  options.metrics = {"w2"};
  CHECK(measured(options)["w2"]["value"] == 0);
}

TEST_CASE("a file without points is named") {
  const TemporaryFolder folder;
  const std::string none = (folder.path / "none.npy").string(), some = (folder.path / "some.npy").string();
  write_npy(none, Matrix<double>(0, 2).view());
  write_npy(some, Matrix<double>(3, 2, 1.0).view());
  for (const auto& words :
       {std::vector<std::string>{"distance", some, none}, {"distance", none, some, "--json"}}) {
    const Output said = command(words);
    CHECK(said.code == ExitCode::bad_input);
    check_contains(said.err, {"none.npy' has no points"});
  }
}

TEST_CASE("a metric that is not defined for two clouds takes none of the others with it") {
  const TemporaryFolder folder;
  DistanceOptions options;
  options.a = folder.path / "a.npy";
  options.b = folder.path / "b.npy";
  write_npy(options.a, Matrix<double>(20, 2, 1.5).view());
  write_npy(options.b, Matrix<double>(30, 2, 1.5).view());
  nlohmann::json all = measured(options);
  CHECK(all["w2"]["value"] == 0);
  CHECK(all["energy_distance"]["value"] == 0);
  check_contains(all["undefined"]["mmd"].get<std::string>(), {"in one place"});
  CHECK(all["undefined"].contains("sinkhorn"));
  CHECK(all["undefined"].contains("gaussian"));
  options.metrics = {"mmd"};
  CHECK_ERROR(measured(options), ValueError, "in one place");
  options.bandwidth = 1;
  CHECK(measured(options)["mmd"]["value"] == 0);
  options.metrics = {"sinkhorn"};
  options.epsilon = 0.1;
  CHECK(std::abs(measured(options)["sinkhorn"]["value"].get<double>()) <= 1e-12);
  CHECK(std::abs(measured(options)["sinkhorn_divergence"]["value"].get<double>()) <= 1e-12);

  // One point against many, and against another.
  options.metrics = {};
  options.bandwidth = options.epsilon = 0;
  Matrix<double> four(4, 2), one(1, 2);
  for (Index i = 0; i < 4; ++i) four(i, i % 2) = i < 2 ? 3 : -3;
  write_npy(options.a, four.view());
  write_npy(options.b, one.view());
  all = measured(options);
  CHECK(all["w2"]["value"] == 3);
  check_contains(all["undefined"]["energy"].get<std::string>(), {"1 points"});
  CHECK(all.contains("sinkhorn"));
  std::ostringstream lines;
  distance(options, lines);
  check_contains(lines.str(), {"w2", "energy                            -", "at least 2 are needed"});
  write_npy(options.a, one.view());
  CHECK(measured(options)["w2"]["value"] == 0);
  four(2, 1) = std::nan("");
  write_npy(options.a, four.view());
  CHECK_ERROR(measured(options), ValueError, "point 2 has the coordinate nan");
}
