// SPDX-License-Identifier: MIT
// Training of convex potentials: classifiers, regressions, and what cannot be trained.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "brenier/base/error.hpp"
#include "brenier/fit.hpp"
#include "brenier/functional.hpp"
#if defined(BRENIER_TEST_COMMAND)
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "brenier/npy.hpp"
#include "tests/support/app.hpp"
#endif
#include "kernels/operations.hpp"
#include "tests/support/near.hpp"
#include "tests/support/nets.hpp"
#include "tests/support/spectrum.hpp"

using namespace brenier;
using namespace brenier::test;

namespace {

struct Data {
  Matrix<double> x;
  std::vector<double> label;
};

/// Points of different scales in each coordinate, far from the origin.
Matrix<double> points(Index n, int d, std::uint64_t seed) {
  Matrix<double> x = Numbers(seed).matrix<double>(n, d, -1, 1);
  for (Index i = 0; i < n; ++i) {
    for (int c = 0; c < d; ++c) x(i, c) = 20.0 - c + x(i, c) * std::pow(10.0, c % 3 - 1);
  }
  return x;
}

/// In [-1, 1]^d again.
std::vector<double> unit(const Matrix<double>& x, Index i) {
  std::vector<double> out;
  for (int c = 0; c < x.cols(); ++c) out.push_back((x(i, c) - 20.0 + c) / std::pow(10.0, c % 3 - 1));
  return out;
}

double square(const std::vector<double>& z) {
  double sum = 0;
  for (const double c : z) sum += c * c;
  return sum;
}

/// 1 outside of a ball that has about half of the points.
Data ball(Index n, int d, std::uint64_t seed) {
  Data out{points(n, d, seed), {}};
  for (Index i = 0; i < n; ++i) out.label.push_back(square(unit(out.x, i)) > d / 3.0);
  return out;
}

/// A smooth convex function, in units of its own.
Data bowl(Index n, int d, std::uint64_t seed) {
  Data out{points(n, d, seed), {}};
  for (Index i = 0; i < n; ++i) {
    const std::vector<double> z = unit(out.x, i);
    out.label.push_back(1000 + 50 * (0.5 * square(z) + std::log(std::exp(2 * z[0]) + std::exp(-z[d - 1]))));
  }
  return out;
}

FitOptions quick() {
  FitOptions options;
  options.solver = FitOptions::Solver::adam;
  options.hidden = {24, 24};
  options.epochs = 60;
  options.batch = 64;
  options.seed = 3;
  options.threads = 2;
  return options;
}

double smallest_eigenvalue(const LearnedPotential& v, const Matrix<double>& x, double* largest) {
  const Index d = x.cols();
  Team team(1);
  Matrix<double> hessian(x.rows(), d * d);
  MapOutputs<double> out;
  out.hessian = hessian;
  cpu::operations<double>().evaluate(v.net, v.theta.data(), x, out, team);
  double least = std::numeric_limits<double>::infinity();
  *largest = 0;
  for (Index i = 0; i < x.rows(); ++i) {
    const Eigen::Map<const Eigen::MatrixXd> h(hessian.row(i), d, d);
    const Eigen::VectorXd values = Spectrum(h).values;
    least = std::min(least, values.minCoeff());
    *largest = std::max(*largest, values.maxCoeff());
  }
  return least;
}

}  // namespace

TEST_CASE("classifiers of the outside of a ball, d = 2 and 5, plain and residual") {
  for (const int d : {2, 5}) {
    for (const bool residual : {false, true}) {
      CAPTURE(d);
      CAPTURE(residual);
      const Data data = ball(10000, d, 11);
      FitOptions options = quick();
      options.residual = residual;
      const FitResult result = fit(data.x, data.label, options);
      CAPTURE(result.best_epoch);
      CAPTURE(result.history.size());
      CAPTURE(result.test.accuracy);
      CHECK(result.train.count == 8000);
      CHECK(result.validation.count == 1000);
      CHECK(result.test.count == 1000);
      CHECK(result.test.accuracy >= 0.97);
      CHECK(result.history.back().validation_loss < 0.3 * result.history.front().validation_loss);

      // Fresh points; the confusion matrix by hand.
      const Data fresh = ball(3000, d, 12);
      Team team(1);
      std::vector<double> v(3000);
      result.potential.evaluate(fresh.x, v.data(), {}, team);
      const FitScore found = score(result.potential, fresh.x, fresh.label, FitOptions::Loss::binary, team);
      Index counts[2][2] = {};
      for (std::size_t i = 0; i < v.size(); ++i) ++counts[fresh.label[i] > 0.5][v[i] > 0];
      for (const int truth : {0, 1}) {
        for (const int said : {0, 1}) CHECK(found.confusion[truth][said] == counts[truth][said]);
      }
      CHECK(found.accuracy >= 0.97);

      double largest = 0;
      const double least = smallest_eigenvalue(result.potential, points(300, d, 13), &largest);
      CHECK(largest > 0);
      CHECK(least >= 0);
    }
  }
}

TEST_CASE("regression of a convex function, d = 2 and 5: value and gradient in the units of the data") {
  for (const int d : {2, 5}) {
    CAPTURE(d);
    const Data data = bowl(4000, d, 21);
    FitOptions options = quick();
    options.loss = FitOptions::Loss::squared;
    const FitResult result = fit(data.x, data.label, options);
    CAPTURE(result.best_epoch);
    CAPTURE(result.test.accuracy);
    CAPTURE(result.test.loss);
    CHECK(result.test.accuracy >= 0.999);
    // A fit of a convex function by convex ones has its gradient as well: along the quietest coordinate.
    const Data at = bowl(200, d, 22);
    Team team(1);
    Matrix<double> gradient(200, d);
    result.potential.evaluate(at.x, nullptr, gradient, team);
    double off = 0, size = 0;
    for (Index i = 0; i < 200; ++i) {
      const std::vector<double> z = unit(at.x, i);
      const double share = 1 / (1 + std::exp(-2 * z[0] - z[d - 1]));
      const double exact = 50 * (z[0] + 2 * share) * 10;
      off += (gradient(i, 0) - exact) * (gradient(i, 0) - exact);
      size += exact * exact;
    }
    CHECK(std::sqrt(off / size) < 0.05);
    double largest = 0;
    const double least = smallest_eigenvalue(result.potential, points(300, d, 23), &largest);
    CHECK(least >= 0);
  }
}

TEST_CASE("the same seed gives the same bits for any number of threads; another seed or precision does not") {
  const Data data = ball(700, 2, 31);
  FitOptions options = quick();
  options.epochs = 4;
  const FitResult two = fit(data.x, data.label, options);
  options.threads = 1;
  const FitResult one = fit(data.x, data.label, options);
  CHECK(one.potential.theta == two.potential.theta);
  CHECK(one.history.back().validation_loss == two.history.back().validation_loss);
  options.batch = 700;
  const FitResult whole = fit(data.x, data.label, options);
  options.batch = std::numeric_limits<Index>::max();
  CHECK(fit(data.x, data.label, options).potential.theta == whole.potential.theta);
  options.batch = quick().batch;
  options.seed = 4;
  CHECK(fit(data.x, data.label, options).potential.theta != one.potential.theta);
  options.seed = 3;
  const FitResult exact = fit<double>(data.x, data.label, options);
  CHECK(exact.potential.theta != one.potential.theta);
  CHECK_REL(exact.history.front().validation_loss, one.history.front().validation_loss, 1e-3);
  options.device = "ref";
  const FitResult reference = fit<double>(data.x, data.label, options);
  CHECK_REL(reference.history.back().validation_loss, exact.history.back().validation_loss, 1e-9);
}

TEST_CASE("the rate falls on a plateau, training stops, and the best parameters are kept") {
  Data noise = ball(400, 2, 41);  // labels that nothing explains: the validation loss soon stops falling
  Numbers numbers(43);
  for (double& label : noise.label) label = numbers(0, 1) > 0.5;
  FitOptions options = quick();
  options.epochs = 200;
  options.patience = 3;
  options.stop = 7;
  const FitResult best = fit(noise.x, noise.label, options);
  REQUIRE(best.history.size() < 200);
  CHECK(best.history.back().rate < best.history.front().rate);
  double least = std::numeric_limits<double>::infinity(), rate = options.rate;
  int waited = 0, at = 0;
  for (const FitEpoch& epoch : best.history) {
    CHECK_REL(epoch.rate, rate, 1e-12);
    waited = epoch.validation_loss < least * (1 - 1e-4) ? 0 : waited + 1;
    if (epoch.validation_loss < least) at = epoch.epoch;
    least = std::min(least, epoch.validation_loss);
    if (waited > 0 && waited % 3 == 0) rate /= 10;
  }
  CHECK(waited == 7);
  CHECK(best.best_epoch == at);
  CHECK_REL(best.validation.loss, least, 1e-5);  // float against double

  options.keep_best = false;
  const FitResult last = fit(noise.x, noise.label, options);
  CHECK_REL(last.validation.loss, last.history.back().validation_loss, 1e-5);
  CHECK(last.validation.loss > best.validation.loss);

  options.stop = 0;
  options.epochs = 30;
  CHECK(fit(noise.x, noise.label, options).history.size() == 30);
}

// How well a network learns is not a sanitizer's question; other cases take the same paths in a fraction of the time.
TEST_CASE("a few points: plain and residual networks learn |x|^2 with the defaults, whatever the seed" *
          doctest::skip(kSanitized)) {
  for (const std::uint64_t seed : {1u, 2u, 3u}) {
    for (const bool residual : {false, true}) {
      CAPTURE(seed);
      CAPTURE(residual);
      Data data{Matrix<double>(400, 2), {}};
      const Random random(seed, RandomStream::probes);
      for (Index i = 0; i < 400; ++i) {
        for (Index c = 0; c < 2; ++c)
          data.x(i, c) = random.normals(static_cast<std::uint32_t>(c), 0, static_cast<std::uint64_t>(i))[0];
        data.label.push_back(data.x(i, 0) * data.x(i, 0) + data.x(i, 1) * data.x(i, 1));
      }
      FitOptions options;
      options.loss = FitOptions::Loss::squared;
      options.residual = residual;
      options.seed = seed;
      options.threads = 2;
      const FitResult result = fit(data.x, data.label, options);
      CHECK(result.train.accuracy >= 0.95);
      CHECK(result.test.accuracy >= 0.95);
      for (double& label : data.label) label = -label;  // concave
      if (seed == 1 && !residual) {
        try {
          CHECK(fit(data.x, data.label, options).train.accuracy > -0.02);
        } catch (const NumericalError& error) {
          CHECK(std::string(error.what()).find("no better than a constant") != std::string::npos);
        }
      }
    }
  }
}

TEST_CASE("a callback ends the training with the result so far") {
  const Data data = ball(300, 2, 51);
  int calls = 0;
  const FitResult result = fit(data.x, data.label, quick(),
                               [&](const FitEpoch& epoch) { return ++calls == epoch.epoch && calls < 3; });
  CHECK(calls == 3);
  CHECK(result.interrupted);
  CHECK(result.history.size() == 3);
  CHECK(result.test.count == 30);
}

TEST_CASE("coordinates that do not vary, and one scale for all of them") {
  Data data = ball(2000, 2, 61);
  Matrix<double> wide(2000, 3);
  for (Index i = 0; i < 2000; ++i) {
    wide(i, 0) = data.x(i, 0);
    wide(i, 1) = -5;
    wide(i, 2) = data.x(i, 1);
  }
  const FitResult result = fit(wide, data.label, quick());
  CHECK(result.test.accuracy >= 0.97);
  for (const double parameter : result.potential.theta) CHECK(std::isfinite(parameter));
  FitOptions options = quick();
  options.scaling = FitOptions::Scaling::common;
  options.epochs = 3;
  CHECK(std::isfinite(fit(wide, data.label, options).test.loss));

  // A quadratic term is learned by its factor alone.
  options = quick();
  options.loss = FitOptions::Loss::squared;
  options.quadratic_rank = 2;
  const Data round = bowl(2000, 2, 63);
  const FitResult quadratic = fit(round.x, round.label, options);
  CHECK(quadratic.potential.theta[quadratic.potential.net.alpha()] == 0);
  CHECK(quadratic.test.accuracy >= 0.999);
}

TEST_CASE("what cannot be trained is said") {
  Data data = ball(50, 2, 71);
  const auto with_label = [&](Index i, double value) {
    std::vector<double> label = data.label;
    label[static_cast<std::size_t>(i)] = value;
    return label;
  };
  CHECK_ERROR(fit(data.x, with_label(7, 0.5)), ValueError, "label 7 is 0.5; it must be 0 or 1");
  CHECK_ERROR(fit(data.x, with_label(7, -1)), ValueError, "label 7 is -1");
  CHECK_ERROR(fit(data.x, with_label(0, NAN)), ValueError, "label 0 is nan");
  CHECK_ERROR(fit(data.x, std::vector<double>(50, 1.0)), ValueError, "all 50 labels are 1");
  CHECK_ERROR(fit(data.x, std::vector<double>(50, 0.0)), ValueError, "both classes");
  CHECK_ERROR(fit(data.x, std::vector<double>(49, 0.0)), ShapeError, "49 labels for 50 points");
  Matrix<double> broken = data.x;
  broken(3, 1) = INFINITY;
  CHECK_ERROR(fit(broken, data.label), ValueError, "point 3 has the coordinate inf");
  FitOptions options = quick();
  options.loss = FitOptions::Loss::squared;
  CHECK_ERROR(fit(data.x, with_label(1, INFINITY), options), ValueError, "label 1 is inf; it must be finite");
  const auto bad = [&](auto change) {
    FitOptions other = quick();
    change(other);
    return other;
  };
  CHECK_ERROR(fit(data.x, data.label, bad([](FitOptions& o) { o.rate = 0; })), ValueError, "rate = 0");
  CHECK_ERROR(fit(data.x, data.label, bad([](FitOptions& o) { o.epochs = 0; })), ValueError, "epochs = 0");
  CHECK_ERROR(fit(data.x, data.label, bad([](FitOptions& o) { o.batch = 0; })), ValueError, "batch = 0");
  CHECK_ERROR(fit(data.x, data.label, bad([](FitOptions& o) { o.patience = 0; })), ValueError,
              "patience = 0");
  CHECK_ERROR(fit(data.x, data.label, bad([](FitOptions& o) { o.stop = -1; })), ValueError, "stop = -1");
  CHECK_ERROR(fit(data.x, data.label, bad([](FitOptions& o) { o.validation = 0; })), ValueError,
              "validation = 0");
  CHECK_ERROR(fit(data.x, data.label, bad([](FitOptions& o) { o.test = 0.95; })), ValueError, "below 1");
  CHECK_ERROR(fit(data.x, data.label, bad([](FitOptions& o) { o.hidden = {}; })), ValueError,
              "no hidden layers");
  CHECK_ERROR(fit(data.x, data.label, bad([](FitOptions& o) { o.device = "tpu"; })), ValueError, "tpu");
  CHECK_ERROR(fit(data.x, data.label, bad([](FitOptions& o) { o.rate = 1e30; })), NumericalError,
              "smaller rate");
  const Matrix<double> few(4, 2, 1.0);
  CHECK_ERROR(fit(few, std::vector<double>{0, 1, 0, 1}), ValueError, "none of them may be empty");
}

#if defined(BRENIER_TEST_COMMAND)

namespace {

/// Labelled points in files, and a name for the network.
struct FitFiles {
  Data data;
  TemporaryFolder folder;
  std::string x = (folder.path / "x.npy").string(), y = (folder.path / "y.npy").string();
  std::string net = (folder.path / "net.safetensors").string();

  explicit FitFiles(Data given) : data(std::move(given)) {
    write_npy(x, data.x.view());
    write_npy(y, std::span<const double>(data.label));
  }
};

void check_refused(const Output& output, const char* first, const char* second) {
  CHECK(output.code == 2);
  check_contains(output.err, {first, second});
}

}  // namespace

TEST_CASE("brenier fit: the files it leaves, and a flow that takes its network") {
  const FitFiles files(ball(2000, 2, 81));
  const auto& [data, folder, x, y, net] = files;
  const Output done = command({"fit", x, y, "-o", net, "--hidden", "16,16", "--residual", "--epochs", "40",
                               "--batch", "64", "--seed", "5", "--threads", "2"});
  CAPTURE(done.err);
  REQUIRE(done.code == 0);
  check_contains(done.out, {"epoch    1", "accuracy ", "predicted 1", "net.safetensors", "net.json"});
  std::ifstream in(folder.path / "net.json");
  const nlohmann::json summary = nlohmann::json::parse(in);
  CHECK(summary["status"] == "done");
  CHECK(summary["test"]["count"] == 200);
  CHECK(summary["test"]["accuracy"].get<double>() >= 0.95);
  const auto& confusion = summary["test"]["confusion"];
  CHECK(confusion[0][0].get<int>() + confusion[0][1].get<int>() + confusion[1][0].get<int>() +
            confusion[1][1].get<int>() ==
        200);
  CHECK((confusion[0][0].get<double>() + confusion[1][1].get<double>()) / 200 ==
        summary["test"]["accuracy"].get<double>());
  CHECK(summary["history"]["rate"].size() == summary["epochs"].get<std::size_t>());

  const LearnedPotential v = read_potential(net);
  CHECK(v.net.architecture().hidden == std::vector<int>{16, 16});
  double largest = 0;
  CHECK(smallest_eigenvalue(v, points(200, 2, 83), &largest) >= 0);

  put(folder.path / "flow.toml",
      "[cloud]\ndensity = \"file\"\npath = \"x.npy\"\n[[functional]]\nterm = \"learned_potential\"\n"
      "path = \"net.safetensors\"\n[flow]\ntau = 1e-4\nsteps = 2\ncertificates = false\n[network]\nhidden = "
      "[8]\n[inner]\n"
      "iterations = 40\nminibatch = 200\nrate = 1e-2\n");
  const std::string run = (folder.path / "run").string();
  const Output flow = command({"run", (folder.path / "flow.toml").string(), "--out", run, "-q"});
  CAPTURE(flow.err);
  REQUIRE(flow.code == 0);
  std::ifstream history(fs::path(run) / "history.csv");
  std::string header, line, last;
  std::getline(history, header);
  std::vector<double> potential;
  while (std::getline(history, line)) {
    std::istringstream row(line), names(header);
    std::string cell, name;
    while (std::getline(row, cell, ',') && std::getline(names, name, ',')) {
      if (name == "potential") potential.push_back(std::stod(cell));
    }
  }
  REQUIRE(potential.size() >= 2);
  CHECK(potential.back() < potential.front());
}

TEST_CASE("brenier fit --plot draws a picture of either kind") {
  const TemporaryFolder folder;
  const std::string x = (folder.path / "x.npy").string(), y = (folder.path / "y.npy").string();
  for (const bool regression : {false, true}) {
    const Data data = regression ? bowl(200, 2, 95) : ball(200, 2, 95);
    write_npy(x, data.x.view());
    write_npy(y, std::span<const double>(data.label));
    const fs::path net = folder.path / (regression ? "r.safetensors" : "c.safetensors");
    std::vector<std::string> words = {"fit", x,          y,   "-o", net.string(), "--hidden",
                                      "8",   "--epochs", "2", "-q", "--plot"};
    if (regression) words.push_back("--regression");
    const Output drawn = command(words);
    if (drawn.err.find("no Python with numpy") != std::string::npos) {
      MESSAGE("skipped: no Python with numpy and matplotlib");
      return;
    }
    CAPTURE(drawn.err);
    CHECK(drawn.code == 0);
    const fs::path picture = fs::path(net).replace_extension(".png");
    REQUIRE(fs::exists(picture));
    CHECK(fs::file_size(picture) > 10'000);
  }
}

TEST_CASE("brenier fit: regressions, quiet runs and errors") {
  const FitFiles files(bowl(300, 2, 91));
  const auto& [data, folder, x, y, net] = files;
  check_refused(command({"fit", x, y, "-o", net, "--hidden", "8"}), "label 0 is", "must be 0 or 1");
  CHECK_FALSE(fs::exists(net));
  const Output done = command({"fit", x, y, "-o", net, "--hidden", "8", "--regression", "--epochs", "3", "-q",
                               "--double", "--one-scale"});
  CHECK(done.code == 0);
  CHECK(done.out == net + " and " + (folder.path / "net.json").string() + "\n");
  std::ifstream in(folder.path / "net.json");
  const nlohmann::json summary = nlohmann::json::parse(in);
  CHECK(summary["precision"] == "double");
  CHECK(summary["test"].contains("r2"));
  CHECK_FALSE(summary["test"].contains("confusion"));
  check_refused(command({"fit", x, x, "-o", net}), "2 columns", "one number for each point");
  check_refused(
      command({"fit", x, y, "-o", (folder.path / "no" / "net.safetensors").string(), "--regression"}), "no",
      "net.safetensors");
  check_refused(command({"fit", x, y, "-o", (folder.path / "net.json").string()}), ".json",
                "NAME.safetensors");
  check_refused(command({"fit", x, y, "-o", x}), "x.npy", "one of the inputs");
  check_refused(command({"fit", x, y, "-o", net, "--regression", "--epochs", "0"}), "epochs = 0",
                "at least 1");
}

#endif
